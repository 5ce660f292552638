// What mixed heads can do for a model and what they cost, answered without allocating anything.
#pragma once

#include "llama.h"

#include <cstdint>
#include <string>
#include <vector>

// Bytes of the K and V rows, all layers and sequences together.
struct duo_kv_size {
    uint64_t retrieval_bytes   = 0;  // rows of heads that keep the whole cache
    uint64_t streaming_bytes   = 0;  // rows of heads that keep sinks and a ring
    uint64_t total_bytes       = 0;  // what is allocated: the sum of the two
    uint64_t full_bytes        = 0;  // what stock's cache of the same context takes
    uint32_t n_retrieval       = 0;  // KV heads over all layers
    uint32_t n_streaming       = 0;
    uint32_t n_ctx_seq         = 0;  // cells of a retrieval head, one sequence
    uint32_t n_cells_streaming = 0;  // cells of a streaming head, one sequence: sinks + ring (0 where there is none)
    uint32_t n_seq             = 0;  // sequences
    int32_t  sink              = 0;
    int32_t  recent            = 0;
    int32_t  chunk             = 0;
};

// Types that the cache's rows may have: those of llama.cpp's -ctk and -ctv.
const std::vector<ggml_type> & duo_cache_types();

// Why this model with these parameters cannot have mixed heads, in words for a user, or "" if it can. Does not look at params.duo.
std::string duo_unsupported(const llama_model * model, const llama_context_params & params);

// The sizes a context with these parameters would have. params.duo.enabled = false gives stock's. Throws std::runtime_error with what
// llama_init_from_model would say: unsupported models, bad gates, bad sizes.
duo_kv_size duo_kv_size_for(const llama_model * model, const llama_context_params & params);

// The sizes of a context as allocated; of a stock context all heads count as retrieval heads.
duo_kv_size duo_kv_size_of(const llama_context * ctx);
