// A vector of floats as wide as the target's registers, by the compilers' own vector type: AVX-512, AVX2, NEON and plain code from one source.
#pragma once

#include <cstring>

#if defined(__AVX512F__) || defined(__FMA__)
#    include <immintrin.h>
#elif defined(__ARM_NEON)
#    include <arm_neon.h>
#endif

namespace duo {

#if defined(__AVX512F__)
constexpr int simd_width = 16;
#elif defined(__AVX__)
constexpr int simd_width = 8;
#else
constexpr int simd_width = 4; // NEON, SSE; lowered to scalar code elsewhere
#endif

typedef float simd __attribute__((vector_size(simd_width * sizeof(float))));

static inline simd simd_load(const float * p) {
    simd v;
    std::memcpy(&v, p, sizeof(v));
    return v;
}

static inline void simd_store(float * p, simd v) {
    std::memcpy(p, &v, sizeof(v));
}

static inline simd simd_set(float x) {
    return x - simd{}; // folds to a broadcast, where + would have to mind a negative zero
}

// a * b + c in one rounding where the target has it. Written out because compilers fuse or do not by their own lights (GCC splits long chains when
// tuning for Zen), and the same sum must give the same bits wherever it is inlined.
static inline simd simd_fma(simd a, simd b, simd c) {
#if defined(__AVX512F__)
    return (simd) _mm512_fmadd_ps((__m512) a, (__m512) b, (__m512) c);
#elif defined(__FMA__)
    return (simd) _mm256_fmadd_ps((__m256) a, (__m256) b, (__m256) c);
#elif defined(__ARM_NEON)
    return (simd) vfmaq_f32((float32x4_t) c, (float32x4_t) a, (float32x4_t) b);
#else
    return a * b + c;
#endif
}

static inline simd simd_max(simd a, simd b) {
    return a > b ? a : b;
}

// Picks lanes of the two vectors, those of b counted on from a's.
#if defined(__clang__) || __GNUC__ >= 12
#    define DUO_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int simd_lanes __attribute__((vector_size(simd_width * sizeof(int))));
#    define DUO_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, simd_lanes { __VA_ARGS__ })
#endif

// a0 b0 a1 b1 ... of the lower halves, and of the upper halves
#if defined(__AVX512F__)
#    define DUO_LOWER(a, b) DUO_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#    define DUO_UPPER(a, b) DUO_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif defined(__AVX__)
#    define DUO_LOWER(a, b) DUO_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#    define DUO_UPPER(a, b) DUO_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#    define DUO_LOWER(a, b) DUO_SHUFFLE(a, b, 0, 4, 1, 5)
#    define DUO_UPPER(a, b) DUO_SHUFFLE(a, b, 2, 6, 3, 7)
#endif

// Sums each of simd_width vectors; lane i of the result is the sum of v[i]'s lanes. Halving with interleaving leaves the sums in order, at three
// instructions a pair instead of a horizontal sum a vector. Overwrites v.
static inline simd simd_sum_each(simd (&v)[simd_width]) {
    for (int n = simd_width / 2; n >= 1; n /= 2) {
        for (int i = 0; i < n; ++i) {
            v[i] = DUO_LOWER(v[i], v[i + n]) + DUO_UPPER(v[i], v[i + n]);
        }
    }
    return v[0];
}

#undef DUO_LOWER
#undef DUO_UPPER
#undef DUO_SHUFFLE

} // namespace duo
