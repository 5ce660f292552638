// Attention of many queries: bound by the tensor cores.
//
// A block takes 128 rows, the query heads of one KV head for as many tokens as fit, so that a key is read once for all of them, and walks the cells
// they see in tiles. Visibility is arithmetic: tiles that nobody sees are not visited, and only tiles at an edge are masked. Streaming heads thus
// do their window's work alone. One tile is at work and one on its way. Accumulators are f32 throughout.
//
// Where the output of 16 rows would not fit in the registers of a warp, a head's dimensions are cut in slices, each the work of other warps: a slice of
// each dot product, which they add up through shared memory, and a slice of the output.
//
// Where there are fewer blocks than the card holds (a short ubatch on a long context), the tiles of a block are split over several, whose parts
// a second launch joins.
#pragma once

#include "cells.cuh"
#include "fragments.cuh"
#include "merge.cuh"
#include "rotation.cuh"
#include "wgmma.cuh"

namespace duo::cuda {

// KEYS_: of a tile.
template <CacheType K_, CacheType V_, int D_, int KEYS_>
struct PrefillConfig {
    static constexpr CacheType K    = K_, V = V_;
    static constexpr int  D         = D_;
    static constexpr int  KEYS      = KEYS_;
    static constexpr int  SLICES    = D <= 256 ? 1 : KEYS >= 32 ? 2 : 4; // of a head
    static constexpr int  SLICE     = D / SLICES;                   // dimensions
    static constexpr int  ROWS      = D <= 256 ? 128 : 64;
    static constexpr int  M_TILES   = D <= 128 ? 2 : 1;             // of 16 rows a warp: two share each fragment of K and V, where registers allow it
    static constexpr int  ROW_WARPS = ROWS / (16 * M_TILES);        // of a slice
    static constexpr int  WARPS     = ROW_WARPS * SLICES;
    static constexpr int  BLOCKS    = D <= 128 ? 2 : 1;             // on a multiprocessor: one multiplies while the other takes exponentials
    static constexpr int  STRIDE    = 2 * D + 16;                   // bytes of a row of f16; padding spreads ldmatrix over the banks
    static constexpr bool CONVERTS  = K != CacheType::f16 || V != CacheType::f16; // raw tiles are made f16 in shared memory
    static constexpr int  K_RAW     = KEYS * ROW_BYTES<K, D>, V_RAW = KEYS * ROW_BYTES<V, D>; // bytes of a tile; at most, of ANY_QUANTISED
    static constexpr int  TILE      = KEYS * STRIDE;
    static constexpr bool WARPGROUPS = HAS_WGMMA && D % 64 == 0 && KEYS >= 32; // in device code: products of four warps each
    static constexpr bool HOLDS_QUERIES = D >= 256 && KEYS < 32;    // in registers, which leaves shared memory to the tiles
    static constexpr int  Q_BYTES   = ROWS * STRIDE;
    static constexpr int  STAGE     = CONVERTS ? K_RAW + V_RAW : 2 * TILE; // keys, then values, as they arrive
    static constexpr int  N_STAGES  = CONVERTS ? 1 : 2;             // a raw tile is free for the next as soon as it is converted
    static constexpr int  SCORES    = M_TILES * (KEYS / 8) * 32;    // float4 of a warp, for the others of its rows
    static constexpr int  SCORE_BYTES = SLICES > 1 ? WARPS * SCORES * 16 : 0;
    static constexpr int  TILES     = N_STAGES * STAGE + (CONVERTS ? 2 * TILE : 0) + SCORE_BYTES;
    static constexpr int  SHARED    = (!HOLDS_QUERIES ? Q_BYTES + TILES : Q_BYTES > TILES ? Q_BYTES : TILES) + ROWS * 8;
    static constexpr int  PART_FLOATS = ROWS * (D + 2);
    // As in decode: a maximum is raised only when it grows by 2^6, p keeps 2^5 above the bottom of f16.
    static constexpr float HEADROOM = 5.0f, SLACK = 6.0f;
};

// How a launch cuts its queries: block b has tokens [b * block_tokens, ...).
struct PrefillShape {
    int32_t ratio;          // query heads of a KV head
    int32_t block_tokens;   // ROWS / ratio
    int32_t n_token_blocks;
    int32_t n_splits;
    int32_t k_row, v_row;   // bytes of a row
};

// The KV head of rank i when retrieval heads come first: their blocks are the long ones, and start first. For one warp.
static __device__ __forceinline__ int head_of_rank(const Layout & layout, int rank) {
    const int lane = threadIdx.x % 32;
    for (const bool sees_window : { false, true }) {
        for (int first = 0; first < layout.n_head_kv; first += 32) {
            const int head = first + lane;
            const uint32_t mask = __ballot_sync(~0u, head < layout.n_head_kv && (head_at(layout, head).recent < SEES_ALL) == sees_window);
            if (rank < __popc(mask)) {
                return first + __fns(mask, 0, rank + 1);
            }
            rank -= __popc(mask);
        }
    }
    return 0;
}

// 8 N values of a row as f16: of a quantised one, two blocks. Those start at a word; in most types the quants of the first lie half a word late.
template <CacheType TYPE, int N>
static __device__ __forceinline__ void convert_piece(uint4 (&to)[N], const uint8_t * from) {
    uint32_t * const out = reinterpret_cast<uint32_t *>(to);
    // A byte x below 0x64 is the half 1024 + x.
    const auto plus_1024 = [](uint32_t bytes, uint32_t select) { return halves(__byte_perm(bytes, 0x64, select)); };
    if constexpr (TYPE == CacheType::f16) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            to[i] = reinterpret_cast<const uint4 *>(from)[i];
        }
    } else if constexpr (TYPE == CacheType::bf16) {
        // Exact in f16's range; beyond it, values saturate.
        static_assert(N == 1);
        const uint4 raw = *reinterpret_cast<const uint4 *>(from);
        const uint32_t words[4] = { raw.x, raw.y, raw.z, raw.w };
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            out[i] = ptx::saturated_halves(__uint_as_float(words[i] << 16), __uint_as_float(words[i] & 0xffff0000));
        }
    } else if constexpr (TYPE == CacheType::q8_0 || TYPE == CacheType::q4_0) {
        constexpr int WORDS = TYPE == CacheType::q8_0 ? 8 : 4; // of a block's quants
        uint32_t w[2 * WORDS + 1];
#pragma unroll
        for (int i = 0; i < 2 * WORDS + 1; ++i) {
            w[i] = load32(from + 4 * i);
        }
        const half2 scale[2] = { __low2half2(halves(w[0])), __high2half2(halves(w[WORDS])) };
#pragma unroll
        for (int b = 0; b < 2; ++b) {
#pragma unroll
            for (int i = 0; i < WORDS; ++i) {
                const uint32_t word = b == 0 ? __byte_perm(w[i], w[i + 1], 0x5432) : w[WORDS + 1 + i];
                if constexpr (TYPE == CacheType::q8_0) {
                    const uint32_t x = word ^ 0x80808080; // plus 128
                    const half2 offset = __float2half2_rn(1152.0f);
                    out[b * 16 + 2 * i]     = bits((plus_1024(x, 0x4140) - offset) * scale[b]);
                    out[b * 16 + 2 * i + 1] = bits((plus_1024(x, 0x4342) - offset) * scale[b]);
                } else {
                    const half2 offset = __float2half2_rn(1032.0f);
#pragma unroll
                    for (int upper = 0; upper < 2; ++upper) {
                        const uint32_t x = word >> 4 * upper & 0x0f0f0f0f;
                        out[b * 16 + upper * 8 + 2 * i]     = bits((plus_1024(x, 0x4140) - offset) * scale[b]);
                        out[b * 16 + upper * 8 + 2 * i + 1] = bits((plus_1024(x, 0x4342) - offset) * scale[b]);
                    }
                }
            }
        }
    } else {
#pragma unroll
        for (int b = 0; b < 2; ++b) {
            const uint8_t * const block = from + b * BLOCK_BYTES<TYPE>;
            const bool  late   = !HAS_MINIMUM<TYPE> && b == 0;
            const half2 scale  = __half2half2(*reinterpret_cast<const __half *>(block));
            const half2 offset = __float2half2_rn(1024.0f + QUANT_OFFSET<TYPE>);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const uint32_t w = load_word(block + QUANTS_AT<TYPE> + 4 * i, late);
#pragma unroll
                for (int upper = 0; upper < 2; ++upper) {
                    half2 x[2];
                    if constexpr (TYPE == CacheType::iq4_nl) {
#pragma unroll
                        for (int k = 0; k < 2; ++k) {
                            x[k] = plus_1024(iq4_nl_levels(w >> 16 * k), upper ? 0x4341 : 0x4240);
                        }
                    } else {
                        uint32_t bytes = w >> 4 * upper & 0x0f0f0f0f;
                        if constexpr (HAS_FIFTHS<TYPE>) {
                            const uint32_t h = load_word(block + FIFTHS_AT<TYPE>, late) >> (16 * upper + 4 * i);
                            bytes |= (h << 4 & 0x10) | (h << 11 & 0x1000) | (h << 18 & 0x100000) | (h << 25 & 0x10000000);
                        }
                        x[0] = plus_1024(bytes, 0x4140), x[1] = plus_1024(bytes, 0x4342);
                    }
#pragma unroll
                    for (int k = 0; k < 2; ++k) {
                        const half2 quants = x[k] - offset;
                        if constexpr (HAS_MINIMUM<TYPE>) {
                            out[b * 16 + upper * 8 + 2 * i + k] = bits(__hfma2(quants, scale, __half2half2(*reinterpret_cast<const __half *>(block + 2))));
                        } else {
                            out[b * 16 + upper * 8 + 2 * i + k] = bits(quants * scale);
                        }
                    }
                }
            }
        }
    }
}

// Where byte `at` of a row of a tile of N_ROWS lies. Warpgroup products want panels of 128 bytes of all rows, 16-byte pieces exchanged; warp
// products are content with padded rows.
template <typename Config, int N_ROWS>
static __device__ __forceinline__ int tile_offset(int row, int at) {
    if constexpr (Config::WARPGROUPS) {
        return at / 128 * (N_ROWS * 128) + row * 128 + (at % 128 ^ row % 8 * 16);
    } else {
        return row * Config::STRIDE + at;
    }
}

template <typename Config>
static __global__ void __launch_bounds__(Config::WARPS * 32, Config::BLOCKS)
prefill_kernel(const __grid_constant__ AttentionParams p, const __grid_constant__ PrefillShape shape) {
    constexpr CacheType K = Config::K, V = Config::V;
    constexpr int D = Config::D, KEYS = Config::KEYS, M_TILES = Config::M_TILES, STRIDE = Config::STRIDE, THREADS = Config::WARPS * 32;
    constexpr int SLICES = Config::SLICES, SLICE = Config::SLICE;
    constexpr int TILE = Config::WARPGROUPS ? KEYS * 2 * D : Config::TILE, STAGE = Config::CONVERTS ? Config::STAGE : 2 * TILE;

    extern __shared__ __align__(1024) uint8_t shared[];
    uint8_t * const queries = shared;                                             // [ROWS] f16
    constexpr int Q_BYTES   = Config::HOLDS_QUERIES ? 0 : Config::ROWS * (Config::WARPGROUPS ? 2 * D : STRIDE);
    uint8_t * const halved  = queries + Q_BYTES;                                  // keys and values as f16, where they have to be made so
    uint8_t * const stages  = halved + (Config::CONVERTS ? 2 * TILE : 0);         // two of keys and values
    int2    * const sight   = reinterpret_cast<int2 *>(shared + Config::SHARED - Config::ROWS * 8); // of each row: position, begin of the recent window
    float4  * const slices  = reinterpret_cast<float4 *>(shared + Config::SHARED - Config::ROWS * 8 - Config::SCORE_BYTES); // of scores, by slice and warp

    ptx::wait_for_previous_kernel();
    const Layout & layout = p.layout;
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, g = lane / 4, t = lane % 4;
    const int slice = SLICES == 1 ? 0 : warp / Config::ROW_WARPS, row_warp = SLICES == 1 ? warp : warp % Config::ROW_WARPS;
    const int k_row = K == ANY_QUANTISED ? shape.k_row : ROW_BYTES<K, D>, v_row = V == ANY_QUANTISED ? shape.v_row : ROW_BYTES<V, D>;

    const int split = blockIdx.x % shape.n_splits, item = blockIdx.x / shape.n_splits;
    const int head  = head_of_rank(layout, item / shape.n_token_blocks);
    const int first_token = (shape.n_token_blocks - 1 - item % shape.n_token_blocks) * shape.block_tokens; // the last see the most
    const int end_token   = min(first_token + shape.block_tokens, layout.n_tokens);
    const Head what        = head_at(layout, head);
    const bool sees_window = what.recent < SEES_ALL;

    // Queries, with the scale and log2(e) in them.
    const float q_factor = p.softcap != 0.0f ? p.scale / p.softcap : p.scale * 1.44269504f;
    for (int i = thread; i < Config::ROWS * (D / 4); i += THREADS) {
        const int row = i / (D / 4), token = first_token + row / shape.ratio;
        float4 x = make_float4(0, 0, 0, 0);
        if (token < end_token) {
            x = reinterpret_cast<const float4 *>(p.q + (int64_t(token) * p.n_head + head * shape.ratio + row % shape.ratio) * D)[i % (D / 4)];
        }
        *reinterpret_cast<uint2 *>(queries + tile_offset<Config, Config::ROWS>(row, i % (D / 4) * 8)) =
            make_uint2(bits(__floats2half2_rn(x.x * q_factor, x.y * q_factor)), bits(__floats2half2_rn(x.z * q_factor, x.w * q_factor)));
    }

    // Warpgroup products read shared memory past the ordinary path.
    const auto make_visible = []() {
        if constexpr (Config::WARPGROUPS) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
            ptx::fence_async();
#endif
        }
    };
    // Row of this lane in tile m, and 8 below it.
    const auto row_of = [&](int m, int r) { return (Config::WARPGROUPS ? (row_warp / 4 * M_TILES + m) * 64 + row_warp % 4 * 16 : (row_warp * M_TILES + m) * 16) + g + 8 * r; };

    uint32_t held[Config::HOLDS_QUERIES ? M_TILES : 1][SLICE / 16][4];
    const uint32_t q_address = ptx::shared_address(queries) + (row_warp * 16 * M_TILES + lane % 16) * STRIDE + lane / 16 * 16 + slice * SLICE * 2; // of warp products
    if constexpr (Config::HOLDS_QUERIES) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < M_TILES * (SLICE / 16); ++i) {
            ptx::ldmatrix_x4(held[i / (SLICE / 16)][i % (SLICE / 16)], q_address + i / (SLICE / 16) * 16 * STRIDE + i % (SLICE / 16) * 32);
        }
    }

    float * const part = p.partials + int64_t(blockIdx.x) * Config::PART_FLOATS;

    // Tokens of one stream at a time; mostly there is but one.
    for (int run_begin = first_token, run_end; run_begin < end_token; run_begin = run_end) {
        const int stream = layout.tokens[2 * run_begin + 1];
        for (run_end = run_begin + 1; run_end < end_token && layout.tokens[2 * run_end + 1] == stream; ++run_end) {
        }
        const int32_t first_position = layout.tokens[2 * run_begin], last_position = layout.tokens[2 * (run_end - 1)];
        const int32_t last_window = sees_window ? window_begin(layout, what.recent, last_position) : -1;
        const int64_t first_row   = stream * layout.n_rows + what.first_row;
        __syncthreads();
        for (int row = thread; row < Config::ROWS; row += THREADS) {
            const int token = first_token + row / shape.ratio;
            const int32_t position = token >= run_begin && token < run_end ? layout.tokens[2 * token] : -1;
            sight[row] = make_int2(position, sees_window ? window_begin(layout, what.recent, position) : -1);
        }
        __syncthreads();

        // This split's tiles of all those of the runs, one after another.
        const Cells cells(layout, what, first_position, last_position);
        const int n_all = cells.n_tiles(layout, what.ring, KEYS);
        const int tile_begin = int(int64_t(n_all) * split / shape.n_splits), n_tiles = int(int64_t(n_all) * (split + 1) / shape.n_splits) - tile_begin;
        Run run;
        int cell;
        const auto find_tile = [&](int index) { cells.find_tile(layout, what.ring, KEYS, index, run, cell); };

        const auto fetch = [&](int stage) {
            const uint32_t to = ptx::shared_address(stages + stage * STAGE);
            const uint8_t * k = static_cast<const uint8_t *>(p.k_cache) + (first_row + cell) * k_row;
            const uint8_t * v = static_cast<const uint8_t *>(p.v_cache) + (first_row + cell) * v_row;
            if constexpr (!Config::CONVERTS) {
                constexpr int PIECES = D / 8;
#pragma unroll
                for (int i = thread; i < KEYS * PIECES; i += THREADS) {
                    const int key = i / PIECES, at = tile_offset<Config, KEYS>(key, i % PIECES * 16);
                    const bool exists = cell + key >= run.begin && cell + key < run.end; // else zero: a probability of 0 does not undo a NaN
                    ptx::cp_async_16_or_zero(to + at, exists ? k + i * 16 : k, exists);
                    ptx::cp_async_16_or_zero(to + TILE + at, exists ? v + i * 16 : v, exists);
                }
            } else {
                const int n_cells = min(KEYS, (run.end - cell + CELL_ALIGN - 1) & ~(CELL_ALIGN - 1));
                if constexpr (K == V && K != ANY_QUANTISED) {
#pragma unroll 4
                    for (int i = thread * 16; i < n_cells * k_row; i += THREADS * 16) {
                        ptx::cp_async_16(to + i, k + i);
                        ptx::cp_async_16(to + Config::K_RAW + i, v + i);
                    }
                } else {
#pragma unroll 4
                    for (int i = thread * 16; i < n_cells * k_row; i += THREADS * 16) {
                        ptx::cp_async_16(to + i, k + i);
                    }
#pragma unroll 4
                    for (int i = thread * 16; i < n_cells * v_row; i += THREADS * 16) {
                        ptx::cp_async_16(to + Config::K_RAW + i, v + i);
                    }
                }
            }
        };

        // Makes rows [first, last) of a raw tile, keys before values, f16; keys outside [begin, end) become zero, whatever their rows hold.
        const auto convert_rows = [&](auto n_values, const uint8_t * raw, int first, int last, int begin, int end) {
            constexpr int VALUES = decltype(n_values)::value, PIECES = D / VALUES; // of a row, one for a thread at a time
            for (int i = thread; i < (last - first) * PIECES; i += THREADS) {
                // Large pieces are taken of 8 rows at a time, which lie in banks of their own.
                const int row = first + (VALUES == 8 ? i / PIECES : i / 8 / PIECES * 8 + i % 8), piece = VALUES == 8 ? i % PIECES : i / 8 % PIECES, key = row % KEYS;
                uint4 x[VALUES / 8] = {};
                if (key >= begin && key < end) {
                    if constexpr (K == V && K != ANY_QUANTISED) {
                        convert_piece<K>(x, raw + row * ROW_BYTES<K, D> + piece * (ROW_BYTES<K, D> / PIECES)); // values follow keys at once
                    } else if (row < KEYS) {
                        if constexpr (is_quantised<K> == (VALUES != 8)) {
                            with_type<K>(p.type_k, [&](auto type) { convert_piece<decltype(type)::value>(x, raw + key * k_row + piece * (k_row / PIECES)); });
                        }
                    } else if constexpr (is_quantised<V> == (VALUES != 8)) {
                        const uint8_t * from = raw + Config::K_RAW + key * v_row + piece * (v_row / PIECES);
                        with_type<V>(p.type_v, [&](auto type) { convert_piece<decltype(type)::value>(x, from); });
                    }
                }
#pragma unroll
                for (int v = 0; v < VALUES / 8; ++v) {
                    *reinterpret_cast<uint4 *>(halved + row / KEYS * TILE + tile_offset<Config, KEYS>(key, (piece * VALUES + v * 8) * 2)) = x[v];
                }
            }
        };
        const auto convert = [&](const uint8_t * raw, int begin, int end) {
            const std::integral_constant<int, is_quantised<K> ? 64 : 8> of_key;
            const std::integral_constant<int, is_quantised<V> ? 64 : 8> of_value;
            if constexpr (is_quantised<K> == is_quantised<V>) {
                convert_rows(of_key, raw, 0, 2 * KEYS, begin, end);
            } else {
                convert_rows(of_key, raw, 0, KEYS, begin, end);
                convert_rows(of_value, raw, KEYS, 2 * KEYS, begin, end);
            }
        };

        float out[M_TILES][SLICE / 8][4] = {}, sum[M_TILES][4] = {}, maximum[M_TILES][2];
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
            maximum[m][0] = maximum[m][1] = NO_KEY;
        }

        if (n_tiles > 0) {
            find_tile(tile_begin);
            fetch(0);
        }
        ptx::cp_async_commit();
        for (int tile = 0; tile < n_tiles; ++tile) {
            const Run at_run = run;
            const int at_cell = cell;
            ptx::cp_async_wait<0>();
            make_visible();
            __syncthreads(); // the tile is there for all, and all are done with the one before
            const auto fetch_next = [&]() {
                if (tile + 1 < n_tiles) {
                    cell += KEYS;
                    if (cell >= run.end) {
                        find_tile(tile_begin + tile + 1);
                    }
                    fetch((tile + 1) % Config::N_STAGES);
                }
                ptx::cp_async_commit();
            };

            const uint8_t * keys = stages + tile % Config::N_STAGES * STAGE;
            if constexpr (Config::CONVERTS) {
                convert(keys, at_run.begin - at_cell, at_run.end - at_cell);
                make_visible();
                __syncthreads();
                keys = halved;
            }
            fetch_next();
            const uint8_t * const values = keys + TILE;

            float score[M_TILES][KEYS / 8][4];
            const int first = at_cell + at_run.offset; // position of key 0
            const bool all_see = at_cell >= at_run.begin && at_cell + KEYS <= at_run.end && first + KEYS - 1 <= first_position
                               && (first >= last_window || first + KEYS <= layout.sink) && run_end - run_begin == end_token - first_token;

            // Adds up the slices of scores, in one order for all warps of a row: they then go on with the same bits.
            const auto add_slices = [&]() {
                constexpr int N = M_TILES * (KEYS / 8);
                float4 * const mine = slices + row_warp * Config::SCORES + lane;
#pragma unroll
                for (int i = 0; i < N; ++i) {
                    const float (&x)[4] = score[i / (KEYS / 8)][i % (KEYS / 8)];
                    mine[(slice * Config::ROW_WARPS) * Config::SCORES + 32 * i] = make_float4(x[0], x[1], x[2], x[3]);
                }
                ptx::barrier<SLICES * 32>(1 + row_warp);
#pragma unroll
                for (int i = 0; i < N; ++i) {
                    float4 sum = mine[32 * i];
#pragma unroll
                    for (int k = 1; k < SLICES; ++k) {
                        const float4 x = mine[k * Config::ROW_WARPS * Config::SCORES + 32 * i];
                        sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
                    }
                    float (&x)[4] = score[i / (KEYS / 8)][i % (KEYS / 8)];
                    x[0] = sum.x, x[1] = sum.y, x[2] = sum.z, x[3] = sum.w;
                }
            };

            // Hides what rows do not see, and raises their maxima. New maxima are rare: look for one in the whole warp, and only then agree on it.
            const auto settle = [&]() {
                if constexpr (SLICES > 1) {
                    add_slices();
                }
                float top[M_TILES][2];
                bool grows = false;
#pragma unroll
                for (int m = 0; m < M_TILES; ++m) {
                    if (p.softcap != 0.0f) {
#pragma unroll
                        for (int i = 0; i < KEYS / 2; ++i) {
                            score[m][i / 4][i % 4] = p.softcap * 1.44269504f * ptx::tanh(score[m][i / 4][i % 4]);
                        }
                    }
                    if (!all_see) { // a tile at an edge of what somebody sees
#pragma unroll
                        for (int row = 0; row < 2; ++row) {
                            const int2 see = sight[row_of(m, row)];
#pragma unroll
                            for (int i = 0; i < KEYS / 4; ++i) {
                                const int key = i / 2 * 8 + 2 * t + i % 2, j = first + key;
                                const bool exists  = at_cell + key >= at_run.begin && at_cell + key < at_run.end;
                                const bool visible = exists && j <= see.x && (j < layout.sink || j >= see.y);
                                float & x = score[m][i / 2][2 * row + i % 2];
                                x = visible ? x : -INFINITY;
                            }
                        }
                    }
#pragma unroll
                    for (int row = 0; row < 2; ++row) {
                        float x = score[m][0][2 * row];
#pragma unroll
                        for (int i = 1; i < KEYS / 4; ++i) {
                            x = fmaxf(x, score[m][i / 2][2 * row + i % 2]);
                        }
                        top[m][row] = x;
                        grows |= x > maximum[m][row] + (Config::HEADROOM + Config::SLACK);
                    }
                }
                if (__any_sync(~0u, grows)) {
#pragma unroll
                    for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
                        for (int row = 0; row < 2; ++row) {
                            float x = top[m][row];
                            x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
                            x = fmaxf(x, __shfl_xor_sync(~0u, x, 2));
                            x = fmaxf(maximum[m][row], x - Config::HEADROOM);
                            const float shrink = ptx::exp2(maximum[m][row] - x);
                            maximum[m][row] = x;
                            sum[m][2 * row]     *= shrink;
                            sum[m][2 * row + 1] *= shrink;
#pragma unroll
                            for (int n = 0; n < SLICE / 8; ++n) {
                                out[m][n][2 * row]     *= shrink;
                                out[m][n][2 * row + 1] *= shrink;
                            }
                        }
                    }
                }
            };

            // From the scores of rows m to their probabilities, operand a of the output's products.
            const auto exponentials = [&](int m, uint32_t (&a)[KEYS / 16][4]) {
#pragma unroll
                for (int k = 0; k < KEYS / 16; ++k) {
#pragma unroll
                    for (int r = 0; r < 4; ++r) {
                        const float * s = score[m][2 * k + r / 2] + r % 2 * 2;
                        a[k][r] = bits(__floats2half2_rn(ptx::exp2(s[0] - maximum[m][r % 2]), ptx::exp2(s[1] - maximum[m][r % 2])));
                    }
                    // The sum of a row is a product with ones: it adds what is multiplied, not what was rounded.
                    constexpr uint32_t ONES = 0x3c003c00;
                    ptx::mma_f16(sum[m], a[k], ONES, ONES);
                }
            };

            uint32_t a[M_TILES][KEYS / 16][4];
            if constexpr (Config::WARPGROUPS) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
                const uint32_t q_group   = ptx::shared_address(queries) + row_warp / 4 * M_TILES * 64 * 128 + slice * (SLICE / 64) * Config::ROWS * 128;
                const uint32_t k_address = ptx::shared_address(keys) + slice * (SLICE / 64) * KEYS * 128;
                const uint32_t v_address = ptx::shared_address(values) + slice * (SLICE / 64) * KEYS * 128;
                ptx::wgmma_fence();
#pragma unroll
                for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
                    for (int step = 0; step < SLICE / 16; ++step) {
                        const int at = step % 4 * 32;
                        ptx::wgmma_shared(score[m], ptx::wgmma_descriptor(q_group + step / 4 * Config::ROWS * 128 + m * 64 * 128 + at),
                                          ptx::wgmma_descriptor(k_address + step / 4 * KEYS * 128 + at), step == 0);
                    }
                }
                ptx::wgmma_commit();
                ptx::wgmma_wait<0>();
#pragma unroll
                for (int m = 0; m < M_TILES; ++m) {
                    ptx::wgmma_hold(score[m]);
                }
                settle();
#pragma unroll
                for (int m = 0; m < M_TILES; ++m) {
                    exponentials(m, a[m]);
                    ptx::wgmma_hold(out[m]);
                    ptx::wgmma_fence();
#pragma unroll
                    for (int k = 0; k < KEYS / 16; ++k) {
                        constexpr int WIDTH = SLICE % 128 == 0 ? 128 : 64; // columns of a product
#pragma unroll
                        for (int n = 0; n < SLICE / WIDTH; ++n) {
                            auto & columns = reinterpret_cast<float (&)[WIDTH / 8][4]>(out[m][n * (WIDTH / 8)]);
                            ptx::wgmma_registers(columns, a[m][k], ptx::wgmma_descriptor(v_address + n * (WIDTH / 64) * KEYS * 128 + k * 16 * 128, KEYS * 128));
                        }
                    }
                    ptx::wgmma_commit();
                }
                ptx::wgmma_wait<0>();
#pragma unroll
                for (int m = 0; m < M_TILES; ++m) {
                    ptx::wgmma_hold(out[m]);
                }
#endif
            } else {
#pragma unroll
                for (int i = 0; i < M_TILES * KEYS / 2; ++i) {
                    score[i / (KEYS / 2)][i / 4 % (KEYS / 8)][i % 4] = 0.0f;
                }
                const uint32_t k_address = ptx::shared_address(keys) + (lane % 8 + lane / 16 * 8) * STRIDE + lane / 8 % 2 * 16 + slice * SLICE * 2;
                const uint32_t v_address = ptx::shared_address(values) + lane % 16 * STRIDE + lane / 16 * 16 + slice * SLICE * 2;
#pragma unroll
                for (int step = 0; step < SLICE / 16; ++step) {
                    uint32_t query[M_TILES][4];
#pragma unroll
                    for (int m = 0; m < M_TILES; ++m) {
                        if constexpr (Config::HOLDS_QUERIES) {
#pragma unroll
                            for (int i = 0; i < 4; ++i) {
                                query[m][i] = held[m][step][i];
                            }
                        } else {
                            ptx::ldmatrix_x4(query[m], q_address + m * 16 * STRIDE + step * 32);
                        }
                    }
#pragma unroll
                    for (int n = 0; n < KEYS / 16; ++n) {
                        uint32_t b[4];
                        ptx::ldmatrix_x4(b, k_address + n * 16 * STRIDE + step * 32);
#pragma unroll
                        for (int m = 0; m < M_TILES; ++m) {
                            ptx::mma_f16(score[m][2 * n],     query[m], b[0], b[1]);
                            ptx::mma_f16(score[m][2 * n + 1], query[m], b[2], b[3]);
                        }
                    }
                }
                settle();
#pragma unroll
                for (int m = 0; m < M_TILES; ++m) {
                    exponentials(m, a[m]);
                }
#pragma unroll
                for (int k = 0; k < KEYS / 16; ++k) {
#pragma unroll
                    for (int n = 0; n < SLICE / 16; ++n) {
                        uint32_t b[4];
                        ptx::ldmatrix_x4_trans(b, v_address + k * 16 * STRIDE + n * 32);
#pragma unroll
                        for (int m = 0; m < M_TILES; ++m) {
                            ptx::mma_f16(out[m][2 * n],     a[m][k], b[0], b[1]);
                            ptx::mma_f16(out[m][2 * n + 1], a[m][k], b[2], b[3]);
                        }
                    }
                }
            }
        }
        ptx::cp_async_wait<0>();

        if (rotates_values<V>(p) && shape.n_splits == 1) {
#pragma unroll
            for (int m = 0; m < M_TILES; ++m) {
                rotate_back(out[m]);
            }
        }

        // Results of this stream's rows.
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const int row = row_of(m, r);
                if (sight[row].x < 0) {
                    continue;
                }
                const int token = first_token + row / shape.ratio;
                const bool whole = shape.n_splits == 1;
                const float norm = whole ? 1.0f / denominator(p, head * shape.ratio + row % shape.ratio, maximum[m][r], sum[m][2 * r]) : 1.0f;
                float * const to = (whole ? p.dst + (int64_t(token) * p.n_head + head * shape.ratio + row % shape.ratio) * D : part + row * D) + slice * SLICE;
                // A split that had nothing to do says so by its sum alone.
#pragma unroll
                for (int n = 0; n < SLICE / 8 && n_tiles > 0; ++n) {
                    *reinterpret_cast<float2 *>(to + 8 * n + 2 * t) = make_float2(out[m][n][2 * r] * norm, out[m][n][2 * r + 1] * norm);
                }
                if (!whole && t == 0 && slice == 0) {
                    reinterpret_cast<float2 *>(part + Config::ROWS * D)[row] = make_float2(maximum[m][r], sum[m][2 * r]);
                }
            }
        }
    }
}

// Joins the splits of each row, in their order: one warp a row.
template <typename Config>
static __global__ void prefill_merge_kernel(const __grid_constant__ AttentionParams p, const __grid_constant__ PrefillShape shape) {
    constexpr int D = Config::D;
    ptx::wait_for_previous_kernel();
    const int lane = threadIdx.x % 32, row = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32, item = blockIdx.x;
    const int head = head_of_rank(p.layout, item / shape.n_token_blocks);
    const int first_token = (shape.n_token_blocks - 1 - item % shape.n_token_blocks) * shape.block_tokens;
    const int token = first_token + row / shape.ratio;
    if (row >= shape.block_tokens * shape.ratio || token >= p.layout.n_tokens) {
        return;
    }
    const float * const parts = p.partials + int64_t(item) * shape.n_splits * Config::PART_FLOATS;
    // Each lane looks at a split of its own; then all take the splits in turn.
    const auto norm_of = [&](int s) {
        return s < shape.n_splits ? reinterpret_cast<const float2 *>(parts + int64_t(s) * Config::PART_FLOATS + Config::ROWS * D)[row] : make_float2(NO_KEY, 0.0f);
    };
    float top = NO_KEY;
    for (int first = 0; first < shape.n_splits; first += 32) {
        top = fmaxf(top, norm_of(first + lane).x);
    }
#pragma unroll
    for (int i = 16; i > 0; i /= 2) {
        top = fmaxf(top, __shfl_xor_sync(~0u, top, i));
    }
    float sum = 0.0f, out[(D + 31) / 32] = {};
    for (int first = 0; first < shape.n_splits; first += 32) {
        const float2 norm = norm_of(first + lane);
        const float weight = norm.y > 0.0f ? ptx::exp2(norm.x - top) : 0.0f, weighted = weight * norm.y;
#pragma unroll 8
        for (int s = 0; s < min(32, shape.n_splits - first); ++s) {
            const float w = __shfl_sync(~0u, weight, s);
            sum += __shfl_sync(~0u, weighted, s);
            if (w > 0.0f) { // else the part may be unwritten
                const float * const x = parts + int64_t(first + s) * Config::PART_FLOATS + row * D;
#pragma unroll
                for (int i = 0; i < (D + 31) / 32; ++i) {
                    out[i] += 32 * i + lane < D ? w * x[32 * i + lane] : 0.0f;
                }
            }
        }
    }
    const int query_head = head * shape.ratio + row % shape.ratio;
    const float norm = 1.0f / denominator(p, query_head, top, sum);
    float * const to = p.dst + (int64_t(token) * p.n_head + query_head) * D;
    if (rotates_values<Config::V>(p)) {
        rotate<1, 32>(out, VALUE_ROTATION);
    }
#pragma unroll
    for (int i = 0; i < (D + 31) / 32; ++i) {
        if (32 * i + lane < D) {
            to[32 * i + lane] = out[i] * norm;
        }
    }
}

} // namespace duo::cuda
