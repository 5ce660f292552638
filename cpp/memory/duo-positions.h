// The positions of a sequence's tokens, by their order of arrival.
//
// Which token of its sequence one is, its ordinal, decides where its rows are kept and what it sees. M-RoPE's positions do not tell it: an image's tokens have
// one position in common, beside which each has a row and a column, and the text behind it begins as many positions later as the image is high or wide.
#pragma once

#include "llama.h"

#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

class duo_positions {
public:
    // Position, row and column, in the order by which llama.cpp's mask has tokens see each other. Text has its position for all three.
    struct token {
        llama_pos pos, y, x;

        bool is_text() const { return y == pos && x == pos; }
        bool is_cut()  const { return y == cut; } // the last token that is left of an image

        static constexpr llama_pos cut = std::numeric_limits<llama_pos>::max();

        friend bool operator<(const token & a, const token & b) { return std::tie(a.pos, a.y, a.x) < std::tie(b.pos, b.y, b.x); }
    };

    int64_t size() const { return n; }

    // -1, all of it: there is none.
    token last() const;

    llama_pos at(int64_t i) const;

    // How many tokens have positions before this one.
    int64_t n_before(llama_pos pos) const;

    // How many have the last position.
    int64_t n_at_last() const;

    // Only what comes behind the last token: so to arrive later and to be seen by nothing earlier are the same.
    void append(const token & next);

    // Leaves the first n_left.
    void truncate(int64_t n_left);

    // --- states ---

    int32_t n_runs() const { return int32_t(runs.size()); }

    void append_to(std::vector<uint8_t> & bytes) const;

    // The positions of n tokens from the bytes of n_runs runs; false where these cannot be.
    bool read(int64_t n, const uint8_t * bytes, int32_t n_runs);

    static constexpr size_t run_bytes = 24;

private:
    // Text, whose positions go up one by one, or an image, whose tokens have the same.
    struct run {
        int64_t   begin; // the ordinal of its first token
        llama_pos pos;   // of its first token
        int32_t   image; // 1: an image
        llama_pos y, x;  // of an image's last token
    };
    static_assert(sizeof(run) == run_bytes);

    int64_t end_of(size_t i) const { return i + 1 < runs.size() ? runs[i + 1].begin : n; }

    int64_t n = 0;

    std::vector<run> runs; // before the first, positions are ordinals: text alone has none
};
