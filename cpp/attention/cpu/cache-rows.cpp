#include "cache-rows.h"

#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"
#include "simd-mappings.h"

#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"

#include <cstring>

#if defined(__AVX2__)
#    include <immintrin.h>
#elif defined(__ARM_NEON)
#    include <arm_neon.h>
#endif

namespace duo {

// ggml's own dequantisation is compiled for any machine. Here it is compiled for the one at hand, with the conversions written out: compilers make
// scalar code of loops over bytes.

typedef int8_t  i8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));

// dst[i] = d * q[i]
static void store_scaled(float * dst, float d, i8x16 q) {
#if defined(__AVX512F__)
    _mm512_storeu_ps(dst, _mm512_mul_ps(_mm512_set1_ps(d), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i) q))));
#elif defined(__AVX2__)
    const __m256 scale = _mm256_set1_ps(d);
    _mm256_storeu_ps(dst,     _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32((__m128i) q))));
    _mm256_storeu_ps(dst + 8, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64((__m128i) q, (__m128i) q)))));
#elif defined(__ARM_NEON)
    const int16x8_t half[2] = { vmovl_s8(vget_low_s8((int8x16_t) q)), vmovl_s8(vget_high_s8((int8x16_t) q)) };
    for (int i = 0; i < 2; ++i) {
        vst1q_f32(dst + 8 * i,     vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(half[i]))), d));
        vst1q_f32(dst + 8 * i + 4, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(half[i]))), d));
    }
#else
    for (int i = 0; i < 16; ++i) {
        dst[i] = d * q[i];
    }
#endif
}

static void load_q8_0(const block_q8_0 * src, float * dst, int64_t n) {
    for (int64_t b = 0; b < n / QK8_0; ++b, dst += QK8_0) {
        const float d = GGML_CPU_FP16_TO_FP32(src[b].d);
        i8x16 q[2];
        memcpy(q, src[b].qs, sizeof(q));
        store_scaled(dst,      d, q[0]);
        store_scaled(dst + 16, d, q[1]);
    }
}

static void load_q4_0(const block_q4_0 * src, float * dst, int64_t n) {
    for (int64_t b = 0; b < n / QK4_0; ++b, dst += QK4_0) {
        const float d = GGML_CPU_FP16_TO_FP32(src[b].d);
        u8x16 q; // low halves are the block's first 16 values, high halves the others
        memcpy(&q, src[b].qs, sizeof(q));
        store_scaled(dst,      d, (i8x16) (q & 0x0f) - 8);
        store_scaled(dst + 16, d, (i8x16) (q >> 4) - 8);
    }
}

static void load_row(ggml_type type, const void * src, float * dst, int64_t n) {
    switch (type) {
        case GGML_TYPE_F32:  memcpy(dst, src, n * sizeof(float)); break;
        case GGML_TYPE_F16:  ggml_cpu_fp16_to_fp32((const ggml_fp16_t *) src, dst, n); break;
        case GGML_TYPE_BF16: ggml_cpu_bf16_to_fp32((const ggml_bf16_t *) src, dst, n); break;
        case GGML_TYPE_Q8_0: load_q8_0((const block_q8_0 *) src, dst, n); break;
        case GGML_TYPE_Q4_0: load_q4_0((const block_q4_0 *) src, dst, n); break;
        default:             ggml_get_type_traits(type)->to_float(src, dst, n); break;
    }
}

void load_rows(const ggml_tensor * cache, int64_t row, int64_t n, float * dst, int64_t ld) {
    const char * src = (const char *) cache->data + row * cache->nb[1];
    for (int64_t i = 0; i < n; ++i) {
        load_row(cache->type, src + i * cache->nb[1], dst + i * ld, cache->ne[0]);
    }
}

void store_row(const ggml_tensor * cache, int64_t row, const float * src) {
    char * dst = (char *) cache->data + row * cache->nb[1];
    if (cache->type == GGML_TYPE_F32) {
        memcpy(dst, src, cache->ne[0] * sizeof(float));
    } else {
        ggml_get_type_traits_cpu(cache->type)->from_float(src, dst, cache->ne[0]);
    }
}

} // namespace duo
