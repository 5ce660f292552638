// From ggml's tensors to the kernels' plain pointers.
#include "ggml-mixed-attn.cuh"

#include "mixed-attention-cuda.h"

#include <map>
#include <mutex>
#include <utility>

static_assert(GGML_MIXED_ATTN_ALL == duo::cuda::SEES_ALL && sizeof(ggml_mixed_attn_head) == sizeof(duo::cuda::Head), "heads go to the kernels as they are");

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
    const ggml_tensor * k_cache = ggml_mixed_attn_get_sources(dst).k_cache, * v_cache = ggml_mixed_attn_get_sources(dst).v_cache;
    const int32_t rotation_v = ggml_mixed_attn_get_params(dst).rotation_v;
    CacheType type;
    return ggml_cuda_info().devices[device].cc >= GGML_CUDA_CC_AMPERE && GGML_CUDA_CC_IS_NVIDIA(ggml_cuda_info().devices[device].cc) &&
           cache_type(k_cache->type, type) && cache_type(v_cache->type, type) && k_cache->ne[0] <= duo::cuda::MAX_HEAD_SIZE && v_cache->ne[0] <= duo::cuda::MAX_HEAD_SIZE &&
           (rotation_v == 0 || (rotation_v == duo::cuda::VALUE_ROTATION && ggml_is_quantized(v_cache->type)));
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
    const ggml_mixed_attn_sources s = ggml_mixed_attn_get_sources(dst);
    return layer_params({ s.k_cache->ne[0], s.v_cache->ne[0], s.q->ne[1], s.heads->ne[1], s.k_cache->type, s.v_cache->type });
}

const char * ggml_cuda_mixed_attn_slow_reason(ggml_mixed_attn_shape shape) {
    return duo::cuda::slow_reason(layer_params(shape));
}

// The result's bytes, up to where the scratch begins.
static size_t scratch_offset(const ggml_tensor * dst) {
    return GGML_PAD(ggml_nbytes(dst), 128);
}

// The same, up to where rotated queries begin.
static size_t queries_offset(int device, const ggml_tensor * dst) {
    return GGML_PAD(scratch_offset(dst) + duo::cuda::attention_workspace(layer_params(dst), ggml_cuda_info().devices[device].nsm), 128);
}

size_t ggml_cuda_mixed_attn_get_alloc_size(int device, const ggml_tensor * dst) {
    return queries_offset(device, dst) + (ggml_mixed_attn_get_params(dst).rotation_k != 0 ? ggml_nbytes(ggml_mixed_attn_get_sources(dst).q) : 0);
}

// Counters of a stream's launches: zero at first, and every launch leaves zeros. They live as long as the process, 16 KB each.
static int32_t * stream_counters(int device, cudaStream_t stream) {
    static std::mutex mutex;
    static std::map<std::pair<int, cudaStream_t>, int32_t *> all;
    std::lock_guard lock(mutex);
    int32_t *& counters = all[{ device, stream }];
    if (!counters) {
        CUDA_CHECK(cudaMalloc(&counters, duo::cuda::N_COUNTERS * sizeof(int32_t)));
        CUDA_CHECK(cudaMemsetAsync(counters, 0, duo::cuda::N_COUNTERS * sizeof(int32_t), stream));
    }
    return counters;
}

void ggml_cuda_mixed_attn(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    const ggml_mixed_attn_params  p = ggml_mixed_attn_get_params(dst);
    const ggml_mixed_attn_sources s = ggml_mixed_attn_get_sources(dst);

    duo::cuda::AttentionParams attention = layer_params(dst);
    duo::cuda::Layout &        layout    = attention.layout;
    layout.tokens   = (const int32_t *) s.tokens->data;
    layout.heads    = (const duo::cuda::Head *) s.heads->data;
    layout.n_rows   = p.n_rows;
    layout.n_tokens = int32_t(s.q->ne[2]);
    layout.sink     = p.sink;
    layout.chunk    = p.chunk;

    float * const q_rotated = (float *) ((char *) dst->data + queries_offset(ctx.device, dst));
    if (s.k || p.rotation_k != 0) {
        duo::cuda::StoreParams store = {};
        store.layout      = layout;
        store.k           = s.k ? (const float *) s.k->data : nullptr;
        store.v           = s.v ? (const float *) s.v->data : nullptr;
        store.q           = (const float *) s.q->data;
        store.q_rotated   = q_rotated;
        store.n_head      = attention.n_head;
        store.rotation_k  = p.rotation_k;
        store.rotation_v  = p.rotation_v;
        store.k_cache     = s.k_cache->data;
        store.v_cache     = s.v_cache->data;
        store.head_size_k = attention.head_size_k;
        store.head_size_v = attention.head_size_v;
        store.type_k      = attention.type_k;
        store.type_v      = attention.type_v;
        CUDA_CHECK(duo::cuda::store(store, ctx.stream()));
    }

    attention.q              = p.rotation_k != 0 ? q_rotated : (const float *) s.q->data;
    attention.k_cache        = s.k_cache->data;
    attention.v_cache        = s.v_cache->data;
    attention.sinks          = s.sinks ? (const float *) s.sinks->data : nullptr;
    attention.dst            = (float *) dst->data;
    attention.partials       = (float *) ((char *) dst->data + scratch_offset(dst));
    attention.counters       = stream_counters(ctx.device, ctx.stream());
    attention.max_seq_tokens = p.max_seq_tokens;
    attention.scale          = p.scale;
    attention.softcap        = p.softcap;
    attention.rotation_v     = p.rotation_v;
    CUDA_CHECK(duo::cuda::attention(attention, ctx.stream()));
}
