// One block of keys against the few queries of one token: bound by reading the cache. Rows are converted in registers on the way to the sums, straight
// from the cache where their type has a fast path, and the next block is asked for ahead of time.
//
// A dot product is kept as one vector of partial sums, added up across its lanes at the end.
#pragma once

#include "block.h"
#include "cached-type.h"

namespace duo {

constexpr int decode_rows = simd_width == 16 ? 6 : 3; // queries whose sums, with 4 vectors each, fit in the registers

// Rows of a block's keys or values: where each begins. Those outside the block's visible keys point to one of them.
struct block_rows {
    const char * row[block_size];
    int64_t      n_bytes; // of a row; 0: don't fetch ahead

    // the same place in the next block, if its rows follow on; if they don't, it does no harm
    void fetch_ahead(int j) const {
        for (int64_t i = 0; i < n_bytes; i += 64) {
            __builtin_prefetch(row[j] + block_size * n_bytes + i);
        }
    }
};

// score[r][j] = q[r] . k[j] for ROWS queries and the vectors of keys that hold keys [begin, end)
template <ggml_type TYPE, int ROWS>
void decode_scores(const float * q, int64_t ldk, int64_t dk, const block_rows & k, float * score, int begin, int end) {
    constexpr int n_vectors = cached<TYPE>::values / simd_width;
    for (int j = begin / simd_width * simd_width; j < end; j += simd_width) {
        simd quarters[ROWS][simd_width / 4];
        for (int part = 0; part < simd_width / 4; ++part) {
            const int first = j + 4 * part;
            for (int i = 0; i < 4; ++i) {
                k.fetch_ahead(first + i);
            }
            simd dot[4][ROWS] = {};
            for (int64_t step = 0; step < dk / cached<TYPE>::values; ++step) {
                DUO_UNROLL
                for (int v = 0; v < n_vectors; ++v) {
                    DUO_UNROLL
                    for (int i = 0; i < 4; ++i) {
                        const simd x = cached<TYPE>::load(k.row[first + i], step, v);
                        DUO_UNROLL
                        for (int r = 0; r < ROWS; ++r) {
                            dot[i][r] = simd_fma(x, simd_load(q + r * ldk + (step * n_vectors + v) * simd_width), dot[i][r]);
                        }
                    }
                }
            }
            DUO_UNROLL
            for (int r = 0; r < ROWS; ++r) {
                quarters[r][part] = simd_sum_quarters(dot[0][r], dot[1][r], dot[2][r], dot[3][r]);
            }
        }
        DUO_UNROLL
        for (int r = 0; r < ROWS; ++r) {
            simd_store(score + r * block_size + j, simd_sum_each(quarters[r]));
        }
    }
}

// acc[r] = acc[r] * rescale[r] + sum over j of weight[r][j] * v[j], for ROWS queries and the values of STEPS steps
template <ggml_type TYPE, int ROWS, int STEPS>
void decode_values_steps(const float * weight, const block_rows & v, int64_t step, float * acc, const float * rescale, int64_t ldv, int begin, int end) {
    constexpr int n_vectors = cached<TYPE>::values / simd_width;
    simd sum[ROWS][STEPS * n_vectors] = {};
    for (int j = begin; j < end; ++j) {
        if (step == 0) {
            v.fetch_ahead(j);
        }
        DUO_UNROLL
        for (int i = 0; i < STEPS * n_vectors; ++i) {
            const simd x = cached<TYPE>::load(v.row[j], step + i / n_vectors, i % n_vectors);
            DUO_UNROLL
            for (int r = 0; r < ROWS; ++r) {
                sum[r][i] = simd_fma(x, simd_set(weight[r * block_size + j]), sum[r][i]);
            }
        }
    }
    DUO_UNROLL
    for (int r = 0; r < ROWS; ++r) {
        DUO_UNROLL
        for (int i = 0; i < STEPS * n_vectors; ++i) {
            float * a = acc + r * ldv + step * cached<TYPE>::values + i * simd_width;
            simd_store(a, simd_fma(simd_load(a), simd_set(rescale[r]), sum[r][i]));
        }
    }
}

template <ggml_type TYPE, int ROWS>
void decode_values(const float * weight, const block_rows & v, int64_t dv, float * acc, const float * rescale, int64_t ldv, int begin, int end) {
    constexpr int n_steps = 4 * simd_width >= cached<TYPE>::values ? 4 * simd_width / cached<TYPE>::values : 1; // 4 vectors
    const int64_t n = dv / cached<TYPE>::values;
    int64_t step = 0;
    for (; step + n_steps <= n; step += n_steps) {
        decode_values_steps<TYPE, ROWS, n_steps>(weight, v, step, acc, rescale, ldv, begin, end);
    }
    for (; step < n; ++step) {
        decode_values_steps<TYPE, ROWS, 1>(weight, v, step, acc, rescale, ldv, begin, end);
    }
}

} // namespace duo
