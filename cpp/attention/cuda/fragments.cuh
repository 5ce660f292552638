// From cache rows in shared memory to tensor-core operands.
//
// Products are written so that keys and dimensions are the 16 rows of a product and queries its 8 columns:
//   scores  S^T[16 keys][8 queries] = K[16 keys][D] Q^T[D][8 queries]
//   output  O^T[16 dims][8 queries] = V^T[16 dims][16 keys] P^T[16 keys][8 queries]
// A query group of 4 then wastes half of the multiplications instead of three quarters.
//
// A product may visit dimensions in any order, so a quantised block is taken in the order in which its words lie. Quants become f16 without
// arithmetic: an integer x below 1024 in the low bits of a half is the subnormal number x 2^-24, which tensor cores multiply exactly.
// The block's scale multiplies the product (keys) or the probabilities (values).
#pragma once

#include "fast-kernels.h"
#include "ptx.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace duo::cuda {

static __device__ __forceinline__ uint32_t bits(half2 h) { return *reinterpret_cast<uint32_t *>(&h); }
static __device__ __forceinline__ uint32_t bits(__nv_bfloat162 h) { return *reinterpret_cast<uint32_t *>(&h); }
static __device__ __forceinline__ half2 halves(uint32_t u) { return *reinterpret_cast<half2 *>(&u); }
static __device__ __forceinline__ uint32_t load16(const uint8_t * p) { return *reinterpret_cast<const uint16_t *>(p); }
static __device__ __forceinline__ uint32_t load32(const uint8_t * p) { return *reinterpret_cast<const uint32_t *>(p); }

template <CacheType TYPE, int D>
constexpr int ROW_BYTES = (is_quantised<TYPE> ? D / BLOCK_VALUES : D) * BLOCK_BYTES<TYPE>;

// Quantised rows lie as in the cache: a stride of 34 or 18 words per 4 blocks spreads them over the banks. 16-bit rows get 16 bytes of padding.
template <CacheType TYPE, int D>
constexpr int ROW_STRIDE = ROW_BYTES<TYPE, D> + (is_quantised<TYPE> ? 0 : 16);

// Unit of a key product: quants are integers times this.
template <CacheType TYPE>
constexpr float KEY_UNIT = is_quantised<TYPE> ? 1.0f / (1 << 24) : 1.0f;

// What is added to a quant to make it non-negative.
template <CacheType TYPE>
constexpr float QUANT_OFFSET = TYPE == CacheType::q8_0 ? 128.0f : TYPE == CacheType::q4_0 ? 8.0f : 0.0f;

// bf16 keeps too few bits of a query or a probability (2^-9): those are the sum of two bf16 numbers there.
template <CacheType TYPE>
constexpr int N_PARTS = TYPE == CacheType::bf16 ? 2 : 1;

// Dimension of element e of register r of operand b in key product `step`, for lane % 4 == t.
template <CacheType TYPE>
static __device__ __forceinline__ int key_dim(int step, int r, int e, int t) {
    if constexpr (TYPE == CacheType::q4_0) {
        // Word t of a block: low nibbles are 4t .. 4t + 3, high nibbles 16 more. Even blocks are shifted by two bytes: see key_product.
        const int block = step / 2, byte = step % 2 + 2 * e;
        const int i = block % 2 ? 4 * t + byte : t < 3 ? 4 * t + 2 + byte : byte < 2 ? byte : 12 + byte;
        return 32 * block + 16 * r + i;
    } else if constexpr (TYPE == CacheType::q8_0) {
        const int block = step / 2, second = step % 2, byte = r + 2 * e;
        const int i = block % 2        ? 16 * second + 4 * t + byte
                    : !second || t < 3 ? 16 * second + 4 * t + 2 + byte
                    : byte < 2         ? byte : 28 + byte;
        return 32 * block + i;
    } else {
        return 16 * step + 8 * r + 2 * t + e;
    }
}

// Factor of that element of the query: high nibbles stay where they are, which makes them 16 times larger.
template <CacheType TYPE>
static __device__ __forceinline__ float key_factor(int r) {
    return TYPE == CacheType::q4_0 && r == 1 ? 1.0f / 16 : 1.0f;
}

// Dimension of row `row` (0: lane / 4, 1: 8 more) of value product `tile`, for lane / 4 == g.
template <CacheType TYPE>
static __device__ __forceinline__ int value_dim(int tile, int row, int g) {
    return is_quantised<TYPE> ? tile / 2 * 32 + 2 * g + tile % 2 + 16 * row : 16 * tile + g + 8 * row;
}

// What the accumulators of that row are to be multiplied by.
template <CacheType TYPE>
static __device__ __forceinline__ float value_unit(int row) {
    return TYPE != CacheType::q4_0 ? 1.0f : row == 0 ? float(1 << 24) : float(1 << 20);
}

template <CacheType TYPE>
static __device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (TYPE == CacheType::bf16) {
        ptx::mma_bf16(c, a, b0, b1);
    } else {
        ptx::mma_f16(c, a, b0, b1);
    }
}

// Two f32 as operand elements; part 1 of bf16 is what part 0 left over.
template <CacheType TYPE>
static __device__ __forceinline__ uint32_t pack(float x, float y, int part) {
    if constexpr (TYPE == CacheType::bf16) {
        const __nv_bfloat162 high = __floats2bfloat162_rn(x, y);
        return part == 0 ? bits(high) : bits(__floats2bfloat162_rn(x - __low2float(high), y - __high2float(high)));
    } else {
        return bits(__floats2half2_rn(x, y));
    }
}

template <int N_TILES, int D>
struct KeyConstants {
    // Sum of a block's query elements times -QUANT_OFFSET, for the columns of this lane: what the products start from.
    float start[N_TILES][D / 32][2];
};

// scores[n] = K[16 keys][D] . Q for the keys at `rows`.
template <CacheType TYPE, int D, int N_TILES, typename Queries, typename Constants>
static __device__ __forceinline__ void key_product(float (&scores)[N_TILES][4], const uint8_t * rows, const Queries & q, const Constants & constants,
                                                   int n_tiles, int lane) {
    constexpr int STRIDE = ROW_STRIDE<TYPE, D>;
#pragma unroll
    for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            scores[n][c] = 0.0f;
        }
    }

    if constexpr (!is_quantised<TYPE>) {
        const uint32_t address = ptx::shared_address(rows) + (lane % 16) * STRIDE + lane / 16 * 16;
#pragma unroll
        for (int step = 0; step < D / 16; ++step) {
            uint32_t a[4];
            ptx::ldmatrix_x4(a, address + 32 * step);
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
                if (n == 0 || n < n_tiles) {
#pragma unroll
                    for (int part = 0; part < N_PARTS<TYPE>; ++part) {
                        mma<TYPE>(scores[n], a, q[n][part][step][0], q[n][part][step][1]);
                    }
                }
            }
        }
    } else {
        // Two blocks start at a word and take whole words; the quants of the first lie half a word late. Of those, lanes take the whole words, and one
        // lane a word put together from the half words at both ends; key_dim says which dimensions that makes.
        constexpr int PAIR = 2 * BLOCK_BYTES<TYPE>;
        const int g = lane / 4, t = lane % 4;
        const uint32_t select = t < 3 ? 0x7654 : 0x5432; // the word itself, or the upper half of the first argument and the lower half of the second
        const uint8_t * row[2] = { rows + g * STRIDE, rows + (g + 8) * STRIDE };
#pragma unroll
        for (int pair = 0; pair < D / 64; ++pair) {
            uint32_t word[2][2][2]; // [block][word][row]
            float    scale[2][2];   // [block][row]
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const uint8_t * p = row[r] + pair * PAIR;
                const uint32_t head = load32(p);
                if constexpr (TYPE == CacheType::q8_0) {
                    const uint32_t middle = load32(p + 32);
                    word[0][0][r] = load32(p + 4 + 4 * t);
                    word[0][1][r] = __byte_perm(head, load32(p + 20 + 4 * t), select);
                    word[1][0][r] = load32(p + 36 + 4 * t);
                    word[1][1][r] = load32(p + 52 + 4 * t);
                    scale[1][r]   = __high2float(halves(middle));
                } else {
                    const uint32_t middle = load32(p + 16);
                    word[0][0][r] = __byte_perm(head, load32(p + 4 + 4 * t), select);
                    word[1][0][r] = load32(p + 20 + 4 * t);
                    scale[1][r]   = __high2float(halves(middle));
                }
                scale[0][r] = __low2float(halves(head));
            }
#pragma unroll
            for (int b = 0; b < 2; ++b) {
                const int block = 2 * pair + b;
                uint32_t a[2][4]; // [product][register]
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    const uint32_t w = word[b][0][r];
                    if constexpr (TYPE == CacheType::q8_0) {
                        const uint32_t v = word[b][1][r];
                        a[0][r]     = ptx::and_xor(w,      0x00ff00ff, 0x00800080);
                        a[0][r + 2] = ptx::and_xor(w >> 8, 0x00ff00ff, 0x00800080);
                        a[1][r]     = ptx::and_xor(v,      0x00ff00ff, 0x00800080);
                        a[1][r + 2] = ptx::and_xor(v >> 8, 0x00ff00ff, 0x00800080);
                    } else {
                        a[0][r]     = w & 0x000f000f;
                        a[0][r + 2] = w & 0x00f000f0;
                        a[1][r]     = w >> 8 & 0x000f000f;
                        a[1][r + 2] = w >> 8 & 0x00f000f0;
                    }
                }
#pragma unroll
                for (int n = 0; n < N_TILES; ++n) {
                    if (n == 0 || n < n_tiles) {
                        float c[4] = { constants.start[n][block][0], constants.start[n][block][1], constants.start[n][block][0], constants.start[n][block][1] };
                        ptx::mma_f16(c, a[0], q[n][0][2 * block][0], q[n][0][2 * block][1]);
                        ptx::mma_f16(c, a[1], q[n][0][2 * block + 1][0], q[n][0][2 * block + 1][1]);
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            scores[n][i] += scale[b][i / 2] * c[i];
                        }
                    }
                }
            }
        }
    }
}

// Makes the values of keys outside [begin, end) of the N_KEYS at `rows` zero: a probability of 0 does not undo a NaN. Quants are finite as they are.
template <CacheType TYPE, int D, int N_KEYS>
static __device__ __forceinline__ void clear_values(uint8_t * rows, int begin, int end, int lane) {
    constexpr int STRIDE = ROW_STRIDE<TYPE, D>, N = is_quantised<TYPE> ? D / 32 : D / 8;
    for (int i = lane; i < N_KEYS * N; i += 32) {
        const int key = i / N;
        if (key < begin || key >= end) {
            if constexpr (is_quantised<TYPE>) {
                *reinterpret_cast<uint16_t *>(rows + key * STRIDE + i % N * BLOCK_BYTES<TYPE>) = 0;
            } else {
                *reinterpret_cast<uint4 *>(rows + key * STRIDE + i % N * 16) = make_uint4(0, 0, 0, 0);
            }
        }
    }
    __syncwarp();
}

// out += V^T[D][16 keys] P^T for the values at `rows`; p[n][part]: operand b.
template <CacheType TYPE, int D, int N_TILES>
static __device__ __forceinline__ void value_product(float (&out)[N_TILES][D / 16][4], const uint8_t * rows, const uint32_t (&p)[N_TILES][N_PARTS<TYPE>][2],
                                                     int n_tiles, int lane) {
    constexpr int STRIDE = ROW_STRIDE<TYPE, D>;
    if constexpr (!is_quantised<TYPE>) {
        const uint32_t address = ptx::shared_address(rows) + (lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 16;
#pragma unroll
        for (int tile = 0; tile < D / 16; ++tile) {
            uint32_t a[4];
            ptx::ldmatrix_x4_trans(a, address + 32 * tile);
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
                if (n == 0 || n < n_tiles) {
#pragma unroll
                    for (int part = 0; part < N_PARTS<TYPE>; ++part) {
                        mma<TYPE>(out[n][tile], a, p[n][part][0], p[n][part][1]);
                    }
                }
            }
        }
    } else {
        constexpr int BLOCK = BLOCK_BYTES<TYPE>;
        const int g = lane / 4, t = lane % 4;
        const int key[4] = { 2 * t, 2 * t + 1, 2 * t + 8, 2 * t + 9 };
#pragma unroll
        for (int block = 0; block < D / 32; ++block) {
            uint32_t scale[2], a[2][4]; // scales of keys 2t, 2t + 1 and of 2t + 8, 2t + 9; [product][register]
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const uint8_t * x = rows + key[2 * h] * STRIDE + block * BLOCK, * y = x + STRIDE;
                scale[h] = __byte_perm(load16(x), load16(y), 0x5410);
                // Quants 2g, 2g + 1 and 16 more of both keys, side by side.
                const uint32_t low = __byte_perm(load16(x + 2 + 2 * g), load16(y + 2 + 2 * g), 0x5410);
                if constexpr (TYPE == CacheType::q8_0) {
                    // 0x6400 | (x + 128) is 1152 + x. Exact integers, not products less 128 times the sum of p, whose rounding would exceed the
                    // result where many keys weigh alike.
                    const uint32_t high = __byte_perm(load16(x + 18 + 2 * g), load16(y + 18 + 2 * g), 0x5410);
                    const half2 offset = __float2half2_rn(1152.0f);
                    a[0][2 * h]     = bits(halves(ptx::and_xor(low,       0x00ff00ff, 0x64806480)) - offset);
                    a[1][2 * h]     = bits(halves(ptx::and_xor(low >> 8,  0x00ff00ff, 0x64806480)) - offset);
                    a[0][2 * h + 1] = bits(halves(ptx::and_xor(high,      0x00ff00ff, 0x64806480)) - offset);
                    a[1][2 * h + 1] = bits(halves(ptx::and_xor(high >> 8, 0x00ff00ff, 0x64806480)) - offset);
                } else {
                    a[0][2 * h]     = low & 0x000f000f;
                    a[0][2 * h + 1] = low & 0x00f000f0;
                    a[1][2 * h]     = low >> 8 & 0x000f000f;
                    a[1][2 * h + 1] = low >> 8 & 0x00f000f0;
                }
            }
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
                if (n == 0 || n < n_tiles) {
                    const uint32_t b0 = bits(halves(p[n][0][0]) * halves(scale[0]));
                    const uint32_t b1 = bits(halves(p[n][0][1]) * halves(scale[1]));
                    if constexpr (TYPE == CacheType::q4_0) {
                        // Takes the offset 8 off, here and not at the end for the same reason as above; a product is cheaper than 8 subtractions.
                        constexpr uint32_t LOW = 0x80088008, HIGH = 0x80808080; // -8 in units of 2^-24, -128
                        const uint32_t eight[4] = { LOW, HIGH, LOW, HIGH };
                        ptx::mma_f16(out[n][2 * block],     eight, b0, b1);
                        ptx::mma_f16(out[n][2 * block + 1], eight, b0, b1);
                    }
                    ptx::mma_f16(out[n][2 * block],     a[0], b0, b1);
                    ptx::mma_f16(out[n][2 * block + 1], a[1], b0, b1);
                }
            }
        }
    }
}

} // namespace duo::cuda
