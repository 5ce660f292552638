// From ggml's tensors to the kernels' plain pointers.
#include "ggml-mixed-attn.cuh"

#include "generic.cuh"
#include "mixed-attention-cuda.h"
#include "mixed-attention.h"

#include <cstring>

static_assert(GGML_MIXED_ATTN_COUNTERS == duo::cuda::N_COUNTERS, "the cache holds the kernels' counters");

static_assert(GGML_MIXED_ATTN_HEAD_RETRIEVAL == int(duo::cuda::HeadKind::retrieval) && GGML_MIXED_ATTN_HEAD_STREAMING == int(duo::cuda::HeadKind::streaming) &&
              GGML_MIXED_ATTN_HEAD_WINDOWED == int(duo::cuda::HeadKind::windowed), "head kinds go to the kernels as they are");

// False for a cache type that the kernels do not read.
static bool cache_type(ggml_type type, duo::cuda::CacheType & out) {
    switch (type) {
        case GGML_TYPE_F32:  out = duo::cuda::CacheType::f32;  return true;
        case GGML_TYPE_F16:  out = duo::cuda::CacheType::f16;  return true;
        case GGML_TYPE_BF16: out = duo::cuda::CacheType::bf16; return true;
        case GGML_TYPE_Q4_0: out = duo::cuda::CacheType::q4_0; return true;
        case GGML_TYPE_Q4_1: out = duo::cuda::CacheType::q4_1; return true;
        case GGML_TYPE_Q5_0: out = duo::cuda::CacheType::q5_0; return true;
        case GGML_TYPE_Q5_1: out = duo::cuda::CacheType::q5_1; return true;
        case GGML_TYPE_Q8_0: out = duo::cuda::CacheType::q8_0; return true;
        case GGML_TYPE_IQ4_NL: out = duo::cuda::CacheType::iq4_nl; return true;
        default:             return false;
    }
}

bool ggml_cuda_mixed_attn_supported(int device, const ggml_tensor * dst) {
    duo::cuda::CacheType type;
    return ggml_cuda_info().devices[device].cc >= GGML_CUDA_CC_AMPERE && GGML_CUDA_CC_IS_NVIDIA(ggml_cuda_info().devices[device].cc) &&
           cache_type(dst->src[3]->type, type) && cache_type(dst->src[4]->type, type) &&
           dst->src[3]->ne[0] <= duo::cuda::GENERIC_MAX_SIZE && dst->src[4]->ne[0] <= duo::cuda::GENERIC_MAX_SIZE;
}

void ggml_cuda_mixed_attn(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    const ggml_tensor * q        = dst->src[0];
    const ggml_tensor * k        = dst->src[1];
    const ggml_tensor * v        = dst->src[2];
    const ggml_tensor * k_cache  = dst->src[3];
    const ggml_tensor * v_cache  = dst->src[4];
    const ggml_tensor * tokens   = dst->src[5];
    const ggml_tensor * heads    = dst->src[6];
    const ggml_tensor * counters = dst->src[7];

    ggml_mixed_attn_params p;
    memcpy(&p, dst->op_params, sizeof(p));

    duo::cuda::CacheType type_k, type_v;
    GGML_ASSERT(cache_type(k_cache->type, type_k) && cache_type(v_cache->type, type_v));

    duo::cuda::Layout layout = {};
    layout.tokens    = (const int32_t *) tokens->data;
    layout.heads     = (const int64_t *) heads->data;
    layout.n_rows    = p.n_rows;
    layout.n_tokens  = int32_t(q->ne[2]);
    layout.n_head_kv = int32_t(k->ne[1]);
    layout.sink      = p.sink;
    layout.recent    = p.recent;
    layout.chunk     = p.chunk;
    layout.ring      = p.ring;

    duo::cuda::StoreParams store = {};
    store.layout      = layout;
    store.k           = (const float *) k->data;
    store.v           = (const float *) v->data;
    store.k_cache     = k_cache->data;
    store.v_cache     = v_cache->data;
    store.head_size_k = int32_t(k->ne[0]);
    store.head_size_v = int32_t(v->ne[0]);
    store.type_k      = type_k;
    store.type_v      = type_v;
    CUDA_CHECK(duo::cuda::store(store, ctx.stream()));

    duo::cuda::AttentionParams attention = {};
    attention.layout         = layout;
    attention.q              = (const float *) q->data;
    attention.k_cache        = k_cache->data;
    attention.v_cache        = v_cache->data;
    attention.dst            = (float *) dst->data;
    attention.counters       = (int32_t *) counters->data;
    attention.n_head         = int32_t(q->ne[1]);
    attention.head_size_k    = store.head_size_k;
    attention.head_size_v    = store.head_size_v;
    attention.max_seq_tokens = p.max_seq_tokens;
    attention.type_k         = type_k;
    attention.type_v         = type_v;
    attention.scale          = p.scale;
    attention.softcap        = p.softcap;

    ggml_cuda_pool_alloc<char> partials(ctx.pool(), duo::cuda::attention_workspace(attention));
    attention.partials = (float *) partials.get();
    CUDA_CHECK(duo::cuda::attention(attention, ctx.stream()));
}
