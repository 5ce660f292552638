// From ggml's tensors to the kernels' plain pointers.
#include "ggml-mixed-attn.cuh"

#include "mixed-attention-cuda.h"

#include <cstring>

static_assert(GGML_MIXED_ATTN_COUNTERS == duo::cuda::N_COUNTERS, "the cache holds the kernels' counters");

static_assert(GGML_MIXED_ATTN_HEAD_RETRIEVAL == int(duo::cuda::HeadKind::retrieval) && GGML_MIXED_ATTN_HEAD_STREAMING == int(duo::cuda::HeadKind::streaming) &&
              GGML_MIXED_ATTN_HEAD_WINDOWED == int(duo::cuda::HeadKind::windowed), "head kinds go to the kernels as they are");

using duo::cuda::BLOCK_BYTES, duo::cuda::BLOCK_VALUES, duo::cuda::CacheType;

template <CacheType TYPE, typename Block>
constexpr bool is_block = BLOCK_BYTES<TYPE> == sizeof(Block);

static_assert(BLOCK_VALUES == QK4_0 && BLOCK_VALUES == QK4_1 && BLOCK_VALUES == QK5_0 && BLOCK_VALUES == QK5_1 && BLOCK_VALUES == QK8_0 && BLOCK_VALUES == QK4_NL &&
              is_block<CacheType::q4_0, block_q4_0> && is_block<CacheType::q4_1, block_q4_1> && is_block<CacheType::q5_0, block_q5_0> &&
              is_block<CacheType::q5_1, block_q5_1> && is_block<CacheType::q8_0, block_q8_0> && is_block<CacheType::iq4_nl, block_iq4_nl>,
              "the kernels read and write ggml's blocks");

// False for a cache type that the kernels do not read.
static bool cache_type(ggml_type type, CacheType & out) {
    switch (type) {
        case GGML_TYPE_F32:  out = CacheType::f32;  return true;
        case GGML_TYPE_F16:  out = CacheType::f16;  return true;
        case GGML_TYPE_BF16: out = CacheType::bf16; return true;
        case GGML_TYPE_Q4_0: out = CacheType::q4_0; return true;
        case GGML_TYPE_Q4_1: out = CacheType::q4_1; return true;
        case GGML_TYPE_Q5_0: out = CacheType::q5_0; return true;
        case GGML_TYPE_Q5_1: out = CacheType::q5_1; return true;
        case GGML_TYPE_Q8_0: out = CacheType::q8_0; return true;
        case GGML_TYPE_IQ4_NL: out = CacheType::iq4_nl; return true;
        default:             return false;
    }
}

bool ggml_cuda_mixed_attn_supported(int device, const ggml_tensor * dst) {
    CacheType type;
    return ggml_cuda_info().devices[device].cc >= GGML_CUDA_CC_AMPERE && GGML_CUDA_CC_IS_NVIDIA(ggml_cuda_info().devices[device].cc) &&
           cache_type(dst->src[3]->type, type) && cache_type(dst->src[4]->type, type) &&
           dst->src[3]->ne[0] <= duo::cuda::MAX_HEAD_SIZE && dst->src[4]->ne[0] <= duo::cuda::MAX_HEAD_SIZE;
}

// What decides which kernels a layer takes.
static duo::cuda::AttentionParams layer_params(const ggml_mixed_attn_shape & s) {
    duo::cuda::AttentionParams params = {};
    params.layout.n_head_kv = int32_t(s.n_head_kv);
    params.n_head           = int32_t(s.n_head);
    params.head_size_k      = int32_t(s.head_size_k);
    params.head_size_v      = int32_t(s.head_size_v);
    GGML_ASSERT(cache_type(s.type_k, params.type_k) && cache_type(s.type_v, params.type_v));
    return params;
}

static duo::cuda::AttentionParams layer_params(const ggml_tensor * dst) {
    const ggml_tensor * k_cache = dst->src[3], * v_cache = dst->src[4];
    return layer_params({ k_cache->ne[0], v_cache->ne[0], dst->src[0]->ne[1], dst->src[1]->ne[1], k_cache->type, v_cache->type });
}

const char * ggml_cuda_mixed_attn_slow_reason(ggml_mixed_attn_shape shape) {
    return duo::cuda::slow_reason(layer_params(shape));
}

// The result's bytes, up to where the scratch begins.
static size_t scratch_offset(const ggml_tensor * dst) {
    return GGML_PAD(ggml_nbytes(dst), 128);
}

size_t ggml_cuda_mixed_attn_get_alloc_size(int device, const ggml_tensor * dst) {
    return scratch_offset(dst) + duo::cuda::attention_workspace(layer_params(dst), ggml_cuda_info().devices[device].nsm);
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

    duo::cuda::AttentionParams attention = layer_params(dst);
    duo::cuda::Layout &        layout    = attention.layout;
    layout.tokens    = (const int32_t *) tokens->data;
    layout.heads     = (const int64_t *) heads->data;
    layout.n_rows    = p.n_rows;
    layout.n_tokens  = int32_t(q->ne[2]);
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
    store.head_size_k = attention.head_size_k;
    store.head_size_v = attention.head_size_v;
    store.type_k      = attention.type_k;
    store.type_v      = attention.type_v;
    CUDA_CHECK(duo::cuda::store(store, ctx.stream()));

    attention.q              = (const float *) q->data;
    attention.k_cache        = k_cache->data;
    attention.v_cache        = v_cache->data;
    attention.dst            = (float *) dst->data;
    attention.partials       = (float *) ((char *) dst->data + scratch_offset(dst));
    attention.counters       = (int32_t *) counters->data;
    attention.max_seq_tokens = p.max_seq_tokens;
    attention.scale          = p.scale;
    attention.softcap        = p.softcap;
    CUDA_CHECK(duo::cuda::attention(attention, ctx.stream()));
}
