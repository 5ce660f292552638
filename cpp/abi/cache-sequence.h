// One of a context's sequences: which tokens it has, and how many of them the cache holds.
#pragma once

#include "llama.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace duo::abi {

// Belongs to the scheduler's thread.
class cache_sequence {
public:
    cache_sequence(llama_context * ctx, llama_seq_id id) : id(id), ctx(ctx) {}

    const llama_seq_id id;

    // From position 0 on. The first n_cached are in the cache, the others wait to be computed.
    std::vector<llama_token> tokens;
    size_t                   n_cached = 0;

    // What may come after them: computed with the last token, for the task to see how much of it is right. The cache holds it then, until it is taken back.
    std::vector<llama_token> draft;

    // Logits are wanted of the tokens from this one on.
    size_t logits_from = SIZE_MAX;

    // The logits of the last token, where they were asked for and nothing has come after it.
    std::vector<float> logits;

    bool     taken    = false; // by a task or a handle
    uint64_t used_at  = 0;     // when it was given back, in the scheduler's counting

    size_t n_pending() const { return tokens.size() - n_cached; }

    // The fewest tokens, beside none, that it can be cut to exactly.
    size_t resumable_from() const;

    // How many of a prompt's tokens, its last one excluded, it has and can go on from exactly.
    size_t n_common(const std::vector<llama_token> & prompt) const;

    // Leaves the first n tokens. False where the cache cannot be exact then, and nothing changes; none can always be left.
    bool cut(size_t n);

    // Becomes a copy of another. False, and empty, where the cache cannot copy.
    bool copy(const cache_sequence & other);

    // Makes the cache hold no more than n_cached, after a decode that did not end well.
    void recover();

    // Makes the cache hold no more than n_cached, after one with a draft.
    void take_draft_back();

    // The tokens that are to come next, n of them, have been computed, and the draft with them.
    void advance(size_t n);

private:
    llama_context * const ctx;
    bool                  went_back = false; // since something was computed

    bool copy_cells(const cache_sequence & other);
};

} // namespace duo::abi
