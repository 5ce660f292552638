// Attention for every head size up to MAX_HEAD_SIZE and every cache type, one block a query head of a token: right, not fast.
#pragma once

#include "cells.cuh"
#include "merge.cuh"
#include "rotation.cuh"
#include "rows.cuh"

namespace duo::cuda {

constexpr int GENERIC_WARPS    = 8;
constexpr int GENERIC_PER_LANE = MAX_HEAD_SIZE / 32;

static __global__ void __launch_bounds__(GENERIC_WARPS * 32)
generic_kernel(const __grid_constant__ AttentionParams p, int64_t k_row_bytes, int64_t v_row_bytes) {
    __shared__ float q[MAX_HEAD_SIZE];
    __shared__ float parts[GENERIC_WARPS][MAX_HEAD_SIZE + 2]; // output, maximum, sum

    ptx::wait_for_previous_kernel();
    const Layout & layout = p.layout;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int token = blockIdx.x / p.n_head, head = blockIdx.x % p.n_head, head_kv = head / (p.n_head / layout.n_head_kv);
    const int32_t position = layout.tokens[2 * token];
    const Head    what     = head_at(layout, head_kv);
    const int64_t first_row = layout.tokens[2 * token + 1] * layout.n_rows + what.first_row;
    const int64_t column = blockIdx.x;

    for (int i = threadIdx.x; i < p.head_size_k; i += blockDim.x) {
        q[i] = p.q[column * p.head_size_k + i];
    }
    __syncthreads();

    float m = NO_KEY, l = 0.0f, o[GENERIC_PER_LANE] = {};
    const Cells cells(layout, what, position, position);
    for (int r = 0; r < MAX_RUNS; ++r) {
        const Run run = cells.run(layout, what.ring, r);
        for (int32_t cell = run.begin + warp; cell < run.end; cell += GENERIC_WARPS) {
            const uint8_t * k = static_cast<const uint8_t *>(p.k_cache) + (first_row + cell) * k_row_bytes;
            const uint8_t * v = static_cast<const uint8_t *>(p.v_cache) + (first_row + cell) * v_row_bytes;
            float dot = 0.0f;
            for (int i = lane; i < p.head_size_k; i += 32) {
                dot += q[i] * row_value(p.type_k, k, i);
            }
            for (int i = 16; i > 0; i /= 2) {
                dot += __shfl_xor_sync(~0u, dot, i);
            }
            float score = dot * p.scale;
            score = 1.44269504f * (p.softcap != 0.0f ? p.softcap * ptx::tanh(score / p.softcap) : score);
            const float top = fmaxf(m, score), shrink = ptx::exp2(m - top), weight = ptx::exp2(score - top);
            m = top;
            l = l * shrink + weight;
#pragma unroll
            for (int i = 0; i < GENERIC_PER_LANE; ++i) {
                if (lane + 32 * i < p.head_size_v) {
                    o[i] = o[i] * shrink + weight * row_value(p.type_v, v, lane + 32 * i);
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < GENERIC_PER_LANE; ++i) {
        parts[warp][lane + 32 * i] = o[i];
    }
    if (lane == 0) {
        parts[warp][MAX_HEAD_SIZE]     = m;
        parts[warp][MAX_HEAD_SIZE + 1] = l;
    }
    __syncthreads();

    float top = NO_KEY, sum = 0.0f;
    for (int w = 0; w < GENERIC_WARPS; ++w) {
        top = fmaxf(top, parts[w][MAX_HEAD_SIZE]);
    }
    for (int w = 0; w < GENERIC_WARPS; ++w) {
        sum += ptx::exp2(parts[w][MAX_HEAD_SIZE] - top) * parts[w][MAX_HEAD_SIZE + 1];
    }
    for (int first = VALUE_ROTATION * warp; first < p.head_size_v; first += VALUE_ROTATION * GENERIC_WARPS) {
        float out[VALUE_ROTATION / 32] = {};
#pragma unroll
        for (int i = 0; i < VALUE_ROTATION / 32; ++i) {
            for (int w = 0; w < GENERIC_WARPS; ++w) {
                out[i] += ptx::exp2(parts[w][MAX_HEAD_SIZE] - top) * parts[w][first + 32 * i + lane];
            }
            out[i] /= denominator(p, head, top, sum);
        }
        if (p.rotation_v != 0) {
            rotate<1, 32>(out, VALUE_ROTATION);
        }
#pragma unroll
        for (int i = 0; i < VALUE_ROTATION / 32; ++i) {
            if (first + 32 * i + lane < p.head_size_v) {
                p.dst[column * p.head_size_v + first + 32 * i + lane] = out[i];
            }
        }
    }
}

} // namespace duo::cuda
