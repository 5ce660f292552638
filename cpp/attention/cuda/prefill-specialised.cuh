// Attention of many queries on sm_90a: as prefill.cuh, with one block on a multiprocessor, whose warpgroups specialise.
//
// A producer brings tiles of keys and values to a ring in shared memory, and makes them f16 on the way. Of q8_0 and q4_0, where that is most of the work, keys
// and values have a producer each. Two consumers of 64 rows each multiply. They take turns at the tensor cores: while the products of one are made, the other
// takes exponentials. The products of a tile's keys are under way together with those of the values of the tile before it. (Both as in FlashAttention-3,
// arXiv 2407.08608.)
#pragma once

#include "prefill.cuh"

namespace duo::cuda {

using SpecialisedHeadSizes = HeadSizes<64, 128, 256>;

template <CacheType K_, CacheType V_, int D_>
struct SpecialisedConfig {
    static constexpr CacheType K      = K_, V = V_;
    static constexpr int  D           = D_;
    static constexpr int  KEYS        = D <= 128 ? 128 : 64;    // of a tile
    static constexpr bool BY_BLOCKS   = K == V && (K == CacheType::q8_0 || K == CacheType::q4_0) && D % 128 == 0; // rows are converted by convert_block
    static constexpr int  PRODUCERS   = BY_BLOCKS ? 2 : 1;      // warpgroups: of keys and of values, or of both
    static constexpr int  CONSUMERS   = 2;                      // warpgroups, after them
    static constexpr int  THREADS     = 128 * (PRODUCERS + CONSUMERS);
    static constexpr int  ROWS        = 64 * CONSUMERS;
    static constexpr int  STAGES      = 2;                      // of keys, and of values
    // Of a thread. The launch gives 168 or 128 to all, which are shared out anew: a consumer holds 64 x D of the output, 64 x KEYS scores and as many
    // probabilities.
    static constexpr bool CONVERTS    = is_quantised<K> || is_quantised<V>;
    static constexpr int  CONSUMER_REGISTERS = CONVERTS ? 208 : 216, PRODUCER_REGISTERS = BY_BLOCKS ? 48 : CONVERTS ? 88 : 72;
    static_assert(CONSUMERS * CONSUMER_REGISTERS + PRODUCERS * PRODUCER_REGISTERS <= (PRODUCERS + CONSUMERS) * (PRODUCERS == 1 ? 168 : 128));
    static constexpr bool WARPGROUPS  = true;                   // for tile_offset
    static constexpr int  STRIDE      = 0;                      // likewise: rows have no padding
    static constexpr int  TILE        = KEYS * 2 * D;
    static constexpr int  RAW_ROWS    = KEYS / 4;               // of a quantised tile, brought and converted by one warp of its producer
    static constexpr int  K_RAW       = is_quantised<K> ? RAW_ROWS * ROW_BYTES<K, D> : 0, V_RAW = is_quantised<V> ? RAW_ROWS * ROW_BYTES<V, D> : 0;
    static constexpr int  Q_BYTES     = ROWS * 2 * D;
    static constexpr int  POSITIONS_AT = Q_BYTES + 2 * STAGES * TILE + 4 * (K_RAW + V_RAW);
    static constexpr int  CONTROL_AT  = POSITIONS_AT + ROWS * 4;
    static constexpr int  CONTROL_BYTES = 256;
    static constexpr int  SHARED      = CONTROL_AT + CONTROL_BYTES;
    static_assert(SHARED <= 227 << 10);
    static constexpr int  PART_FLOATS = ROWS * (D + 2);
    static constexpr float HEADROOM = 5.0f, SLACK = 6.0f;       // as in PrefillConfig
};

// A tile as its consumers need to know it: the position of key 0; keys [begin, end) exist; whether all rows see all of them.
struct TileSight {
    int32_t first, begin, end, all_see;
};

template <typename Config>
struct PrefillControl {
    uint64_t  full[2][Config::STAGES], empty[2][Config::STAGES]; // barriers, of keys and of values
    uint64_t  raw[2][4];                                         // of what each warp of a producer has ordered
    TileSight tiles[Config::STAGES];
};

// The block of q8_0 or q4_0 that begins at half word `at`, with its scale, as f16. A scale of zero makes the zeros of a key that does not exist: quants are finite
// whatever a row holds. store(i, values 8 i .. 8 i + 7)
template <CacheType TYPE, int N, typename Store>
static __device__ __forceinline__ void convert_block(const uint32_t (&words)[N], int at, bool exists, Store store) {
    const half2 scale = !exists ? __float2half2_rn(0.0f) : at % 2 ? __high2half2(halves(words[at / 2])) : __low2half2(halves(words[at / 2]));
    const auto two_quants = [&](int i) { // of half word i after the scale; a byte x below 0x64 is the half 1024 + x
        const int half_word = at + 1 + i;
        const uint32_t word = words[half_word / 2];
        return __byte_perm(TYPE == CacheType::q8_0 ? word ^ 0x80808080 : word, 0x64, half_word % 2 ? 0x4342 : 0x4140); // q8_0: plus 128
    };
#pragma unroll
    for (int i = 0; i < BLOCK_BYTES<TYPE> / 8; ++i) {
        uint32_t lower[4], upper[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const uint32_t x = two_quants(4 * i + k);
            if constexpr (TYPE == CacheType::q8_0) {
                lower[k] = bits((halves(x) - __float2half2_rn(1152.0f)) * scale);
            } else { // upper nibbles are 16 times larger
                lower[k] = bits((halves(x & 0xff0fff0f) - __float2half2_rn(1032.0f)) * scale);
                upper[k] = bits(__hfma2(halves(x & 0xfff0fff0), __float2half2_rn(1.0f / 16), __float2half2_rn(-72.0f)) * scale);
            }
        }
        store(i, make_uint4(lower[0], lower[1], lower[2], lower[3]));
        if constexpr (TYPE == CacheType::q4_0) {
            store(i + 2, make_uint4(upper[0], upper[1], upper[2], upper[3]));
        }
    }
}

template <typename Config>
static __global__ void __launch_bounds__(Config::THREADS, 1)
specialised_prefill_kernel(const __grid_constant__ AttentionParams p, const __grid_constant__ PrefillShape shape) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    constexpr CacheType K = Config::K, V = Config::V;
    constexpr int D = Config::D, KEYS = Config::KEYS, TILE = Config::TILE, STAGES = Config::STAGES;
    static_assert(sizeof(PrefillControl<Config>) <= Config::CONTROL_BYTES);

    extern __shared__ __align__(1024) uint8_t shared[];
    uint8_t * const queries = shared;                       // [consumer][64 rows] f16
    uint8_t * const keys    = queries + Config::Q_BYTES;    // [STAGES] f16
    uint8_t * const values  = keys + STAGES * TILE;
    uint8_t * const raw     = values + STAGES * TILE;       // [warp of a producer] rows of keys, then of values, as they arrive
    int32_t * const positions = reinterpret_cast<int32_t *>(shared + Config::POSITIONS_AT); // of each row; -1: none
    auto & control = *reinterpret_cast<PrefillControl<Config> *>(shared + Config::CONTROL_AT);

    ptx::wait_for_previous_kernel();
    const Layout & layout = p.layout;
    const int warpgroup = __shfl_sync(~0u, int(threadIdx.x) / 128, 0), lane = threadIdx.x % 32;
    const int split = blockIdx.x % shape.n_splits, item = blockIdx.x / shape.n_splits;
    const int head  = head_of_rank(layout, item / shape.n_token_blocks);
    const int first_token = (shape.n_token_blocks - 1 - item % shape.n_token_blocks) * shape.block_tokens; // the last see the most
    const int end_token   = min(first_token + shape.block_tokens, layout.n_tokens);
    const Head what        = head_at(layout, head);
    const bool sees_window = what.recent < SEES_ALL;

    if (threadIdx.x == 0) {
        for (int side = 0; side < 2; ++side) {
            for (int stage = 0; stage < STAGES; ++stage) {
                ptx::mbarrier_init(ptx::shared_address(&control.full[side][stage]), 4);
                ptx::mbarrier_init(ptx::shared_address(&control.empty[side][stage]), 4 * Config::CONSUMERS);
            }
            for (int warp = 0; warp < 4; ++warp) {
                ptx::mbarrier_init(ptx::shared_address(&control.raw[side][warp]), 1);
            }
        }
        ptx::fence_async();
    }
    __syncthreads();

    // work(tokens [begin, end), their stream, their cells, first of this split's tiles, their number): of one stream at a time; mostly there is but one.
    const auto each_stream = [&](auto work) {
        for (int begin = first_token, end; begin < end_token; begin = end) {
            const int stream = layout.tokens[2 * begin + 1];
            uint32_t others = 0;
            for (end = begin; others == 0 && end < end_token; end += 32) {
                others = __ballot_sync(~0u, end + lane < end_token && layout.tokens[2 * (end + lane) + 1] != stream);
            }
            end = others == 0 ? end_token : end - 32 + __ffs(others) - 1;
            const Cells cells(layout, what, layout.tokens[2 * begin], layout.tokens[2 * (end - 1)]);
            const int n_all = cells.n_tiles(layout, what.ring, KEYS);
            const int first = int(int64_t(n_all) * split / shape.n_splits);
            work(begin, end, stream, cells, first, int(int64_t(n_all) * (split + 1) / shape.n_splits) - first);
        }
    };
    const auto barrier_of = [&](uint64_t (&barriers)[2][STAGES], int side, int n) { return ptx::shared_address(&barriers[side][n % STAGES]); };
    const auto parity_of  = [](int n) { return uint32_t(n / STAGES) & 1; };

    int n_before = 0; // tiles of the streams before
    if (warpgroup == 0 || warpgroup == Config::PRODUCERS - 1) {
        ptx::give_registers<Config::PRODUCER_REGISTERS>();
        const int my_side = Config::PRODUCERS == 2 ? warpgroup : 0, warp = threadIdx.x / 32 - 4 * my_side;

        const auto produced = [&](int side, int n) {
            ptx::fence_async(); // products read shared memory past the ordinary path
            __syncwarp();
            if (lane == 0) {
                ptx::mbarrier_arrive(barrier_of(control.full, side, n));
            }
        };

        each_stream([&](int run_begin, int run_end, int stream, const Cells & cells, int tile_begin, int n_tiles) {
            if (n_tiles == 0) {
                return;
            }
            const int32_t first_position = layout.tokens[2 * run_begin], last_position = layout.tokens[2 * (run_end - 1)];
            const int32_t last_window = sees_window ? window_begin(layout, what.recent, last_position) : -1;
            const int64_t first_row   = stream * layout.n_rows + what.first_row;
            const int k_row = K == ANY_QUANTISED ? shape.k_row : ROW_BYTES<K, D>, v_row = V == ANY_QUANTISED ? shape.v_row : ROW_BYTES<V, D>;

            Run run;
            int cell;
            const auto find_tile = [&](int index) { cells.find_tile(layout, what.ring, KEYS, index, run, cell); };

            // This warp's rows of a quantised tile.
            const auto fetch_raw = [&](int side) {
                if (lane == 0) {
                    const int row_bytes = side == 0 ? k_row : v_row, first = cell + warp * Config::RAW_ROWS;
                    const int n = min(Config::RAW_ROWS, (run.end - first + CELL_ALIGN - 1) & ~(CELL_ALIGN - 1)), bytes = max(0, n) * row_bytes;
                    const uint32_t barrier = ptx::shared_address(&control.raw[side][warp]);
                    ptx::mbarrier_arrive_expect_tx(barrier, bytes);
                    if (bytes > 0) {
                        ptx::bulk_copy(ptx::shared_address(raw + warp * (Config::K_RAW + Config::V_RAW) + side * Config::K_RAW),
                                       static_cast<const uint8_t *>(side == 0 ? p.k_cache : p.v_cache) + (first_row + first) * row_bytes, bytes, barrier);
                    }
                }
            };
            // Makes them f16; keys outside [begin, end) become zero, whatever their rows hold: a probability of 0 does not undo a NaN.
            const auto convert = [&](auto constant, CacheType at_hand, const uint8_t * from, int row_bytes, uint8_t * to, int begin, int end) {
                constexpr CacheType TYPE = decltype(constant)::value;
                constexpr int PIECES = D / 64;
                with_type<TYPE>(at_hand, [&](auto type) {
                    const uint32_t swizzle = lane % 8 * 16;
#pragma unroll 1
                    for (int i = 0; i < Config::RAW_ROWS * PIECES / 32; ++i) {
                        // 8 rows at a time, which lie in banks of their own.
                        const int group = i * 4 + lane / 8, row = group / PIECES * 8 + lane % 8, piece = group % PIECES, key = warp * Config::RAW_ROWS + row;
                        const uint32_t at = ptx::shared_address(to) + piece * (KEYS * 128) + key * 128; // as tile_offset, which takes more instructions
                        if (key >= begin && key < end) {
                            uint4 x[8];
                            convert_piece<decltype(type)::value>(x, from + row * row_bytes + piece * (row_bytes / PIECES));
#pragma unroll
                            for (int v = 0; v < 8; ++v) {
                                ptx::store_shared(at | (swizzle ^ v * 16), x[v]);
                            }
                        } else {
#pragma unroll
                            for (int v = 0; v < 8; ++v) {
                                ptx::store_shared(at | (swizzle ^ v * 16), make_uint4(0, 0, 0, 0));
                            }
                        }
                    }
                });
            };

            // The same in fewer instructions, a block at a time. A lane takes four of a row: they start at an even word, so that words are loaded by two.
            // read(): when the rows are needed no longer.
            const auto convert_blocks = [&](const uint8_t * rows, uint8_t * to, int begin, int end, auto read) {
                if constexpr (Config::BY_BLOCKS) {
                    constexpr int BLOCK = BLOCK_BYTES<K>, FOURS = D / 128;
                    // 8 rows at a time, which lie in banks of their own.
                    const int row = lane / (8 * FOURS) * 8 + lane % 8, four = lane / 8 % FOURS, key = warp * Config::RAW_ROWS + row;
                    const uint8_t * const from = rows + row * ROW_BYTES<K, D> + four * 4 * BLOCK;
                    const uint32_t at = ptx::shared_address(to) + four * 2 * (KEYS * 128) + key * 128 + lane % 8 * 16;
                    const bool exists = key >= begin && key < end;
#pragma unroll
                    for (int b = 0; b < 4; ++b) {
                        uint32_t words[BLOCK / 4 + 2]; // from an even one on: the block begins b half words later
#pragma unroll
                        for (int i = 0; i < BLOCK / 4 + 2; i += 2) {
                            const uint2 two = *reinterpret_cast<const uint2 *>(from + b * (BLOCK - 2) + 4 * i);
                            words[i] = two.x, words[i + 1] = two.y;
                        }
                        if (b == 3) {
                            read();
                        }
                        convert_block<K>(words, b, exists, [&](int i, const uint4 & x) {
                            ptx::store_shared((at + b / 2 * (KEYS * 128)) ^ (b % 2 * 4 + i) * 16, x);
                        });
                    }
                }
            };

            // A tile of 16-bit rows: each thread copies the same pieces of every few rows.
            constexpr int PIECES = D / 8, STEP = 128 / PIECES;
            static_assert(STEP % 4 == 0 && KEYS % STEP == 0);
            const int my_key = threadIdx.x / PIECES, my_piece = threadIdx.x % PIECES, my_offset = tile_offset<Config, KEYS>(my_key, my_piece * 16);
            const auto offset_of = [&](int i) { return i * STEP * 128 + (STEP % 8 == 0 ? my_offset : my_offset ^ i % 2 * 64); }; // of a thread's i-th piece
            const auto copy_16 = [&](const void * cache, uint8_t * to, const Run & run, int cell) {
                const uint8_t * from = static_cast<const uint8_t *>(cache) + (first_row + cell + my_key) * (2 * D) + my_piece * 16;
                const uint32_t address = ptx::shared_address(to);
                if (cell >= run.begin && cell + KEYS <= run.end) {
#pragma unroll
                    for (int i = 0; i < KEYS / STEP; ++i) {
                        ptx::cp_async_16(address + offset_of(i), from + i * STEP * 2 * D);
                    }
                } else {
#pragma unroll 4
                    for (int i = 0; i < KEYS / STEP; ++i) {
                        const int at = cell + my_key + i * STEP;
                        const bool exists = at >= run.begin && at < run.end;
                        ptx::cp_async_16_or_zero(address + offset_of(i), exists ? from + i * STEP * 2 * D : static_cast<const uint8_t *>(cache), exists);
                    }
                }
            };
            // Each thread makes f16 where it lies what it has copied itself.
            const auto convert_16 = [&](auto constant, uint8_t * tile) {
                if constexpr (decltype(constant)::value == CacheType::bf16) {
#pragma unroll 4
                    for (int i = 0; i < KEYS / STEP; ++i) {
                        uint8_t * const at = tile + offset_of(i);
                        uint4 x[1];
                        convert_piece<CacheType::bf16>(x, at);
                        *reinterpret_cast<uint4 *>(at) = x[0];
                    }
                }
            };

            find_tile(tile_begin);
            if constexpr (Config::PRODUCERS == 2) {
                fetch_raw(my_side);
            } else {
                if constexpr (is_quantised<K>) {
                    fetch_raw(0);
                }
                if constexpr (is_quantised<V>) {
                    fetch_raw(1);
                }
            }
            constexpr bool BOTH_16 = !is_quantised<K> && !is_quantised<V>;
            int issued = 0, landed = 0; // tiles of 16-bit rows: keys and values in turn, or one of them alone
            const auto land = [&](auto n_left) { // all but the last n_left
                constexpr int LEFT = decltype(n_left)::value;
                if (issued - landed > LEFT) {
                    ptx::cp_async_wait<LEFT>();
                    do {
                        const int side = BOTH_16 ? landed % 2 : is_quantised<K> ? 1 : 0, n = n_before + (BOTH_16 ? landed / 2 : landed);
                        if (side == 0) {
                            convert_16(TypeConstant<K>(), keys + n % STAGES * TILE);
                        } else {
                            convert_16(TypeConstant<V>(), values + n % STAGES * TILE);
                        }
                        produced(side, n);
                    } while (issued - ++landed > LEFT);
                }
            };
            for (int tile = 0; tile < n_tiles; ++tile) {
                const int n = n_before + tile;
                const Run at_run = run;
                const int at_cell = cell, begin = at_run.begin - at_cell, end = at_run.end - at_cell;
                if (tile + 1 < n_tiles) {
                    cell += KEYS;
                    if (cell >= run.end) {
                        find_tile(tile_begin + tile + 1);
                    }
                }
                const auto bring = [&](auto constant, int side, CacheType at_hand, const void * cache, int row_bytes, uint8_t * to) {
                    constexpr CacheType TYPE = decltype(constant)::value;
                    const uint32_t empty = barrier_of(control.empty, side, n);
                    if (!__all_sync(~0u, ptx::mbarrier_test(empty, parity_of(n) ^ 1))) {
                        land(std::integral_constant<int, 0>()); // first: consumers may wait for what is under way before they make room
                        ptx::mbarrier_wait(empty, parity_of(n) ^ 1);
                    }
                    if constexpr (is_quantised<TYPE>) {
                        const uint8_t * const rows = raw + warp * (Config::K_RAW + Config::V_RAW) + side * Config::K_RAW;
                        ptx::mbarrier_wait(ptx::shared_address(&control.raw[side][warp]), n & 1);
                        if constexpr (Config::BY_BLOCKS) {
                            convert_blocks(rows, to, begin, end, [&]() { // the next come while the last are converted
                                ptx::fence_async(); // their copy writes past the ordinary path what has been read here
                                __syncwarp();
                                if (tile + 1 < n_tiles) {
                                    fetch_raw(side);
                                }
                            });
                        } else {
                            convert(constant, at_hand, rows, row_bytes, to, begin, end);
                        }
                    } else {
                        copy_16(cache, to, at_run, at_cell);
                        ptx::cp_async_commit();
                        ++issued;
                        land(std::integral_constant<int, 1>());
                    }
                    if (side == 0 && threadIdx.x == 0) {
                        const int first = at_cell + at_run.offset;
                        const int32_t all_see = begin <= 0 && end >= KEYS && first + KEYS - 1 <= first_position
                                           && (first >= last_window || first + KEYS <= layout.sink) && run_end - run_begin == end_token - first_token;
                        control.tiles[n % STAGES] = TileSight { first, begin, end, all_see };
                    }
                    if constexpr (is_quantised<TYPE>) {
                        produced(side, n);
                        if (!Config::BY_BLOCKS && tile + 1 < n_tiles) {
                            fetch_raw(side);
                        }
                        land(std::integral_constant<int, 0>()); // rows that are not quantised
                    }
                };
                if constexpr (Config::PRODUCERS == 2) {
                    bring(TypeConstant<K>(), my_side, K, nullptr, k_row, keys + (my_side * STAGES + n % STAGES) * TILE); // V is of the same type
                } else {
                    bring(TypeConstant<K>(), 0, p.type_k, p.k_cache, k_row, keys   + n % STAGES * TILE);
                    bring(TypeConstant<V>(), 1, p.type_v, p.v_cache, v_row, values + n % STAGES * TILE);
                }
            }
            land(std::integral_constant<int, 0>());
            n_before += n_tiles;
        });
    } else {
        ptx::take_registers<Config::CONSUMER_REGISTERS>();
        const int group = warpgroup - Config::PRODUCERS, thread = threadIdx.x % 128, warp = thread / 32, g = lane / 4, t = lane % 4;
        const int my_row = group * 64 + warp * 16 + g; // and 8 below it

        // Queries, with the scale and log2(e) in them.
        const float q_factor = p.softcap != 0.0f ? p.scale / p.softcap : p.scale * 1.44269504f;
        uint8_t * const my_queries = queries + group * 64 * 2 * D;
#pragma unroll 16
        for (int i = thread; i < 64 * (D / 4); i += 128) { // with many loads at once
            const int row = i / (D / 4), block_row = group * 64 + row, token = first_token + block_row / shape.ratio;
            float4 x = make_float4(0, 0, 0, 0);
            if (token < end_token) {
                x = reinterpret_cast<const float4 *>(p.q + (int64_t(token) * p.n_head + head * shape.ratio + block_row % shape.ratio) * D)[i % (D / 4)];
            }
            *reinterpret_cast<uint2 *>(my_queries + tile_offset<Config, 64>(row, i % (D / 4) * 8)) =
                make_uint2(bits(__floats2half2_rn(x.x * q_factor, x.y * q_factor)), bits(__floats2half2_rn(x.z * q_factor, x.w * q_factor)));
        }
        ptx::fence_async();
        ptx::barrier<128>(1 + Config::CONSUMERS + group);

        const auto take_turn = [&]() { ptx::barrier<256>(1 + group); };
        const auto pass_turn = [&]() { ptx::barrier_arrive<256>(1 + (group + 1) % Config::CONSUMERS); };
        if (group == Config::CONSUMERS - 1) {
            pass_turn(); // the first is the first group's
        }

        each_stream([&](int run_begin, int run_end, int, const Cells &, int, int n_tiles) {
            __syncwarp();
            if (lane < 16) {
                const int row = group * 64 + warp * 16 + lane, token = first_token + row / shape.ratio;
                positions[row] = token >= run_begin && token < run_end ? layout.tokens[2 * token] : -1;
            }
            __syncwarp();

            float out[D / 8][4] = {}, score[KEYS / 8][4], maximum[2] = { NO_KEY, NO_KEY }, sum[4] = {}, shrink[2];
            uint32_t a[KEYS / 16][4]; // probabilities, operand a of the output's products
            bool grows = false;

            const auto multiply_keys = [&](int n) {
                const uint32_t q_address = ptx::shared_address(my_queries), k_address = ptx::shared_address(keys + n % STAGES * TILE);
                ptx::wgmma_fence();
#pragma unroll
                for (int step = 0; step < D / 16; ++step) {
                    const int at = step % 4 * 32;
                    ptx::wgmma_shared(score, ptx::wgmma_descriptor(q_address + step / 4 * 64 * 128 + at),
                                      ptx::wgmma_descriptor(k_address + step / 4 * KEYS * 128 + at), step == 0);
                }
                ptx::wgmma_commit();
            };
            const auto multiply_values = [&](int n) {
                const uint32_t v_address = ptx::shared_address(values + n % STAGES * TILE);
                ptx::wgmma_hold(out);
                ptx::wgmma_fence();
#pragma unroll
                for (int k = 0; k < KEYS / 16; ++k) {
                    constexpr int WIDTH = D % 128 == 0 ? 128 : 64; // columns of a product
#pragma unroll
                    for (int n = 0; n < D / WIDTH; ++n) {
                        auto & columns = reinterpret_cast<float (&)[WIDTH / 8][4]>(out[n * (WIDTH / 8)]);
                        ptx::wgmma_registers(columns, a[k], ptx::wgmma_descriptor(v_address + n * (WIDTH / 64) * KEYS * 128 + k * 16 * 128, KEYS * 128));
                    }
                }
                ptx::wgmma_commit();
            };
            const auto release = [&](int side, int n) {
                __syncwarp();
                if (lane == 0) {
                    ptx::mbarrier_arrive(barrier_of(control.empty, side, n));
                }
            };

            // Masks scores, raises maxima where they grow by much, and takes exponentials in place. New maxima are rare: look for one in the whole
            // warp, and only then agree on it. What has been added to the output is scaled later, when its products are done.
            const auto settle = [&](const TileSight & at) {
                if (p.softcap != 0.0f) {
#pragma unroll
                    for (int i = 0; i < KEYS / 2; ++i) {
                        score[i / 4][i % 4] = p.softcap * 1.44269504f * ptx::tanh(score[i / 4][i % 4]);
                    }
                }
                if (!at.all_see) { // a tile at an edge of what somebody sees
#pragma unroll
                    for (int row = 0; row < 2; ++row) {
                        const int32_t last = positions[my_row + 8 * row], window = sees_window ? window_begin(layout, what.recent, last) : -1;
#pragma unroll
                        for (int i = 0; i < KEYS / 4; ++i) {
                            const int key = i / 2 * 8 + 2 * t + i % 2, j = at.first + key;
                            const bool visible = key >= at.begin && key < at.end && j <= last && (j < layout.sink || j >= window);
                            float & x = score[i / 2][2 * row + i % 2];
                            x = visible ? x : -INFINITY;
                        }
                    }
                }
                float top[2];
                grows = false;
#pragma unroll
                for (int row = 0; row < 2; ++row) {
                    float x = score[0][2 * row];
#pragma unroll
                    for (int i = 1; i < KEYS / 4; ++i) {
                        x = fmaxf(x, score[i / 2][2 * row + i % 2]);
                    }
                    top[row] = x;
                    grows |= x > maximum[row] + (Config::HEADROOM + Config::SLACK);
                }
                grows = __any_sync(~0u, grows);
                if (grows) {
#pragma unroll
                    for (int row = 0; row < 2; ++row) {
                        float x = top[row];
                        x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
                        x = fmaxf(x, __shfl_xor_sync(~0u, x, 2));
                        x = fmaxf(maximum[row], x - Config::HEADROOM);
                        shrink[row] = ptx::exp2(maximum[row] - x);
                        maximum[row] = x;
                        sum[2 * row]     *= shrink[row];
                        sum[2 * row + 1] *= shrink[row];
                    }
                }
#pragma unroll
                for (int i = 0; i < KEYS / 2; ++i) {
                    score[i / 4][i % 4] = ptx::exp2(score[i / 4][i % 4] - maximum[i / 2 % 2]);
                }
                // Of a tile first: a long row of small terms is never added to a large sum one by one.
#pragma unroll
                for (int c = 0; c < 4; ++c) {
                    float x = score[0][c];
#pragma unroll
                    for (int i = 1; i < KEYS / 8; ++i) {
                        x += score[i][c];
                    }
                    sum[c] += x;
                }
            };
            const auto scale_output = [&]() {
                if (grows) {
#pragma unroll
                    for (int i = 0; i < D / 2; ++i) {
                        out[i / 4][i % 4] *= shrink[i / 2 % 2];
                    }
                }
            };
            const auto pack_probabilities = [&]() {
#pragma unroll
                for (int k = 0; k < KEYS / 16; ++k) {
#pragma unroll
                    for (int r = 0; r < 4; ++r) {
                        const float * s = score[2 * k + r / 2] + r % 2 * 2;
                        a[k][r] = bits(__floats2half2_rn(s[0], s[1]));
                    }
                }
            };

            if (n_tiles > 0) {
                int n = n_before;
                ptx::mbarrier_wait(barrier_of(control.full, 0, n), parity_of(n));
                multiply_keys(n);
                ptx::wgmma_wait<0>();
                ptx::wgmma_hold(score);
                TileSight at = control.tiles[n % STAGES];
                release(0, n);
                settle(at);
                pack_probabilities(); // nothing to scale yet
                const int n_end = n_before + n_tiles;
                if (n + 1 < n_end) {
                    ptx::mbarrier_wait(barrier_of(control.full, 0, n + 1), parity_of(n + 1));
                }
#pragma unroll 1
                for (++n; n < n_end; ++n) {
                    ptx::mbarrier_wait(barrier_of(control.full, 1, n - 1), parity_of(n - 1));
                    take_turn();
                    multiply_keys(n);
                    multiply_values(n - 1);
                    pass_turn();
                    ptx::wgmma_wait<1>();
                    ptx::wgmma_hold(score);
                    at = control.tiles[n % STAGES];
                    release(0, n);
                    settle(at);
                    // Here, since the compiler moves exponentials past wgmma_wait, but not past a loop.
                    if (n + 1 < n_end) {
                        ptx::mbarrier_wait(barrier_of(control.full, 0, n + 1), parity_of(n + 1));
                    }
                    ptx::wgmma_wait<0>();
                    ptx::wgmma_hold(out);
                    release(1, n - 1);
                    scale_output();
                    pack_probabilities();
                }
                --n;
                ptx::mbarrier_wait(barrier_of(control.full, 1, n), parity_of(n));
                multiply_values(n);
                ptx::wgmma_wait<0>();
                ptx::wgmma_hold(out);
                release(1, n);
                n_before += n_tiles;
            }

            if (rotates_values<V>(p) && shape.n_splits == 1) {
                rotate_back(out);
            }

            // Results of this stream's rows.
            float * const part = p.partials + int64_t(blockIdx.x) * Config::PART_FLOATS;
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const int row = my_row + 8 * r;
                float total = sum[2 * r] + sum[2 * r + 1];
                total += __shfl_xor_sync(~0u, total, 1);
                total += __shfl_xor_sync(~0u, total, 2);
                if (positions[row] < 0) {
                    continue;
                }
                const int token = first_token + row / shape.ratio;
                const bool whole = shape.n_splits == 1;
                const float norm = whole ? 1.0f / denominator(p, head * shape.ratio + row % shape.ratio, maximum[r], total) : 1.0f;
                float * const to = whole ? p.dst + (int64_t(token) * p.n_head + head * shape.ratio + row % shape.ratio) * D : part + row * D;
                // A split that had nothing to do says so by its sum alone.
#pragma unroll
                for (int n = 0; n < D / 8 && n_tiles > 0; ++n) {
                    *reinterpret_cast<float2 *>(to + 8 * n + 2 * t) = make_float2(out[n][2 * r] * norm, out[n][2 * r + 1] * norm);
                }
                if (!whole && t == 0) {
                    reinterpret_cast<float2 *>(part + Config::ROWS * D)[row] = make_float2(maximum[r], total);
                }
            }
        });
    }
#endif
}

} // namespace duo::cuda
