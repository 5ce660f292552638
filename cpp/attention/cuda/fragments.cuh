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
#include "rows.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace duo::cuda {

static __device__ __forceinline__ uint32_t bits(half2 h) { return *reinterpret_cast<uint32_t *>(&h); }
static __device__ __forceinline__ uint32_t bits(__nv_bfloat162 h) { return *reinterpret_cast<uint32_t *>(&h); }
static __device__ __forceinline__ half2 halves(uint32_t u) { return *reinterpret_cast<half2 *>(&u); }
static __device__ __forceinline__ uint32_t load16(const uint8_t * p) { return *reinterpret_cast<const uint16_t *>(p); }
static __device__ __forceinline__ uint32_t load32(const uint8_t * p) { return *reinterpret_cast<const uint32_t *>(p); }

// The word at p, which lies half a word late or not.
static __device__ __forceinline__ uint32_t load_word(const uint8_t * p, bool late) { return late ? load16(p) | load16(p + 2) << 16 : load32(p); }

template <CacheType TYPE>
struct TypeConstant {
    static constexpr CacheType value = TYPE;
};

// f(TypeConstant<TYPE>()); of the type at hand, where TYPE stands for several.
template <CacheType TYPE, typename F>
static __device__ __forceinline__ void with_type(CacheType type, F f) {
    if constexpr (TYPE != ANY_QUANTISED) {
        f(TypeConstant<TYPE>());
    } else {
        switch (type) {
            case CacheType::q4_0:   f(TypeConstant<CacheType::q4_0>());   break;
            case CacheType::q4_1:   f(TypeConstant<CacheType::q4_1>());   break;
            case CacheType::q5_0:   f(TypeConstant<CacheType::q5_0>());   break;
            case CacheType::q5_1:   f(TypeConstant<CacheType::q5_1>());   break;
            case CacheType::iq4_nl: f(TypeConstant<CacheType::iq4_nl>()); break;
            default:                f(TypeConstant<CacheType::q8_0>());   break;
        }
    }
}

// Of ANY_QUANTISED, the longest there are.
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
constexpr float QUANT_OFFSET = TYPE == CacheType::q8_0 || TYPE == CacheType::iq4_nl ? 128.0f : TYPE == CacheType::q4_0 ? 8.0f : TYPE == CacheType::q5_0 ? 16.0f : 0.0f;

// Blocks with a minimum, which is added to each value, instead.
template <CacheType TYPE>
constexpr bool HAS_MINIMUM = TYPE == CacheType::q4_1 || TYPE == CacheType::q5_1;

// Quants of 4 bits and, in q5, a fifth elsewhere; the upper nibbles stay where they are, which makes them 16 times larger.
template <CacheType TYPE>
constexpr bool HAS_FIFTHS = TYPE == CacheType::q5_0 || TYPE == CacheType::q5_1;
template <CacheType TYPE>
constexpr bool KEEPS_NIBBLES = TYPE == CacheType::q4_0 || TYPE == CacheType::q4_1 || HAS_FIFTHS<TYPE>;

// Where a block's fifth bits and quants begin.
template <CacheType TYPE>
constexpr int FIFTHS_AT = HAS_MINIMUM<TYPE> ? 4 : 2;
template <CacheType TYPE>
constexpr int QUANTS_AT = FIFTHS_AT<TYPE> + (HAS_FIFTHS<TYPE> ? 4 : 0);

// The 4 levels of iq4_nl that 4 nibbles stand for, plus 128, a byte each.
static __device__ __forceinline__ uint32_t iq4_nl_levels(uint32_t nibbles) {
    constexpr uint64_t PLUS_128 = 0x8080808080808080, NEGATIVE = IQ4_NL_NEGATIVE ^ PLUS_128, POSITIVE = IQ4_NL_POSITIVE ^ PLUS_128;
    const uint32_t which = nibbles & 0x7777;
    const uint32_t lower = __byte_perm(uint32_t(NEGATIVE), uint32_t(NEGATIVE >> 32), which), upper = __byte_perm(uint32_t(POSITIVE), uint32_t(POSITIVE >> 32), which);
    return __byte_perm(lower, upper, 0x3210 | (nibbles & 0x8888) >> 1);
}

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
    } else if constexpr (KEEPS_NIBBLES<TYPE>) {
        return step / 2 * 32 + 16 * r + 4 * t + step % 2 + 2 * e;
    } else if constexpr (TYPE == CacheType::iq4_nl) {
        return step / 2 * 32 + 16 * r + 4 * t + step % 2 * 2 + e;
    } else {
        return 16 * step + 8 * r + 2 * t + e;
    }
}

// Factor of that element of the query.
template <CacheType TYPE>
static __device__ __forceinline__ float key_factor(int r) {
    return KEEPS_NIBBLES<TYPE> && r == 1 ? 1.0f / 16 : 1.0f;
}

// Dimension of row `row` (0: lane / 4, 1: 8 more) of value product `tile`, for lane / 4 == g.
template <CacheType TYPE>
static __device__ __forceinline__ int value_dim(int tile, int row, int g) {
    return is_quantised<TYPE> ? tile / 2 * 32 + 2 * g + tile % 2 + 16 * row : 16 * tile + g + 8 * row;
}

// What the accumulators of that row are to be multiplied by.
template <CacheType TYPE>
static __device__ __forceinline__ float value_unit(int row) {
    return !KEEPS_NIBBLES<TYPE> ? 1.0f : row == 0 ? float(1 << 24) : float(1 << 20);
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
    // Sum of a block's query elements, for the columns of this lane: times -QUANT_OFFSET, which the products start from; or what a minimum multiplies.
    float start[N_TILES][D / 32][2];
};

// Word t of a block's quants, and of 16 more, as registers r and r + 2 of operand a; of types whose words all lie alike.
template <CacheType TYPE>
static __device__ __forceinline__ void key_operands(uint32_t (&a)[2][4], int r, const uint8_t * block, bool late, int t) {
    const uint32_t w = load_word(block + QUANTS_AT<TYPE> + 4 * t, late);
    if constexpr (TYPE == CacheType::iq4_nl) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const uint32_t x = iq4_nl_levels(w >> 16 * i);
            a[i][r]     = x & 0x00ff00ff;
            a[i][r + 2] = x >> 8 & 0x00ff00ff;
        }
    } else {
        a[0][r]     = w & 0x000f000f;
        a[0][r + 2] = w & 0x00f000f0;
        a[1][r]     = w >> 8 & 0x000f000f;
        a[1][r + 2] = w >> 8 & 0x00f000f0;
        if constexpr (HAS_FIFTHS<TYPE>) {
            const uint32_t h = load_word(block + FIFTHS_AT<TYPE>, late) >> 4 * t;
            a[0][r]     |= (h << 4 & 0x10) | (h << 18 & 0x100000);
            a[0][r + 2] |= (h >> 8 & 0x100) | (h << 6 & 0x1000000);
            a[1][r]     |= (h << 3 & 0x10) | (h << 17 & 0x100000);
            a[1][r + 2] |= (h >> 9 & 0x100) | (h << 5 & 0x1000000);
        }
    }
}

// scores[n] = K[16 keys][D] . Q for the keys at `rows`, STRIDE bytes apart.
template <CacheType TYPE, int D, int STRIDE, int N_TILES, typename Queries, typename Constants>
static __device__ __forceinline__ void key_product(float (&scores)[N_TILES][4], const uint8_t * rows, const Queries & q, const Constants & constants,
                                                   int n_tiles, int lane) {
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
        // Two blocks start at a word and take whole words; in most types the quants of the first lie half a word late. In q8_0 and q4_0 lanes take the whole
        // words, and one lane a word put together from the half words at both ends; key_dim says which dimensions that makes.
        constexpr bool BY_PAIRS = TYPE == CacheType::q8_0 || TYPE == CacheType::q4_0;
        constexpr int PAIR = 2 * BLOCK_BYTES<TYPE>;
        const int g = lane / 4, t = lane % 4;
        const uint32_t select = t < 3 ? 0x7654 : 0x5432; // the word itself, or the upper half of the first argument and the lower half of the second
        const uint8_t * row[2] = { rows + g * STRIDE, rows + (g + 8) * STRIDE };
#pragma unroll
        for (int pair = 0; pair < D / 64; ++pair) {
            uint32_t word[2][2][2]; // [block][word][row]
            float    scale[2][2];   // [block][row]
#pragma unroll
            for (int r = 0; BY_PAIRS && r < 2; ++r) {
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
                float minimum[2];
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    if constexpr (!BY_PAIRS) {
                        const uint8_t * p = row[r] + block * BLOCK_BYTES<TYPE>;
                        key_operands<TYPE>(a, r, p, !HAS_MINIMUM<TYPE> && b == 0, t);
                        scale[b][r] = half_at(p);
                        minimum[r]  = HAS_MINIMUM<TYPE> ? half_at(p + 2) : 0.0f;
                    } else if constexpr (TYPE == CacheType::q8_0) {
                        const uint32_t w = word[b][0][r], v = word[b][1][r];
                        a[0][r]     = ptx::and_xor(w,      0x00ff00ff, 0x00800080);
                        a[0][r + 2] = ptx::and_xor(w >> 8, 0x00ff00ff, 0x00800080);
                        a[1][r]     = ptx::and_xor(v,      0x00ff00ff, 0x00800080);
                        a[1][r + 2] = ptx::and_xor(v >> 8, 0x00ff00ff, 0x00800080);
                    } else {
                        const uint32_t w = word[b][0][r];
                        a[0][r]     = w & 0x000f000f;
                        a[0][r + 2] = w & 0x00f000f0;
                        a[1][r]     = w >> 8 & 0x000f000f;
                        a[1][r + 2] = w >> 8 & 0x00f000f0;
                    }
                }
#pragma unroll
                for (int n = 0; n < N_TILES; ++n) {
                    if (n == 0 || n < n_tiles) {
                        float c[4] = {};
#pragma unroll
                        for (int i = 0; !HAS_MINIMUM<TYPE> && i < 4; ++i) {
                            c[i] = constants.start[n][block][i % 2];
                        }
                        ptx::mma_f16(c, a[0], q[n][0][2 * block][0], q[n][0][2 * block][1]);
                        ptx::mma_f16(c, a[1], q[n][0][2 * block + 1][0], q[n][0][2 * block + 1][1]);
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            scores[n][i] += scale[b][i / 2] * c[i];
                            if constexpr (HAS_MINIMUM<TYPE>) {
                                scores[n][i] += minimum[i / 2] * constants.start[n][block][i % 2];
                            }
                        }
                    }
                }
            }
        }
    }
}

// Makes the values of keys outside [begin, end) of the N_KEYS at `rows` zero: a probability of 0 does not undo a NaN. Quants are finite as they are.
template <CacheType TYPE, int D, int STRIDE, int N_KEYS>
static __device__ __forceinline__ void clear_values(uint8_t * rows, int begin, int end, int lane) {
    constexpr int N = is_quantised<TYPE> ? D / 32 : D / 8;
    for (int i = lane; i < N_KEYS * N; i += 32) {
        const int key = i / N;
        if (key < begin || key >= end) {
            if constexpr (HAS_MINIMUM<TYPE>) {
                *reinterpret_cast<uint32_t *>(rows + key * STRIDE + i % N * BLOCK_BYTES<TYPE>) = 0;
            } else if constexpr (is_quantised<TYPE>) {
                *reinterpret_cast<uint16_t *>(rows + key * STRIDE + i % N * BLOCK_BYTES<TYPE>) = 0;
            } else {
                *reinterpret_cast<uint4 *>(rows + key * STRIDE + i % N * 16) = make_uint4(0, 0, 0, 0);
            }
        }
    }
    __syncwarp();
}

// out += V^T[D][16 keys] P^T for the values at `rows`; p[n][part]: operand b.
template <CacheType TYPE, int D, int STRIDE, int N_TILES>
static __device__ __forceinline__ void value_product(float (&out)[N_TILES][D / 16][4], const uint8_t * rows, const uint32_t (&p)[N_TILES][N_PARTS<TYPE>][2],
                                                     int n_tiles, int lane) {
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
            uint32_t scale[2], minimum[2], a[2][4]; // scales of keys 2t, 2t + 1 and of 2t + 8, 2t + 9; [product][register]
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const uint8_t * x = rows + key[2 * h] * STRIDE + block * BLOCK, * y = x + STRIDE;
                scale[h] = __byte_perm(load16(x), load16(y), 0x5410);
                // Quants 2g, 2g + 1 and 16 more of both keys, side by side.
                const uint32_t low = __byte_perm(load16(x + QUANTS_AT<TYPE> + 2 * g), load16(y + QUANTS_AT<TYPE> + 2 * g), 0x5410);
                if constexpr (HAS_MINIMUM<TYPE>) {
                    minimum[h] = __byte_perm(load16(x + 2), load16(y + 2), 0x5410);
                }
                if constexpr (TYPE == CacheType::iq4_nl) {
                    const uint32_t of_x = iq4_nl_levels(low), of_y = iq4_nl_levels(low >> 16);
                    const half2 offset = __float2half2_rn(1152.0f); // as in q8_0
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        const uint32_t levels = __byte_perm(of_x, of_y, i == 0 ? 0x5410 : 0x7632);
                        a[i][2 * h]     = bits(halves((levels & 0x00ff00ff) | 0x64006400) - offset);
                        a[i][2 * h + 1] = bits(halves((levels >> 8 & 0x00ff00ff) | 0x64006400) - offset);
                    }
                } else if constexpr (TYPE == CacheType::q8_0) {
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
                    if constexpr (HAS_FIFTHS<TYPE>) { // those of dimensions 2g, 2g + 1, and 16 more
                        const uint8_t * u = x + FIFTHS_AT<TYPE>, * v = y + FIFTHS_AT<TYPE>;
                        const uint32_t lower = __byte_perm(load16(u), load16(v), 0x5410) >> 2 * g, upper = __byte_perm(load16(u + 2), load16(v + 2), 0x5410) >> 2 * g;
                        a[0][2 * h]     |= lower << 4 & 0x00100010;
                        a[0][2 * h + 1] |= upper << 8 & 0x01000100;
                        a[1][2 * h]     |= lower << 3 & 0x00100010;
                        a[1][2 * h + 1] |= upper << 7 & 0x01000100;
                    }
                }
            }
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
                if (n == 0 || n < n_tiles) {
                    const uint32_t b0 = bits(halves(p[n][0][0]) * halves(scale[0]));
                    const uint32_t b1 = bits(halves(p[n][0][1]) * halves(scale[1]));
                    if constexpr (KEEPS_NIBBLES<TYPE>) {
                        // Takes the offset off or adds the minimum, here and not at the end for the same reason as above; a product is cheaper than 8 subtractions.
                        constexpr uint32_t SHIFT = TYPE == CacheType::q4_0 ? 0x80088008 : TYPE == CacheType::q5_0 ? 0x80108010 : 0x00010001; // in units of 2^-24:
                        constexpr uint32_t SIGN = SHIFT & 0x80008000, HIGH = SIGN | (SHIFT ^ SIGN) << 4;                                     // -8, -16, 1
                        const uint32_t shift[4] = { SHIFT, HIGH, SHIFT, HIGH };
                        const uint32_t c0 = HAS_MINIMUM<TYPE> ? bits(halves(p[n][0][0]) * halves(minimum[0])) : b0;
                        const uint32_t c1 = HAS_MINIMUM<TYPE> ? bits(halves(p[n][0][1]) * halves(minimum[1])) : b1;
                        ptx::mma_f16(out[n][2 * block],     shift, c0, c1);
                        ptx::mma_f16(out[n][2 * block + 1], shift, c0, c1);
                    }
                    ptx::mma_f16(out[n][2 * block],     a[0], b0, b1);
                    ptx::mma_f16(out[n][2 * block + 1], a[1], b0, b1);
                }
            }
        }
    }
}

} // namespace duo::cuda
