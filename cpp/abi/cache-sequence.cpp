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

bool cache_sequence::copy(const cache_sequence & other) {
    cut(0);
    if (other.n_cached > 0) {
        llama_memory_t mem = llama_get_memory(ctx);
        llama_memory_seq_cp(mem, other.id, id, -1, -1);
        if (llama_memory_seq_pos_max(mem, id) != llama_memory_seq_pos_max(mem, other.id)) {
            llama_memory_seq_rm(mem, id, -1, -1);
            return false;
        }
    }
    tokens   = other.tokens;
    n_cached = other.n_cached;
    logits   = other.logits;
    return true;
}

void cache_sequence::recover() {
    llama_memory_t mem = llama_get_memory(ctx);
    if (llama_memory_seq_pos_max(mem, id) + 1 != llama_pos(n_cached) &&
            (n_cached == 0 || n_cached < resumable_from() || !llama_memory_seq_rm(mem, id, llama_pos(n_cached), -1))) {
        llama_memory_seq_rm(mem, id, -1, -1);
        n_cached = 0;
    }
}

} // namespace duo::abi
