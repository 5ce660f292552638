// The rotation of rows (mixed-attention.h), as a fast Walsh-Hadamard transform in registers and across lanes.
#pragma once

#include "fast-kernels.h"

namespace duo::cuda {

// Rotates what a group of lanes holds by the matrix of `size`. The lanes hold dimensions in turns: VALUES consecutive ones each, LANES lanes of them, and so
// on. Each step is rounded as in ggml's own transform on the CPU, so that rows have the same bits. lanes: of the warp, those that take part with this one.
template <int VALUES, int LANES, int N>
static __device__ __forceinline__ void rotate(float (&x)[N], int size, uint32_t lanes = ~0u) {
    static_assert(N % VALUES == 0);
    const float scale = __frcp_rn(__fsqrt_rn(float(size)));
#pragma unroll
    for (int i = 0; i < N; ++i) {
        x[i] = __fmul_rn(x[i], scale);
    }
#pragma unroll
    for (int apart = 1; apart < N * LANES; apart *= 2) {
        if (apart >= size) {
            break;
        }
        if (apart >= VALUES && apart < VALUES * LANES) {
            const bool second = threadIdx.x & apart / VALUES;
#pragma unroll
            for (int i = 0; i < N; ++i) {
                const float other = __shfl_xor_sync(lanes, x[i], apart / VALUES);
                x[i] = second ? __fadd_rn(other, -x[i]) : __fadd_rn(x[i], other);
            }
        } else {
            const int step = apart < VALUES ? apart : apart / LANES; // between registers
#pragma unroll
            for (int i = 0; i + step < N; ++i) {
                if ((i & step) == 0) {
                    const float a = x[i], b = x[i + step];
                    x[i] = __fadd_rn(a, b), x[i + step] = __fadd_rn(a, -b);
                }
            }
        }
    }
}

// Whether V's rows are rotated, and so is an output until it is rotated back; of 16-bit rows none are.
template <CacheType V>
static __device__ __forceinline__ bool rotates_values(const AttentionParams & p) {
    return is_quantised<V> && p.rotation_v != 0;
}

// Rotates back two rows of an output that lie as products leave them: [dimension / 8], two values of a row and two of the row 8 further on.
template <int N>
static __device__ __forceinline__ void rotate_back(float (&out)[N][4]) {
    constexpr int TILES = VALUE_ROTATION / 8;
#pragma unroll
    for (int first = 0; first + TILES <= N; first += TILES) {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            float x[2 * TILES];
#pragma unroll
            for (int i = 0; i < 2 * TILES; ++i) {
                x[i] = out[first + i / 2][2 * row + i % 2];
            }
            rotate<2, 4>(x, VALUE_ROTATION);
#pragma unroll
            for (int i = 0; i < 2 * TILES; ++i) {
                out[first + i / 2][2 * row + i % 2] = x[i];
            }
        }
    }
}

// Four values of an output, of which 16 consecutive lanes hold VALUE_ROTATION, rotated back if need be.
template <CacheType V>
static __device__ __forceinline__ float4 rotated_back(const AttentionParams & p, const float4 & out) {
    if (!rotates_values<V>(p)) {
        return out;
    }
    float x[4] = { out.x, out.y, out.z, out.w };
    rotate<4, 16>(x, VALUE_ROTATION, 0xffffu << (threadIdx.x & 16));
    return make_float4(x[0], x[1], x[2], x[3]);
}

} // namespace duo::cuda
