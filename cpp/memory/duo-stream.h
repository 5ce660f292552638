// What a sequence's stream of cells holds: numbers only, no tensors.
//
// A token's ordinal determines its cell (attention/visibility.h), so two numbers say what is there: how many tokens, and for each ring the first that nothing
// has overwritten yet. Where llama.cpp speaks of positions, duo-positions.h tells which tokens have them.
#pragma once

#include "duo-positions.h"

#include "llama.h"

#include <cstdint>
#include <vector>

// The cells of a head that streams: its sinks stay, later tokens go round.
struct duo_ring {
    int32_t sink;
    int32_t recent;
    int32_t chunk;
    int32_t n_ring; // cells after the sinks
};

// Ids of branches. They start from a random number, because states travel between processes.
class duo_branch_ids {
public:
    duo_branch_ids();

    uint64_t next() { return last++; }

private:
    uint64_t last;
};

// Tokens are told by their ordinals, from 0. Everything here takes the rings of the cache, all that differ; none: no head streams.
class duo_stream {
public:
    using rings = std::vector<duo_ring>;

    // Tokens from begin on, to the next branch's, were decoded in one go. Copies and saved states share branches, and what is decoded after does not: so
    // a branch and an ordinal together say what the rows up to there hold.
    struct branch {
        uint64_t id;
        int64_t  begin;
    };

    int64_t size() const { return positions.size(); }

    const duo_positions & get_positions() const { return positions; }

    llama_pos pos_max() const { return positions.last().pos; } // -1: empty

    // Whether the next token can be the n'th and see all that it should. Any sequence can be begun anew.
    bool can_resume(const rings & rings, int64_t n) const;

    // The position before the first token from which on all can be resumed, but not below 0: what llama.cpp compares to decide whether a prompt is processed
    // again. -1: empty.
    llama_pos pos_min(const rings & rings) const;

    // The next token is stored.
    void append(const rings & rings, duo_branch_ids & ids, const duo_positions::token & next);

    // Leaves the first n tokens.
    void truncate(const rings & rings, int64_t n);

    // A copy of all of it, which goes on by itself.
    duo_stream copy() const;

    // How many tokens are the same as in another stream, or in one that a state was made of.
    int64_t n_common(const duo_stream & other) const;

    // --- states ---

    // What a state keeps of this stream, so that its last n_back tokens can be taken back, or as many as can be now.
    duo_stream to_save(const rings & rings, int64_t n_back) const;

    // The first token after the sinks that a state of this stream (by to_save) holds of ring i; one behind its last where it holds none.
    int64_t saved_from(const rings & rings, size_t i) const;

    // What this stream becomes where the rings of a saved one are put in its place: the tokens that both have in common, resumable as the saved one is.
    // Empty where that is none, or cannot be resumed.
    duo_stream with_rings_of(const rings & rings, const duo_stream & saved) const;

    void append_to(std::vector<uint8_t> & bytes) const;

    // A saved stream in these rings, which may be shorter than those that it was saved from.
    duo_stream in(const rings & rings) const;

    // Throws std::runtime_error where the bytes cannot be a stream. Moves at behind it.
    static duo_stream from_bytes(const rings & rings, const std::vector<uint8_t> & bytes, size_t & at);

    // Cells of ring i and its sinks, from the first on, that hold something of this stream.
    int64_t n_cells_used(const rings & rings, size_t i) const;

private:
    duo_positions positions;

    std::vector<int64_t> kept; // [rings] the first token after the sinks that is still there, with all that follow; empty: nothing was overwritten

    std::vector<branch> branches;

    bool new_branch = false; // what comes next is no longer the last branch's

    // The last token of the last branch that copies or states share. Tokens after it can be taken back and decoded again within the branch: so
    // branches do not grow with every rollback, of which speculative decoding has one a step.
    mutable int64_t shared = -1;

    int64_t last() const { return size() - 1; }

    void share() const { shared = last(); }

    void cut(const rings & rings, int64_t n);

    int64_t first_kept(const rings & rings, size_t i) const { return kept.empty() ? rings[i].sink : kept[i]; }

    // The first token from which on all can be resumed.
    int64_t first_resumable(const rings & rings) const;
};
