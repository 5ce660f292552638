// A vector of floats as wide as the target's registers, by the compilers' own vector type: AVX-512, AVX2, NEON and plain code from one source.
#pragma once

#include "vec.h"

#include <cmath>
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

#if defined(__AVX512F__) || defined(__ARM_NEON)
constexpr int simd_registers = 32;
#else
constexpr int simd_registers = 16;
#endif

// Before a loop with a constant number of turns: unrolled early enough that arrays of sums stay in registers. Left to itself, GCC 12 keeps them in memory
// and stores each sum back at each step.
#if defined(__clang__)
#    define DUO_UNROLL _Pragma("unroll")
#else
#    define DUO_UNROLL _Pragma("GCC unroll 16")
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

// e^x, through ggml's own where it has one; within a few units in the last place, and 0 for -inf.
static inline simd simd_exp(simd x) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    return (simd) ggml_v_expf((__m512) x);
#elif defined(__AVX2__) && defined(__FMA__)
    return (simd) ggml_v_expf((__m256) x);
#elif defined(__ARM_NEON) && defined(__aarch64__)
    return (simd) ggml_v_expf((float32x4_t) x);
#else
    for (int i = 0; i < simd_width; ++i) {
        x[i] = expf(x[i]);
    }
    return x;
#endif
}

// Within 2e-7 of tanh x: (e^2x - 1) / (e^2x + 1), and near 0, where that would lose what is left of a difference, a series.
static inline simd simd_tanh(simd x) {
    const simd one  = simd_set(1.0f);
    const simd a    = x < simd_set(0.0f) ? -x : x;
    const simd e    = simd_exp(simd_set(2.0f) * (a > simd_set(10.0f) ? simd_set(10.0f) : a)); // from there on it is 1; what is no number stays so
    const simd far  = (e - one) / (e + one);
    const simd xx   = x * x;
    simd near = simd_set(62.0f / 2835);
    for (const float term : { -17.0f / 315, 2.0f / 15, -1.0f / 3, 1.0f }) {
        near = simd_fma(near, xx, simd_set(term));
    }
    return a < simd_set(0.25f) ? x * near : x < simd_set(0.0f) ? -far : far;
}

static inline float simd_max_lane(simd x) {
    float max = x[0];
    for (int i = 1; i < simd_width; ++i) {
        max = x[i] > max ? x[i] : max;
    }
    return max;
}

static inline float simd_sum(simd x) {
    float sum[simd_width];
    simd_store(sum, x);
    for (int n = simd_width / 2; n >= 1; n /= 2) {
        for (int i = 0; i < n; ++i) {
            sum[i] += sum[i + n];
        }
    }
    return sum[0];
}

// Picks lanes of the two vectors, those of b counted on from a's.
#if defined(__clang__) || __GNUC__ >= 12
#    define DUO_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int simd_lanes __attribute__((vector_size(simd_width * sizeof(int))));
#    define DUO_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, simd_lanes { __VA_ARGS__ })
#endif

// Within each quarter of 4 lanes: a0 b0 a1 b1, a2 b2 a3 b3; a0 a1 b0 b1, a2 a3 b2 b3. Crossing quarters would cost more on AVX2.
#if defined(__AVX512F__)
#    define DUO_LOWER(a, b)      DUO_SHUFFLE(a, b, 0, 16, 1, 17,  4, 20, 5, 21,  8, 24,  9, 25, 12, 28, 13, 29)
#    define DUO_UPPER(a, b)      DUO_SHUFFLE(a, b, 2, 18, 3, 19,  6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#    define DUO_LOWER_PAIR(a, b) DUO_SHUFFLE(a, b, 0, 1, 16, 17,  4, 5, 20, 21,  8,  9, 24, 25, 12, 13, 28, 29)
#    define DUO_UPPER_PAIR(a, b) DUO_SHUFFLE(a, b, 2, 3, 18, 19,  6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#elif defined(__AVX__)
#    define DUO_LOWER(a, b)      DUO_SHUFFLE(a, b, 0, 8, 1,  9, 4, 12, 5, 13)
#    define DUO_UPPER(a, b)      DUO_SHUFFLE(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#    define DUO_LOWER_PAIR(a, b) DUO_SHUFFLE(a, b, 0, 1, 8,  9, 4, 5, 12, 13)
#    define DUO_UPPER_PAIR(a, b) DUO_SHUFFLE(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#else
#    define DUO_LOWER(a, b)      DUO_SHUFFLE(a, b, 0, 4, 1, 5)
#    define DUO_UPPER(a, b)      DUO_SHUFFLE(a, b, 2, 6, 3, 7)
#    define DUO_LOWER_PAIR(a, b) DUO_SHUFFLE(a, b, 0, 1, 4, 5)
#    define DUO_UPPER_PAIR(a, b) DUO_SHUFFLE(a, b, 2, 3, 6, 7)
#endif

// Halfway to four sums: each quarter of 4 lanes holds the sums of that quarter of a, b, c and d.
static inline simd simd_sum_quarters(simd a, simd b, simd c, simd d) {
    const simd ab = DUO_LOWER(a, b) + DUO_UPPER(a, b);
    const simd cd = DUO_LOWER(c, d) + DUO_UPPER(c, d);
    return DUO_LOWER_PAIR(ab, cd) + DUO_UPPER_PAIR(ab, cd);
}

// The other half: from simd_width / 4 results of simd_sum_quarters, the sums of all simd_width vectors, in order.
static inline simd simd_sum_each(const simd (&q)[simd_width / 4]) {
#if defined(__AVX512F__)
    auto halve = [](simd a, simd b) {
        return DUO_SHUFFLE(a, b, 0, 1, 2, 3,  8,  9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
               DUO_SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    };
    return halve(halve(q[0], q[1]), halve(q[2], q[3]));
#elif defined(__AVX__)
    return DUO_SHUFFLE(q[0], q[1], 0, 1, 2, 3, 8, 9, 10, 11) + DUO_SHUFFLE(q[0], q[1], 4, 5, 6, 7, 12, 13, 14, 15);
#else
    return q[0];
#endif
}

// Transposes 4 x 4 values in each quarter of 4 lanes.
static inline void simd_transpose_quarters(simd (&v)[4]) {
    const simd ab[2] = { DUO_LOWER(v[0], v[1]), DUO_UPPER(v[0], v[1]) };
    const simd cd[2] = { DUO_LOWER(v[2], v[3]), DUO_UPPER(v[2], v[3]) };
    for (int i = 0; i < 2; ++i) {
        v[2 * i]     = DUO_LOWER_PAIR(ab[i], cd[i]);
        v[2 * i + 1] = DUO_UPPER_PAIR(ab[i], cd[i]);
    }
}

// The product with Sylvester's Hadamard matrix of simd_width rows, unscaled: sums and differences of lanes 1, 2, 4... apart.
static inline simd simd_hadamard(simd x) {
    const auto combine = [&](int apart, simd other) {
        simd sign;
        for (int i = 0; i < simd_width; ++i) {
            sign[i] = i & apart ? -1.0f : 1.0f;
        }
        x = simd_fma(x, sign, other);
    };
#if defined(__AVX512F__)
    combine(1, DUO_SHUFFLE(x, x,  1,  0,  3,  2,  5,  4,  7,  6,  9,  8, 11, 10, 13, 12, 15, 14));
    combine(2, DUO_SHUFFLE(x, x,  2,  3,  0,  1,  6,  7,  4,  5, 10, 11,  8,  9, 14, 15, 12, 13));
    combine(4, DUO_SHUFFLE(x, x,  4,  5,  6,  7,  0,  1,  2,  3, 12, 13, 14, 15,  8,  9, 10, 11));
    combine(8, DUO_SHUFFLE(x, x,  8,  9, 10, 11, 12, 13, 14, 15,  0,  1,  2,  3,  4,  5,  6,  7));
#elif defined(__AVX__)
    combine(1, DUO_SHUFFLE(x, x, 1, 0, 3, 2, 5, 4, 7, 6));
    combine(2, DUO_SHUFFLE(x, x, 2, 3, 0, 1, 6, 7, 4, 5));
    combine(4, DUO_SHUFFLE(x, x, 4, 5, 6, 7, 0, 1, 2, 3));
#else
    combine(1, DUO_SHUFFLE(x, x, 1, 0, 3, 2));
    combine(2, DUO_SHUFFLE(x, x, 2, 3, 0, 1));
#endif
    return x;
}

#undef DUO_LOWER
#undef DUO_UPPER
#undef DUO_LOWER_PAIR
#undef DUO_UPPER_PAIR
#undef DUO_SHUFFLE

} // namespace duo
