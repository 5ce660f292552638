#include "cache-sequence.h"

#include <algorithm>

namespace duo::abi {

size_t cache_sequence::resumable_from() const {
    // a cache with rings goes on exactly only after seq_pos_min; stock's keep everything here, for sliding windows are full-size by default
    const llama_pos pos_min = llama_memory_seq_pos_min(llama_get_memory(ctx), id);
    return pos_min <= 0 ? 0 : size_t(pos_min) + 1;
}

size_t cache_sequence::n_common(const std::vector<llama_token> & prompt) const {
    const size_t end = std::min(n_cached, prompt.empty() ? 0 : prompt.size() - 1);
    const size_t n   = size_t(std::mismatch(tokens.begin(), tokens.begin() + int64_t(end), prompt.begin()).first - tokens.begin());
    return n < resumable_from() ? 0 : n;
}

bool cache_sequence::cut(size_t n) {
    if (n == tokens.size()) {
        return true;
    }
    if (n < n_cached) {
        llama_memory_t mem = llama_get_memory(ctx);
        if (n == 0) {
            llama_memory_seq_rm(mem, id, -1, -1); // a whole sequence can always be removed
        } else if (n < resumable_from() || !llama_memory_seq_rm(mem, id, llama_pos(n), -1)) {
            return false;
        }
        n_cached = n;
    }
    tokens.resize(n);
    logits.clear();
    return true;
}

// A recurrent state goes back with the next token that is computed. llama.cpp copies the state that is there until then, and saves the one that it will be.
bool cache_sequence::copy_cells(const cache_sequence & other) {
    llama_memory_t      mem = llama_get_memory(ctx);
    const llama_model * m   = llama_get_model(ctx);
    if (other.went_back && (llama_model_is_recurrent(m) || llama_model_is_hybrid(m))) {
        std::vector<uint8_t> state(llama_state_seq_get_size(ctx, other.id));
        return llama_state_seq_get_data(ctx, state.data(), state.size(), other.id) == state.size() && llama_state_seq_set_data(ctx, state.data(), state.size(), id) > 0;
    }
    llama_memory_seq_cp(mem, other.id, id, -1, -1);
    return llama_memory_seq_pos_max(mem, id) == llama_memory_seq_pos_max(mem, other.id);
}

bool cache_sequence::copy(const cache_sequence & other) {
    cut(0);
    if (other.n_cached > 0 && !copy_cells(other)) {
        llama_memory_seq_rm(llama_get_memory(ctx), id, -1, -1);
        return false;
    }
    tokens    = other.tokens;
    n_cached  = other.n_cached;
    logits    = other.logits;
    went_back = false;
    return true;
}

void cache_sequence::recover() {
    draft.clear();
    llama_memory_t mem = llama_get_memory(ctx);
    if (llama_memory_seq_pos_max(mem, id) + 1 != llama_pos(n_cached) &&
            (n_cached == 0 || n_cached < resumable_from() || !llama_memory_seq_rm(mem, id, llama_pos(n_cached), -1))) {
        llama_memory_seq_rm(mem, id, -1, -1);
        n_cached = 0;
    }
}

void cache_sequence::take_draft_back() {
    if (draft.empty()) {
        return;
    }
    llama_memory_t mem = llama_get_memory(ctx);
    went_back = llama_memory_seq_pos_max(mem, id) + 1 != llama_pos(n_cached) && llama_memory_seq_rm(mem, id, llama_pos(n_cached), -1);
    recover(); // where that was refused
}

void cache_sequence::advance(size_t n) {
    n_cached += n;
    logits.clear();
    went_back = false;
}

} // namespace duo::abi
