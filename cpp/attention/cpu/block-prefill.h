// One block of keys against many queries: bound by arithmetic. The block's keys lie transposed, so that a vector holds one component of simd_width
// keys and dot products need no sums across lanes; sums of several queries stay in registers.
#pragma once

#include "block.h"

#include <algorithm>

namespace duo {

constexpr int prefill_rows    = 6;                              // queries at a time
constexpr int prefill_vectors = simd_registers == 32 ? 4 : 2;   // of each, at a time

// kt[d][j] = k[j][d] for the block's keys and ldk components
inline void transpose_block(const float * k, float * kt, int64_t ldk) {
    for (int j = 0; j < block_size; j += 4) {
        for (int64_t d = 0; d < ldk; d += simd_width) {
            simd x[4];
            DUO_UNROLL
            for (int i = 0; i < 4; ++i) {
                x[i] = simd_load(k + (j + i) * ldk + d);
            }
            simd_transpose_quarters(x);
            DUO_UNROLL
            for (int i = 0; i < 4; ++i) {
                for (int quarter = 0; quarter < simd_width / 4; ++quarter) {
                    memcpy(kt + (d + 4 * quarter + i) * block_size + j, (const float *) &x[i] + 4 * quarter, 4 * sizeof(float));
                }
            }
        }
    }
}

template <int ROWS, int VECTORS>
void prefill_scores_vectors(const float * q, int64_t ldk, int64_t dk, const float * kt, float * score) {
    simd dot[ROWS][VECTORS] = {};
    for (int64_t d = 0; d < dk; ++d) {
        simd x[VECTORS];
        DUO_UNROLL
        for (int i = 0; i < VECTORS; ++i) {
            x[i] = simd_load(kt + d * block_size + i * simd_width);
        }
        DUO_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            const simd y = simd_set(q[r * ldk + d]);
            DUO_UNROLL
            for (int i = 0; i < VECTORS; ++i) {
                dot[r][i] = simd_fma(x[i], y, dot[r][i]);
            }
        }
    }
    DUO_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        DUO_UNROLL
        for (int i = 0; i < VECTORS; ++i) {
            simd_store(score + r * block_size + i * simd_width, dot[r][i]);
        }
    }
}

// score[r][j] = q[r] . k[j] for ROWS queries and at least keys [begin, end)
template <int ROWS>
void prefill_scores(const float * q, int64_t ldk, int64_t dk, const float * kt, float * score, int begin, int end) {
    constexpr int n = prefill_vectors * simd_width;
    for (int j = begin / n * n; j < end; j += n) {
        prefill_scores_vectors<ROWS, prefill_vectors>(q, ldk, dk, kt + j, score + j);
    }
}

template <int ROWS, int VECTORS>
void prefill_values_vectors(const float * weight, const float * v, float * acc, const float * rescale, int64_t ldv, int begin, int end) {
    simd sum[ROWS][VECTORS] = {};
    for (int j = begin; j < end; ++j) {
        simd x[VECTORS];
        DUO_UNROLL
        for (int i = 0; i < VECTORS; ++i) {
            x[i] = simd_load(v + j * ldv + i * simd_width);
        }
        DUO_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            const simd w = simd_set(weight[r * block_size + j]);
            DUO_UNROLL
            for (int i = 0; i < VECTORS; ++i) {
                sum[r][i] = simd_fma(x[i], w, sum[r][i]);
            }
        }
    }
    DUO_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        DUO_UNROLL
        for (int i = 0; i < VECTORS; ++i) {
            float * a = acc + r * ldv + i * simd_width;
            simd_store(a, simd_fma(simd_load(a), simd_set(rescale[r]), sum[r][i]));
        }
    }
}

// acc[r] = acc[r] * rescale[r] + sum over j of weight[r][j] * v[j], for ROWS queries and keys [begin, end)
template <int ROWS>
void prefill_values(const float * weight, const float * v, float * acc, const float * rescale, int64_t ldv, int begin, int end) {
    int64_t d = 0;
    for (; d + prefill_vectors * simd_width <= ldv; d += prefill_vectors * simd_width) {
        prefill_values_vectors<ROWS, prefill_vectors>(weight, v + d, acc + d, rescale, ldv, begin, end);
    }
    for (; d < ldv; d += simd_width) {
        prefill_values_vectors<ROWS, 1>(weight, v + d, acc + d, rescale, ldv, begin, end);
    }
}

} // namespace duo
