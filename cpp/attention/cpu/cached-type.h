// Reading the cache a vector at a time, for the types that have a fast path. A row is a run of steps of cached<TYPE>::values values, and
// cached<TYPE>::load gives vector i of a step.
#pragma once

#include "simd.h"

#include "ggml-cpu-impl.h"
#include "ggml-impl.h"
#include "simd-mappings.h"

#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"

#include <cstdint>
#include <cstring>

namespace duo {

// simd_width bytes as integers. Written out: compilers make scalar code of many a loop over bytes.
typedef int32_t simd_int __attribute__((vector_size(simd_width * sizeof(int32_t))));

static inline simd_int load_signed(const int8_t * p) {
#if defined(__AVX512F__)
    return (simd_int) _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) p));
#elif defined(__AVX2__)
    return (simd_int) _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *) p));
#elif defined(__ARM_NEON)
    int32_t bytes;
    memcpy(&bytes, p, sizeof(bytes));
    return (simd_int) vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(bytes)))));
#else
    simd_int x;
    for (int i = 0; i < simd_width; ++i) {
        x[i] = p[i];
    }
    return x;
#endif
}

static inline simd_int load_unsigned(const uint8_t * p) {
#if defined(__AVX512F__)
    return (simd_int) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *) p));
#elif defined(__AVX2__)
    return (simd_int) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *) p));
#elif defined(__ARM_NEON)
    uint32_t bytes;
    memcpy(&bytes, p, sizeof(bytes));
    return (simd_int) vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes)))));
#else
    simd_int x;
    for (int i = 0; i < simd_width; ++i) {
        x[i] = p[i];
    }
    return x;
#endif
}

template <ggml_type TYPE> struct cached;

template <> struct cached<GGML_TYPE_F32> {
    static constexpr int values = simd_width;
    static simd load(const void * row, int64_t step, int) { return simd_load((const float *) row + step * values); }
};

template <> struct cached<GGML_TYPE_F16> {
    static constexpr int values = simd_width;
    static simd load(const void * row, int64_t step, int) {
        const ggml_fp16_t * src = (const ggml_fp16_t *) row + step * values;
#if defined(__AVX512F__)
        return (simd) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) src));
#elif defined(__F16C__)
        return (simd) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) src));
#elif defined(__ARM_NEON) && defined(__aarch64__)
        return (simd) vcvt_f32_f16(vld1_f16((const __fp16 *) src));
#else
        simd x;
        for (int i = 0; i < values; ++i) {
            x[i] = GGML_CPU_FP16_TO_FP32(src[i]);
        }
        return x;
#endif
    }
};

template <> struct cached<GGML_TYPE_BF16> {
    static constexpr int values = simd_width;
    static simd load(const void * row, int64_t step, int) {
        typedef uint16_t half_lanes __attribute__((vector_size(simd_width * sizeof(uint16_t))));
        typedef uint32_t lanes      __attribute__((vector_size(simd_width * sizeof(uint32_t))));
        half_lanes src;
        memcpy(&src, (const ggml_bf16_t *) row + step * values, sizeof(src));
        return (simd) (__builtin_convertvector(src, lanes) << 16);
    }
};

template <> struct cached<GGML_TYPE_Q8_0> {
    static constexpr int values = QK8_0;
    static simd load(const void * row, int64_t step, int i) {
        const block_q8_0 & src = ((const block_q8_0 *) row)[step];
        const simd d = simd_set(GGML_CPU_FP16_TO_FP32(src.d));
        return d * __builtin_convertvector(load_signed(src.qs + i * simd_width), simd);
    }
};

template <> struct cached<GGML_TYPE_Q4_0> {
    static constexpr int values = QK4_0;
    static simd load(const void * row, int64_t step, int i) {
        const block_q4_0 & src = ((const block_q4_0 *) row)[step];
        const simd     d = simd_set(GGML_CPU_FP16_TO_FP32(src.d));
        const simd_int q = load_unsigned(src.qs + i * simd_width % 16); // low halves are the step's first 16 values, high halves the others
#if defined(__AVX512F__)
        // Looked up by the low four bits of each lane: half the instructions of computing the same, and decoding is bound by those.
        const __m512 values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
        return (simd) _mm512_permutexvar_ps((__m512i) (i == 0 ? q : q >> 4), _mm512_mul_ps(values, (__m512) d));
#else
        return simd_fma(d, __builtin_convertvector(i * simd_width < 16 ? q & 0x0f : q >> 4, simd), d * -8.0f); // d * (q - 8), exactly
#endif
    }
};

// Calls f with the type as a constant where there is a fast path and rows of n values are whole steps; returns whether it did.
template <typename F>
bool with_cached_type(ggml_type type, int64_t n, F && f) {
    auto call = [&](auto constant) {
        return n % cached<constant.value>::values == 0 && (f(constant), true);
    };
    switch (type) {
        case GGML_TYPE_F32:  return call(std::integral_constant<ggml_type, GGML_TYPE_F32>());
        case GGML_TYPE_F16:  return call(std::integral_constant<ggml_type, GGML_TYPE_F16>());
        case GGML_TYPE_BF16: return call(std::integral_constant<ggml_type, GGML_TYPE_BF16>());
        case GGML_TYPE_Q8_0: return call(std::integral_constant<ggml_type, GGML_TYPE_Q8_0>());
        case GGML_TYPE_Q4_0: return call(std::integral_constant<ggml_type, GGML_TYPE_Q4_0>());
        default:             return false;
    }
}

} // namespace duo
