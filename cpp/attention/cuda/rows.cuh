// Cache rows of every type in ggml's block layout: reading single values, and quantising with the rounding of ggml's quantize_row_*_ref, bit for bit.
// (Intrinsics fix the rounding of each step, whatever -use_fast_math or contraction would do. Where a compiler contracts ggml's sums, an iq4_nl scale may
// differ in the last bit.)
#pragma once

#include "params.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace duo::cuda {

static __device__ __forceinline__ float half_at(const uint8_t * p) {
    return __half2float(*reinterpret_cast<const __half *>(p));
}

// What the 16 quants of iq4_nl stand for, closer together about zero; from lowest to highest, a byte each.
constexpr uint64_t IQ4_NL_NEGATIVE = 0xf6eaddcfbfad9881; // -127 -104 -83 -65 -49 -35 -22 -10
constexpr uint64_t IQ4_NL_POSITIVE = 0x7159453526190d01; //    1   13  25  38  53  69  89 113

static __device__ __forceinline__ int iq4_nl_level(int quant) {
    return int8_t((quant < 8 ? IQ4_NL_NEGATIVE : IQ4_NL_POSITIVE) >> quant % 8 * 8);
}

static __device__ __forceinline__ int iq4_nl_nearest(float x) {
    int upper = 1;
    while (upper < 15 && x >= iq4_nl_level(upper)) {
        ++upper;
    }
    return __fadd_rn(x, -iq4_nl_level(upper - 1)) < __fadd_rn(iq4_nl_level(upper), -x) ? upper - 1 : upper; // of two equally near, the higher
}

// Value i of a row. Blocks hold 32 values: a scale d (and a minimum m), the fifth bits of q5, then the quants; nibble j of a 4-bit block holds
// value j below and value j + 16 above.
static __device__ __forceinline__ float row_value(CacheType type, const uint8_t * row, int i) {
    const int block = i / 32, j = i % 32;
    const auto nibble = [&](const uint8_t * quants) { return quants[j % 16] >> (j / 16 * 4) & 15; };
    const auto fifth  = [&](const uint8_t * high) { return (high[j / 8] >> j % 8 & 1) << 4; };
    switch (type) {
        case CacheType::f32:  return reinterpret_cast<const float *>(row)[i];
        case CacheType::f16:  return half_at(row + 2 * i);
        case CacheType::bf16: return __bfloat162float(reinterpret_cast<const __nv_bfloat16 *>(row)[i]);
        case CacheType::q4_0: { const uint8_t * b = row + BLOCK_BYTES<CacheType::q4_0> * block; return half_at(b) * float(nibble(b + 2) - 8); }
        case CacheType::q4_1: { const uint8_t * b = row + BLOCK_BYTES<CacheType::q4_1> * block; return half_at(b) * float(nibble(b + 4)) + half_at(b + 2); }
        case CacheType::q5_0: { const uint8_t * b = row + BLOCK_BYTES<CacheType::q5_0> * block; return half_at(b) * float((nibble(b + 6) | fifth(b + 2)) - 16); }
        case CacheType::q5_1: { const uint8_t * b = row + BLOCK_BYTES<CacheType::q5_1> * block; return half_at(b) * float(nibble(b + 8) | fifth(b + 4)) + half_at(b + 2); }
        case CacheType::q8_0: { const uint8_t * b = row + BLOCK_BYTES<CacheType::q8_0> * block; return half_at(b) * float(int8_t(b[2 + j])); }
        case CacheType::iq4_nl: { const uint8_t * b = row + BLOCK_BYTES<CacheType::iq4_nl> * block; return half_at(b) * float(iq4_nl_level(nibble(b + 2))); }
    }
    return 0.0f;
}

// Writes the block of 32 values that the lanes of a warp hold.
static __device__ __forceinline__ void store_block(CacheType type, uint8_t * row, int block, float x) {
    const int lane = threadIdx.x % 32;
    const auto put_half = [&](uint8_t * p, float value) { *reinterpret_cast<__half *>(p) = __float2half_rn(value); };
    const auto warp_max = [](float v) {
        for (int i = 16; i > 0; i /= 2) {
            v = fmaxf(v, __shfl_xor_sync(~0u, v, i));
        }
        return v;
    };
    const auto sum_in_order = [](float v) { // as ggml sums
        float sum = 0.0f;
        for (int i = 0; i < 32; ++i) {
            sum = __fadd_rn(sum, __shfl_sync(~0u, v, i));
        }
        return sum;
    };
    const auto value_of_top = [&] { // the value of the largest magnitude, the first of equals
        const float top = warp_max(fabsf(x));
        return __shfl_sync(~0u, x, __ffs(__ballot_sync(~0u, fabsf(x) == top) | 1u << 31) - 1);
    };
    const auto inverse = [](float d) { return d != 0.0f ? __fdiv_rn(1.0f, d) : 0.0f; };
    const auto put_nibbles = [&](uint8_t * quants, int quant) {
        const int upper = __shfl_down_sync(~0u, quant, 16);
        if (lane < 16) {
            quants[lane] = uint8_t((quant & 15) | (upper & 15) << 4);
        }
    };
    const auto put_fifths = [&](uint8_t * high, int quant) {
        const uint32_t mask = __ballot_sync(~0u, quant & 16);
        if (lane < 4) {
            high[lane] = uint8_t(mask >> 8 * lane);
        }
    };

    switch (type) {
        case CacheType::f32:
            reinterpret_cast<float *>(row)[32 * block + lane] = x;
            break;
        case CacheType::f16:
            reinterpret_cast<__half *>(row)[32 * block + lane] = __float2half_rn(x);
            break;
        case CacheType::bf16:
            reinterpret_cast<__nv_bfloat16 *>(row)[32 * block + lane] = __float2bfloat16_rn(x);
            break;
        case CacheType::q8_0: {
            uint8_t * b = row + BLOCK_BYTES<CacheType::q8_0> * block;
            const float d = __fdiv_rn(warp_max(fabsf(x)), 127.0f);
            b[2 + lane] = uint8_t(int8_t(roundf(__fmul_rn(x, inverse(d)))));
            if (lane == 0) {
                put_half(b, d);
            }
        } break;
        case CacheType::q4_0:
        case CacheType::q5_0: {
            const int half_range = type == CacheType::q4_0 ? 8 : 16;
            uint8_t * b = row + (type == CacheType::q4_0 ? BLOCK_BYTES<CacheType::q4_0> : BLOCK_BYTES<CacheType::q5_0>) * block;
            const float d   = __fdiv_rn(value_of_top(), float(-half_range)); // the most negative quant is the top's
            const int quant = min(2 * half_range - 1, int(int8_t(__fadd_rn(__fmul_rn(x, inverse(d)), half_range + 0.5f))));
            put_nibbles(b + (type == CacheType::q4_0 ? 2 : 6), quant);
            if (type == CacheType::q5_0) {
                put_fifths(b + 2, quant);
            }
            if (lane == 0) {
                put_half(b, d);
            }
        } break;
        case CacheType::q4_1:
        case CacheType::q5_1: {
            const int range = type == CacheType::q4_1 ? 15 : 31;
            uint8_t * b = row + (type == CacheType::q4_1 ? BLOCK_BYTES<CacheType::q4_1> : BLOCK_BYTES<CacheType::q5_1>) * block;
            const float low = -warp_max(-x), d = __fdiv_rn(__fadd_rn(warp_max(x), -low), float(range));
            const int quant = min(range, int(__fadd_rn(__fmul_rn(__fadd_rn(x, -low), inverse(d)), 0.5f)));
            put_nibbles(b + (type == CacheType::q4_1 ? 4 : 8), quant);
            if (type == CacheType::q5_1) {
                put_fifths(b + 4, quant);
            }
            if (lane == 0) {
                put_half(b, d);
                put_half(b + 2, low);
            }
        } break;
        case CacheType::iq4_nl: {
            // The lowest level is the top's; the scale is then the one that fits the chosen levels best, each value weighted by its square.
            uint8_t * b = row + BLOCK_BYTES<CacheType::iq4_nl> * block;
            const float top    = value_of_top(); // below ggml's least, all is zero
            const int   quant  = iq4_nl_nearest(__fmul_rn(x, inverse(__fdiv_rn(top, -127.0f))));
            const float level  = float(iq4_nl_level(quant)), weighted = __fmul_rn(__fmul_rn(x, x), level);
            const float square = sum_in_order(__fmul_rn(weighted, level)), product = sum_in_order(__fmul_rn(weighted, x));
            put_nibbles(b + 2, quant);
            if (lane == 0) {
                put_half(b, fabsf(top) >= 1e-15f && square > 0.0f ? __fdiv_rn(product, square) : 0.0f);
            }
        } break;
    }
}

} // namespace duo::cuda
