#include "mixed-attention.h"

#include "ggml-cpp.h"
#include "ggml-impl.h"

#include <cstring>
#include <utility>

ggml_tensor * ggml_mixed_attn(
        ggml_context * ctx,
        ggml_tensor  * q,
        ggml_tensor  * k,
        ggml_tensor  * v,
        ggml_tensor  * k_cache,
        ggml_tensor  * v_cache,
        ggml_tensor  * tokens,
        ggml_tensor  * heads,
        ggml_tensor  * sinks,
        ggml_mixed_attn_params params) {
    static_assert(sizeof(params) <= GGML_MAX_OP_PARAMS, "the parameters must fit op_params");

    const int64_t n_head    = q->ne[1];
    const int64_t n_head_kv = heads->ne[1];
    const int64_t n_tokens  = q->ne[2];

    GGML_ASSERT(q->type == GGML_TYPE_F32 && ggml_is_contiguous(q) && q->ne[3] == 1);
    GGML_ASSERT((k == nullptr) == (v == nullptr));
    for (const auto & [t, cache] : { std::pair(k, k_cache), std::pair(v, v_cache) }) {
        GGML_ASSERT(!t || (t->type == GGML_TYPE_F32 && ggml_is_contiguous(t) && t->ne[0] == cache->ne[0] && t->ne[1] == n_head_kv && t->ne[2] == n_tokens && t->ne[3] == 1));
        GGML_ASSERT(ggml_is_contiguous(cache) && ggml_nrows(cache) == ggml_nrows(k_cache) && ggml_nrows(cache) % params.n_rows == 0);
    }
    GGML_ASSERT(n_head % n_head_kv == 0 && q->ne[0] == k_cache->ne[0]);
    GGML_ASSERT(tokens->type == GGML_TYPE_I32 && tokens->ne[0] == 2 && tokens->ne[1] == n_tokens && ggml_is_contiguous(tokens));
    GGML_ASSERT(heads->type == GGML_TYPE_I32 && heads->ne[0] == 4 && ggml_is_contiguous(heads));
    GGML_ASSERT(!sinks || (sinks->type == GGML_TYPE_F32 && sinks->ne[0] == n_head && ggml_is_contiguous(sinks)));
    for (const auto & [rotation, head_size] : { std::pair(params.rotation_k, k_cache->ne[0]), std::pair(params.rotation_v, v_cache->ne[0]) }) {
        GGML_ASSERT(rotation == 0 || (rotation >= 64 && (rotation & (rotation - 1)) == 0 && head_size % rotation == 0));
    }
    GGML_ASSERT(params.sink >= 0 && params.chunk >= 1 && params.n_ctx >= 1);

    params.has_kv    = k != nullptr;
    params.has_sinks = sinks != nullptr;

    ggml_tensor * result = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, v_cache->ne[0] * n_head, n_tokens);

    result->op = GGML_OP_MIXED_ATTN;
    int n = 0;
    for (ggml_tensor * t : { q, k_cache, v_cache, tokens, heads, k, v, sinks }) {
        if (t) {
            result->src[n++] = t;
        }
    }
    ggml_set_op_params(result, &params, sizeof(params));

    return result;
}

ggml_mixed_attn_params ggml_mixed_attn_get_params(const ggml_tensor * dst) {
    ggml_mixed_attn_params p;
    memcpy(&p, dst->op_params, sizeof(p));
    return p;
}

ggml_mixed_attn_sources ggml_mixed_attn_get_sources(const ggml_tensor * dst) {
    const ggml_mixed_attn_params p = ggml_mixed_attn_get_params(dst);
    ggml_tensor * const * s = dst->src;
    const int n = p.has_kv ? 7 : 5; // where the sinks are
    return { s[0], s[1], s[2], s[3], s[4], p.has_kv ? s[5] : nullptr, p.has_kv ? s[6] : nullptr, p.has_sinks ? s[n] : nullptr };
}

bool ggml_mixed_attn_supported(ggml_backend_dev_t dev, ggml_mixed_attn_shape s) {
    ggml_init_params params = { 16 * ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true };
    ggml_context_ptr ctx { ggml_init(params) };

    ggml_mixed_attn_params p = { 1.0f, 0.0f, 0, 1, 64, 1, 64 * s.n_head_kv, 0, 0, 0, 0, 0 };
    ggml_tensor * op = ggml_mixed_attn(ctx.get(),
            ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, s.head_size_k, s.n_head, 1),
            ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, s.head_size_k, s.n_head_kv, 1),
            ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, s.head_size_v, s.n_head_kv, 1),
            ggml_new_tensor_2d(ctx.get(), s.type_k, s.head_size_k, p.n_rows),
            ggml_new_tensor_2d(ctx.get(), s.type_v, s.head_size_v, p.n_rows),
            ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 2, 1),
            ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 4, s.n_head_kv), nullptr, p);
    return ggml_backend_dev_supports_op(dev, op);
}

const char * ggml_mixed_attn_slow_reason(ggml_backend_dev_t dev, ggml_mixed_attn_shape shape) {
    const auto reason = (ggml_mixed_attn_slow_reason_t) ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(dev), GGML_MIXED_ATTN_SLOW_REASON);
    return reason ? reason(shape) : nullptr;
}
