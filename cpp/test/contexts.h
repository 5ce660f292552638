// Contexts to compare, and how far their logits are apart.
#pragma once

#include "llama.h"

#include <cmath>
#include <memory>
#include <vector>

using context_ptr = std::shared_ptr<llama_context>;

// The oracle: stock without flash attention, with which it would round K and V to f16 and sum V in f16.
inline llama_context_params stock_params(ggml_type type_kv, uint32_t n_ctx) {
    llama_context_params p = llama_context_default_params();
    p.n_ctx           = n_ctx;
    p.n_batch         = n_ctx;
    p.n_ubatch        = 512;
    p.n_threads       = 2;
    p.n_threads_batch = 2;
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    p.type_k          = type_kv;
    p.type_v          = type_kv;
    return p;
}

// gates: as in llama_duo_params, and alive until the context is made.
inline llama_context_params duo_params(ggml_type type_kv, uint32_t n_ctx, float sparsity, const char * gates = nullptr) {
    llama_context_params p = stock_params(type_kv, n_ctx);
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_AUTO;
    p.duo.enabled     = true;
    p.duo.gates       = gates;
    p.duo.sparsity    = sparsity;
    return p;
}

// Null where llama.cpp refuses.
inline context_ptr make_context(llama_model * model, const llama_context_params & params) {
    return context_ptr(llama_init_from_model(model, params), llama_free);
}

// ||a - b|| / ||b||
inline double relative(const float * a, const float * b, size_t n) {
    double diff = 0.0, norm = 0.0;
    for (size_t i = 0; i < n; ++i) {
        diff += double(a[i] - b[i]) * (a[i] - b[i]);
        norm += double(b[i]) * b[i];
    }
    return std::sqrt(diff / norm);
}

// NaN where the sizes differ, which no bar lets pass.
inline double relative(const std::vector<float> & a, const std::vector<float> & b) {
    return a.size() == b.size() ? relative(a.data(), b.data(), a.size()) : NAN;
}
