#include "mixed-attention.h"

#include "ggml-cpp.h"
#include "ggml-impl.h"

ggml_tensor * ggml_mixed_attn(
        ggml_context * ctx,
        ggml_tensor  * q,
        ggml_tensor  * k,
        ggml_tensor  * v,
        ggml_tensor  * k_cache,
        ggml_tensor  * v_cache,
        ggml_tensor  * tokens,
        ggml_tensor  * heads,
        ggml_tensor  * counters,
        ggml_mixed_attn_params params) {
    static_assert(sizeof(params) <= GGML_MAX_OP_PARAMS, "the parameters must fit op_params");

    const int64_t n_head    = q->ne[1];
    const int64_t n_head_kv = k->ne[1];
    const int64_t n_tokens  = q->ne[2];

    GGML_ASSERT(q->type == GGML_TYPE_F32 && k->type == GGML_TYPE_F32 && v->type == GGML_TYPE_F32);
    GGML_ASSERT(ggml_is_contiguous(q) && ggml_is_contiguous(k) && ggml_is_contiguous(v));
    GGML_ASSERT(n_head % n_head_kv == 0 && v->ne[1] == n_head_kv);
    GGML_ASSERT(k->ne[2] == n_tokens && v->ne[2] == n_tokens);
    GGML_ASSERT(q->ne[3] == 1 && k->ne[3] == 1 && v->ne[3] == 1);
    GGML_ASSERT(q->ne[0] == k->ne[0] && k_cache->ne[0] == k->ne[0] && v_cache->ne[0] == v->ne[0]);
    GGML_ASSERT(ggml_is_contiguous(k_cache) && ggml_is_contiguous(v_cache));
    GGML_ASSERT(ggml_nrows(k_cache) == ggml_nrows(v_cache) && ggml_nrows(k_cache) % params.n_rows == 0);
    GGML_ASSERT(tokens->type == GGML_TYPE_I32 && tokens->ne[0] == 2 && tokens->ne[1] == n_tokens && ggml_is_contiguous(tokens));
    GGML_ASSERT(heads->type == GGML_TYPE_I64 && heads->ne[0] == 2 && heads->ne[1] == n_head_kv && ggml_is_contiguous(heads));
    GGML_ASSERT(counters->type == GGML_TYPE_I32 && counters->ne[0] == GGML_MIXED_ATTN_COUNTERS && ggml_is_contiguous(counters));
    GGML_ASSERT(params.sink >= 0 && params.recent >= 0 && params.chunk >= 1);
    // storing all tokens before any attends must not overwrite what the first one sees, unless the ring never comes round
    GGML_ASSERT(params.ring >= params.recent + params.chunk + n_tokens || params.sink + params.ring >= params.n_ctx);
    GGML_ASSERT(params.ring >= 1 && params.n_ctx >= 1);

    ggml_tensor * result = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, v->ne[0] * n_head, n_tokens);

    result->op     = GGML_OP_MIXED_ATTN;
    result->src[0] = q;
    result->src[1] = k;
    result->src[2] = v;
    result->src[3] = k_cache;
    result->src[4] = v_cache;
    result->src[5] = tokens;
    result->src[6] = heads;
    result->src[7] = counters;

    ggml_set_op_params(result, &params, sizeof(params));

    return result;
}

bool ggml_mixed_attn_supported(ggml_backend_dev_t dev, ggml_mixed_attn_shape s) {
    ggml_init_params params = { 16 * ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true };
    ggml_context_ptr ctx { ggml_init(params) };

    ggml_mixed_attn_params p = { 1.0f, 0.0f, 0, 0, 1, 64, 64, 1, 64 * s.n_head_kv };
    ggml_tensor * op = ggml_mixed_attn(ctx.get(),
            ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, s.head_size_k, s.n_head, 1),
            ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, s.head_size_k, s.n_head_kv, 1),
            ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, s.head_size_v, s.n_head_kv, 1),
            ggml_new_tensor_2d(ctx.get(), s.type_k, s.head_size_k, p.n_rows),
            ggml_new_tensor_2d(ctx.get(), s.type_v, s.head_size_v, p.n_rows),
            ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 2, 1),
            ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I64, 2, s.n_head_kv),
            ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, GGML_MIXED_ATTN_COUNTERS), p);
    return ggml_backend_dev_supports_op(dev, op);
}

const char * ggml_mixed_attn_slow_reason(ggml_backend_dev_t dev, ggml_mixed_attn_shape shape) {
    const auto reason = (ggml_mixed_attn_slow_reason_t) ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(dev), GGML_MIXED_ATTN_SLOW_REASON);
    return reason ? reason(shape) : nullptr;
}
