// Attention of few queries over many keys: bound by reading the cache once.
//
// Every team is on its own: it walks its share of the tiles (decode-plan.cuh), keeps N_STAGES tiles on their way into its own shared memory, and
// multiplies each as soon as it is there, with a running maximum in the manner of FlashAttention (arXiv 2205.14135). No team waits for another until
// all tiles are done. Then the block joins the parts of its teams in shared memory, and the last block to finish with a segment joins the parts of
// the blocks: one launch in all.
//
// A team is one warp, and for heads of more than 128 dimensions several, each with a slice of the dimensions: a slice of each dot product, which they
// add up through shared memory, and a slice of the output, so that both fit in registers. Where the parts of blocks are large, a second launch joins them:
// one block would take longer over them than a launch.
#pragma once

#include "decode-common.cuh"
#include "fragments.cuh"
#include "rotation.cuh"

namespace duo::cuda {

template <CacheType K_, CacheType V_, int D_, int N_TILES_>
struct DecodeConfig {
    static constexpr CacheType K     = K_, V = V_;
    static constexpr bool BLOCKS     = is_quantised<K> && is_quantised<V>, HALVES = !is_quantised<K> && !is_quantised<V>;
    static constexpr int D           = D_;
    static constexpr int N_TILES     = N_TILES_;               // of 8 query columns
    static constexpr int COLUMNS     = 8 * N_TILES;
    static constexpr int SLICES      = D > 128 && D % 128 == 0 ? D / 128 : 1; // of a head: warps of a team
    static constexpr int SLICE       = D / SLICES;             // dimensions
    // Measured on an H100 (bench/notes-cuda.md). Tiles of 4 KB and more keep the price of a tile small; two of them for each of few warps are all the
    // memory needs under way, and more only let some processors take the bandwidth of others.
    static constexpr int TILE        = !BLOCKS ? 16 : K == CacheType::q4_0 && V == CacheType::q4_0 && D <= 128 ? 64 : 32; // cells
    static constexpr int N_STAGES    = 2;                      // tiles of a team under way
    static constexpr int MAX_TEAMS   = SLICES > 1 ? 8 / SLICES : !HALVES || D < 128 || N_TILES > 1 ? 8 : 4;
    static constexpr int STEPS       = BLOCKS && SLICE <= 128 && N_TILES == 1 ? 2 : 1; // of 16 cells multiplied at a time
    static constexpr int OVERHEAD    = 2;                      // price of starting a segment, in tiles
    static constexpr int K_STRIDE    = ROW_STRIDE<K, D>, V_STRIDE = ROW_STRIDE<V, D>; // bytes of a row in shared memory; at most, of ANY_QUANTISED
    static constexpr int K_STAGE     = TILE * K_STRIDE;
    static constexpr int STAGE       = K_STAGE + TILE * V_STRIDE;
    static constexpr int Q_STRIDE    = D * 4 + 16;             // of a query in shared memory
    static constexpr int Q_BYTES     = COLUMNS * Q_STRIDE;
    static constexpr int PART_FLOATS = COLUMNS * (D + 2);      // output [column][D], maximum and sum [column]
    static constexpr int PIPELINE_BYTES = N_STAGES * STAGE > PART_FLOATS * 4 ? N_STAGES * STAGE : (PART_FLOATS * 4 + 15) / 16 * 16;
    static constexpr int TEAM_BYTES  = PIPELINE_BYTES + Q_BYTES;
    static constexpr int TEAM_THREADS = 32 * SLICES;
    static constexpr bool MERGES_APART = D > 256;
    // Two of a team's scores, by slice, take turns in the place of the queries, which are in registers by then.
    static constexpr int SCORES      = STEPS * N_TILES * 32;   // float4 of a slice
    static_assert(SLICES == 1 || 2 * SLICES * SCORES * 16 <= Q_BYTES);
    // Rows that lie in shared memory as in the cache come by the copy engine, a tile at a time. Padded rows would each be a copy of their own, which
    // takes the engine about 18 cycles: hardly faster than the memory.
#if __CUDA_ARCH__ >= 900
    static constexpr bool BULK = BLOCKS;
#else
    static constexpr bool BULK = false;
#endif
    // Rescale only when a maximum grows by more than 2^3: p stays below 2^8 with the 2^5 that keeps small p, times a block's scale, off the
    // bottom of f16. Scales up to 255 (values up to 2040 in q4_0) cannot overflow.
    static constexpr float HEADROOM = 5.0f, SLACK = 3.0f;
};

template <typename Config>
static __global__ void __launch_bounds__(Config::MAX_TEAMS * Config::TEAM_THREADS, 1)
decode_kernel(const __grid_constant__ AttentionParams p, const __grid_constant__ DecodeShape shape) {
    constexpr CacheType K = Config::K, V = Config::V;
    constexpr int D = Config::D, N_TILES = Config::N_TILES, TILE = Config::TILE, STEPS = Config::STEPS;
    constexpr int SLICES = Config::SLICES, SLICE = Config::SLICE;

    extern __shared__ __align__(128) uint8_t shared[];
    auto & control = *reinterpret_cast<DecodeControl<Config> *>(shared);
    const DecodePlan & plan = control.plan;
    uint8_t * const pipelines = shared + DECODE_CONTROL_BYTES<Config>;

    const Layout & layout = p.layout;
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, g = lane / 4, t = lane % 4;
    const int team = warp / SLICES, slice = warp % SLICES, member = thread % Config::TEAM_THREADS, n_teams = blockDim.x / Config::TEAM_THREADS;
    uint8_t * const pipeline = pipelines + team * Config::TEAM_BYTES;
    const int k_row = K == ANY_QUANTISED ? shape.k_row : ROW_BYTES<K, D>, v_row = V == ANY_QUANTISED ? shape.v_row : ROW_BYTES<V, D>;
    const int k_stride = K == ANY_QUANTISED ? k_row : Config::K_STRIDE, v_stride = V == ANY_QUANTISED ? v_row : Config::V_STRIDE;

    const auto sync_team = [&]() {
        if constexpr (SLICES == 1) {
            __syncwarp();
        } else {
            ptx::barrier<Config::TEAM_THREADS>(1 + team);
        }
    };

#if __CUDA_ARCH__ >= 900
    if (Config::BULK && member == 0) {
        for (int i = 0; i < Config::N_STAGES; ++i) {
            ptx::mbarrier_init(ptx::shared_address(&control.full[team][i]), 1);
        }
        ptx::fence_async();
    }
#endif
    make_plan<TILE, Config::OVERHEAD>(control.plan, layout, shape); // from inputs older than the kernel before
    ptx::wait_for_previous_kernel();

    // The shares of this block and of this team.
    const Shares  blocks(plan.n_units(), gridDim.x);
    const int32_t block_begin = blocks.begin(blockIdx.x), block_end = blocks.begin(blockIdx.x + 1);
    if (block_begin == block_end) {
        return;
    }
    const Shares  teams(block_end - block_begin, n_teams);
    const int32_t team_begin = block_begin + teams.begin(team), team_end = block_begin + teams.begin(team + 1);
    // Where the tiles of a segment begin and end.
    const auto tiles_begin = [&](int32_t index) { return plan.begin[index] + Config::OVERHEAD; };
    const auto tiles_end   = [&](int32_t index) { return plan.begin[index + 1]; };

    // Partial results: one of every team that moves on to another segment before its share ends, then those of the blocks.
    float * const team_parts = p.partials + int64_t(blockIdx.x) * Config::MAX_TEAMS * Config::PART_FLOATS;

    TileCursor<Config> cursor;
    cursor.unit = team_begin, cursor.unit_end = team_end;
    if (!cursor.done()) {
        cursor.enter(plan, layout, shape, plan.segment_at(team_begin));
    }

    // Sends the next tile, if there is one, on its way.
    int n_pending = 0;
    const auto fetch = [&](int stage) {
        if (!cursor.done()) {
            ++n_pending;
            const int32_t n_cells = min(TILE, (cursor.run.end - cursor.cell + CELL_ALIGN - 1) / CELL_ALIGN * CELL_ALIGN);
            const int64_t first   = cursor.first_row + cursor.cell;
            const uint8_t * k = static_cast<const uint8_t *>(p.k_cache) + first * k_row, * v = static_cast<const uint8_t *>(p.v_cache) + first * v_row;
            const uint32_t to = ptx::shared_address(pipeline + stage * Config::STAGE);
            if (member == 0) {
                control.note[team][stage] = { cursor.segment, cursor.run.begin - cursor.cell, cursor.run.end - cursor.cell, cursor.cell + cursor.run.offset };
            }
            if constexpr (Config::BULK) {
#if __CUDA_ARCH__ >= 900
                const uint32_t full = ptx::shared_address(&control.full[team][stage]);
                if (member == 0) {
                    ptx::mbarrier_arrive_expect_tx(full, n_cells * (k_row + v_row));
                    ptx::bulk_copy(to, k, n_cells * k_row, full);
                    ptx::bulk_copy(to + Config::K_STAGE, v, n_cells * v_row, full);
                }
#endif
            } else if constexpr (K == V && K != ANY_QUANTISED) {
                constexpr int ROW = ROW_BYTES<K, D>, PIECES = is_quantised<K> ? 1 << 20 : ROW / 16; // of a row
#pragma unroll 8
                for (int i = member; i < n_cells * ROW / 16; i += Config::TEAM_THREADS) {
                    const int at = i / PIECES * Config::K_STRIDE + i % PIECES * 16;
                    ptx::cp_async_16(to + at, k + i * 16);
                    ptx::cp_async_16(to + Config::K_STAGE + at, v + i * 16);
                }
            } else {
                constexpr int K_PIECES = is_quantised<K> ? 1 << 20 : ROW_BYTES<K, D> / 16, V_PIECES = is_quantised<V> ? 1 << 20 : ROW_BYTES<V, D> / 16;
#pragma unroll 4
                for (int i = member; i < n_cells * k_row / 16; i += Config::TEAM_THREADS) {
                    ptx::cp_async_16(to + i / K_PIECES * Config::K_STRIDE + i % K_PIECES * 16, k + i * 16);
                }
#pragma unroll 4
                for (int i = member; i < n_cells * v_row / 16; i += Config::TEAM_THREADS) {
                    ptx::cp_async_16(to + Config::K_STAGE + i / V_PIECES * Config::V_STRIDE + i % V_PIECES * 16, v + i * 16);
                }
            }
            cursor.advance(plan, layout, shape);
        }
        if constexpr (!Config::BULK) {
            ptx::cp_async_commit();
        }
    };

    // The queries and state of the segment at hand. Lanes hold columns 2t, 2t + 1 of each tile of 8.
    uint32_t q[N_TILES][N_PARTS<K>][SLICE / 16][2];
    KeyConstants<N_TILES, SLICE> constants;
    float   out[N_TILES][SLICE / 16][4];
    float   factor[N_TILES][2], maximum[N_TILES][2], sum[N_TILES][2];
    int32_t position[N_TILES][2], window[N_TILES][2];
    int32_t current = -1, n_columns = 0, n_tiles = 0, first_position = 0, block_tokens = 0, recent = 0;
    bool    sees_window = false; // sinks and recent keys only

    // Asks for the queries of a segment: early, or the bytes of tiles keep them waiting.
    uint8_t * const queries = pipeline + Config::PIPELINE_BYTES;
    const auto ask_for_queries = [&](int32_t index) {
        const Segment s = segment(plan, layout, shape, index);
        constexpr int PIECES = D / 4;
        for (int token = 0, column = 0; token < s.n_tokens; ++token, column += s.n_heads) {
            const float * from = p.q + (int64_t(s.first_token + token) * p.n_head + s.first_head) * D;
#pragma unroll 4
            for (int i = member; i < s.n_heads * PIECES; i += Config::TEAM_THREADS) {
                ptx::cp_async_16(ptx::shared_address(queries) + (column + i / PIECES) * Config::Q_STRIDE + i % PIECES * 16, from + 4 * i);
            }
        }
        ptx::cp_async_commit();
    };

    const auto start_segment = [&](int32_t index, bool first) {
        const Segment s = segment(plan, layout, shape, index);
        current = index, recent = s.recent, sees_window = recent < SEES_ALL, block_tokens = s.n_tokens, first_position = s.first_position;
        n_columns = s.n_tokens * s.n_heads;
        n_tiles   = (n_columns + 7) / 8;
        if (Config::BULK || !first) {
            ptx::cp_async_wait<0>();
        } else {
            ptx::cp_async_wait<Config::N_STAGES - 1>(); // all but the tiles after the first
        }
        sync_team();
        with_type<K>(p.type_k, [&](auto type) {
            constexpr CacheType TYPE = decltype(type)::value;
            const float q_factor = p.softcap != 0.0f ? p.scale / p.softcap : p.scale * 1.44269504f;
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
                // Queries are brought near 2^8 by a power of two, so that f16 holds them, and a sixteenth of them, whatever their size.
                const float * from = reinterpret_cast<const float *>(queries + (8 * n + g) * Config::Q_STRIDE) + slice * SLICE;
                const bool    used = 8 * n + g < n_columns;
                float raw[SLICE / 16][4], top = 0.0f;
#pragma unroll
                for (int step = 0; step < SLICE / 16; ++step) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        raw[step][i] = used ? from[key_dim<TYPE>(step, i / 2, i % 2, t)] : 0.0f;
                        top = fmaxf(top, fabsf(raw[step][i]));
                    }
                }
                top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
                top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
                const int exponent = 8 - ilogbf(fmaxf(top, 0x1p-119f)); // 127 at most: 2^128 is infinite
                const float lift = scalbnf(1.0f, exponent), f = scalbnf(q_factor / KEY_UNIT<TYPE>, -exponent);

                float block_sum[SLICE / 32 > 0 ? SLICE / 32 : 1] = {};
#pragma unroll
                for (int step = 0; step < SLICE / 16; ++step) {
#pragma unroll
                    for (int r = 0; r < 2; ++r) {
                        const float x = raw[step][2 * r] * lift * key_factor<TYPE>(r), y = raw[step][2 * r + 1] * lift * key_factor<TYPE>(r);
#pragma unroll
                        for (int part = 0; part < N_PARTS<TYPE>; ++part) {
                            q[n][part][step][r] = pack<TYPE>(x, y, part);
                        }
                        if constexpr (is_quantised<TYPE>) {
                            const float2 xy = __half22float2(halves(q[n][0][step][r]));
                            block_sum[step / 2] += (xy.x + xy.y) / key_factor<TYPE>(r);
                        }
                    }
                }
                // From column g to columns 2t, 2t + 1.
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    factor[n][c]   = __shfl_sync(~0u, f, 4 * (2 * t + c));
                    const int token = s.first_token + (s.n_tokens == 1 ? 0 : min((8 * n + 2 * t + c) / s.n_heads, s.n_tokens - 1));
                    position[n][c] = plan.position[token];
                    window[n][c]   = sees_window ? window_begin(layout, recent, position[n][c]) : -1;
                    maximum[n][c]  = NO_KEY;
                    sum[n][c]      = 0.0f;
                }
                if constexpr (is_quantised<TYPE>) {
#pragma unroll
                    for (int b = 0; b < SLICE / 32; ++b) {
                        float x = block_sum[b];
                        x += __shfl_xor_sync(~0u, x, 1);
                        x += __shfl_xor_sync(~0u, x, 2);
#pragma unroll
                        for (int c = 0; c < 2; ++c) {
                            constants.start[n][b][c] = __shfl_sync(~0u, x, 4 * (2 * t + c)) * ((HAS_MINIMUM<TYPE> ? 1.0f : -QUANT_OFFSET<TYPE>) * KEY_UNIT<TYPE>);
                        }
                    }
                }
#pragma unroll
                for (int tile = 0; tile < SLICE / 16; ++tile) {
#pragma unroll
                    for (int c = 0; c < 4; ++c) {
                        out[n][tile][c] = 0.0f;
                    }
                }
            }
        });
        if constexpr (SLICES > 1) {
            sync_team(); // before scores take the place of the queries
        }
    };

    // Where a column's query was, until it went to registers.
    const auto query_at = [&](int column) { return reinterpret_cast<float *>(queries + column * Config::Q_STRIDE); };
    // Ends the segment at hand: to the destination where this team had all of it, else as a part.
    const auto finish_segment = [&]() {
        const bool whole    = team_begin <= tiles_begin(current) && tiles_end(current) <= team_end;
        const bool moves_on = tiles_end(current) < team_end; // then tiles of the next segment are arriving in the pipeline
        const Segment s     = segment(plan, layout, shape, current);
        float * const part  = moves_on ? team_parts + team * Config::PART_FLOATS : reinterpret_cast<float *>(pipeline);
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                float x = sum[n][c];
                x += __shfl_xor_sync(~0u, x, 4);
                x += __shfl_xor_sync(~0u, x, 8);
                x += __shfl_xor_sync(~0u, x, 16);
                const int column = 8 * n + 2 * t + c;
                if (column < n_columns) {
                    float * const to = (!whole ? part + column * D : rotates_values<V>(p) ? query_at(column) : destination<D>(p, s, column)) + slice * SLICE;
                    const float norm = whole ? 1.0f / denominator(p, head_of(s, column), maximum[n][c], x) : 1.0f;
                    with_type<V>(p.type_v, [&](auto type) {
                        constexpr CacheType TYPE = decltype(type)::value;
#pragma unroll
                        for (int tile = 0; tile < SLICE / 16; ++tile) {
#pragma unroll
                            for (int row = 0; row < 2; ++row) {
                                to[value_dim<TYPE>(tile, row, g)] = out[n][tile][2 * row + c] * (value_unit<TYPE>(row) * norm);
                            }
                        }
                    });
                    if (!whole && g == 0 && slice == 0) {
                        control.part[moves_on][team][column] = make_float2(maximum[n][c], x);
                    }
                }
            }
        }
        if (whole && rotates_values<V>(p)) { // all of its dimensions at once
            sync_team();
            for (int i = member; i < n_columns * (D / 4); i += Config::TEAM_THREADS) {
                const int column = i / (D / 4), at = i % (D / 4);
                reinterpret_cast<float4 *>(destination<D>(p, s, column))[at] = rotated_back<V>(p, reinterpret_cast<const float4 *>(query_at(column))[at]);
            }
            sync_team(); // before the next queries come
        }
    };

    // Adds up the slices of scores, in one order for all of the team: its warps then go on with the same bits. A warp is at most one turn ahead of another.
    int turn = 0;
    const auto add_slices = [&](float (&score)[STEPS][N_TILES][4]) {
        float4 * const all = reinterpret_cast<float4 *>(queries) + turn * SLICES * Config::SCORES + lane;
        turn ^= 1;
#pragma unroll
        for (int i = 0; i < STEPS * N_TILES; ++i) {
            const float (&x)[4] = score[i / N_TILES][i % N_TILES];
            all[slice * Config::SCORES + 32 * i] = make_float4(x[0], x[1], x[2], x[3]);
        }
        sync_team();
#pragma unroll
        for (int i = 0; i < STEPS * N_TILES; ++i) {
            float4 sum = all[32 * i];
#pragma unroll
            for (int k = 1; k < SLICES; ++k) {
                const float4 x = all[k * Config::SCORES + 32 * i];
                sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
            }
            float (&x)[4] = score[i / N_TILES][i % N_TILES];
            x[0] = sum.x, x[1] = sum.y, x[2] = sum.z, x[3] = sum.w;
        }
    };

    // Multiplies STEPS times 16 keys, those of positions `first` and following; [begin, end) of them exist.
    const auto consume = [&](const uint8_t * keys, uint8_t * values, int begin, int end, int first) {
        constexpr int KEYS = 16 * STEPS, N = STEPS * N_TILES * 4;
        const bool partial = begin > 0 || end < KEYS;
        const bool edge    = partial || (block_tokens > 1 && (sees_window || first + KEYS - 1 > first_position));
        if (partial) {
            with_type<V>(p.type_v, [&](auto type) {
                constexpr CacheType TYPE = decltype(type)::value;
                clear_values<TYPE, SLICE, ROW_STRIDE<TYPE, D>, KEYS>(values + slice * ROW_BYTES<TYPE, SLICE>, begin, end, lane);
            });
        }

        float score[STEPS][N_TILES][4];
        with_type<K>(p.type_k, [&](auto type) {
            constexpr CacheType TYPE = decltype(type)::value;
#pragma unroll
            for (int step = 0; step < STEPS; ++step) {
                const uint8_t * rows = keys + slice * ROW_BYTES<TYPE, SLICE> + step * 16 * ROW_STRIDE<TYPE, D>;
                key_product<TYPE, SLICE, ROW_STRIDE<TYPE, D>, N_TILES>(score[step], rows, q, constants, n_tiles, lane);
            }
        });
#pragma unroll
        for (int i = 0; i < N; ++i) {
            score[i / (4 * N_TILES)][i / 4 % N_TILES][i % 4] *= factor[i / 4 % N_TILES][i % 2];
        }
        if constexpr (SLICES > 1) {
            add_slices(score);
        }
        if (p.softcap != 0.0f) {
#pragma unroll
            for (int i = 0; i < N; ++i) {
                float & x = score[i / (4 * N_TILES)][i / 4 % N_TILES][i % 4];
                x = p.softcap * 1.44269504f * ptx::tanh(x);
            }
        }
        if (edge) {
#pragma unroll
            for (int i = 0; i < N; ++i) {
                const int n = i / 4 % N_TILES, c = i % 2, key = i / (4 * N_TILES) * 16 + g + i % 4 / 2 * 8, j = first + key;
                const bool visible = key >= begin && key < end && j <= position[n][c] && (j < layout.sink || j >= window[n][c]);
                float & x = score[i / (4 * N_TILES)][n][i % 4];
                x = visible ? x : -INFINITY;
            }
        }

        // New maxima are rare: look for one in the whole warp, and only then agree on it.
        bool grows = false;
        float top[N_TILES][2];
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                top[n][c] = fmaxf(score[0][n][c], score[0][n][c + 2]);
#pragma unroll
                for (int step = 1; step < STEPS; ++step) {
                    top[n][c] = fmaxf(top[n][c], fmaxf(score[step][n][c], score[step][n][c + 2]));
                }
                grows |= top[n][c] > maximum[n][c] + (Config::HEADROOM + Config::SLACK);
            }
        }
        if (__any_sync(~0u, grows)) {
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    float x = top[n][c];
                    x = fmaxf(x, __shfl_xor_sync(~0u, x, 4));
                    x = fmaxf(x, __shfl_xor_sync(~0u, x, 8));
                    x = fmaxf(x, __shfl_xor_sync(~0u, x, 16));
                    x = fmaxf(maximum[n][c], x - Config::HEADROOM);
                    const float shrink = ptx::exp2(maximum[n][c] - x);
                    maximum[n][c] = x;
                    sum[n][c] *= shrink;
#pragma unroll
                    for (int tile = 0; tile < SLICE / 16; ++tile) {
                        out[n][tile][c]     *= shrink;
                        out[n][tile][c + 2] *= shrink;
                    }
                }
            }
        }

#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            uint32_t operand[N_TILES][N_PARTS<V>][2];
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
                for (int row = 0; row < 2; ++row) {
                    const float x = ptx::exp2(score[step][n][2 * row] - maximum[n][0]), y = ptx::exp2(score[step][n][2 * row + 1] - maximum[n][1]);
#pragma unroll
                    for (int part = 0; part < N_PARTS<V>; ++part) {
                        const uint32_t packed = pack<V>(x, y, part);
                        operand[n][part][row] = ptx::movmatrix_trans(packed);
                        if constexpr (N_PARTS<V> == 1) {
                            // The sum of what is multiplied, not of what was rounded: equal scores then cancel exactly.
                            const float2 rounded = __half22float2(halves(packed));
                            sum[n][0] += rounded.x;
                            sum[n][1] += rounded.y;
                        }
                    }
                    if constexpr (N_PARTS<V> == 2) {
                        sum[n][0] += x;
                        sum[n][1] += y;
                    }
                }
            }
            with_type<V>(p.type_v, [&](auto type) {
                constexpr CacheType TYPE = decltype(type)::value;
                const uint8_t * rows = values + slice * ROW_BYTES<TYPE, SLICE> + step * 16 * ROW_STRIDE<TYPE, D>;
                value_product<TYPE, SLICE, ROW_STRIDE<TYPE, D>, N_TILES>(out, rows, operand, n_tiles, lane);
            });
        }
    };

    // The share of this team, segment by segment, while the next N_STAGES tiles are on their way.
    const int32_t first_index = cursor.segment;
    const bool    works = !cursor.done();
#pragma unroll 1
    for (int i = 0; i < Config::N_STAGES; ++i) {
        fetch(i);
        if (i == 0 && works) {
            ask_for_queries(first_index);
        }
    }
    // While the first tile is on its way: what the joining will ask for.
    if (team_begin < team_end && member == 0) {
        control.last_segment[team] = plan.segment_at(team_end - 1);
    }
    if (lane == 0 && warp < 2) {
        // Only the first and the last segment of a block's share can lie in other blocks too.
        const int32_t first = plan.segment_at(block_begin), last = plan.segment_at(block_end - 1), index = warp == 0 ? first : last;
        const bool mine = max(tiles_begin(index), block_begin) < min(tiles_end(index), block_end) && (warp == 0 || last > first);
        control.first_block[warp] = blocks.taker(tiles_begin(index));
        control.n_blocks[warp]    = mine ? blocks.taker(tiles_end(index) - 1) - control.first_block[warp] + 1 : 0;
        control.first_segment     = first;
    }
    sync_team();
    int stage = 0, parity = 0;
    for (bool first = true; n_pending > 0; first = false) {
        TileNote note = control.note[team][stage];
        if (!first) {
            ask_for_queries(note.segment);
        }
        start_segment(note.segment, first);
        do {
            if constexpr (Config::BULK) {
#if __CUDA_ARCH__ >= 900
                ptx::mbarrier_wait(ptx::shared_address(&control.full[team][stage]), parity);
#endif
            } else {
                ptx::cp_async_wait<Config::N_STAGES - 1>();
                sync_team();
            }
            uint8_t * const tile = pipeline + stage * Config::STAGE;
#pragma unroll 1
            for (int step = 0; step < TILE && step < note.end; step += 16 * STEPS) {
                consume(tile + step * k_stride, tile + Config::K_STAGE + step * v_stride, note.begin - step, note.end - step, note.position + step);
            }
            if (Config::BULK && (note.begin > 0 || note.end < TILE)) {
#if __CUDA_ARCH__ >= 900
                ptx::fence_async(); // values were cleared where the copy engine writes next
#endif
            }
            sync_team();
            --n_pending;
            fetch(stage);
            sync_team();
            if (++stage == Config::N_STAGES) {
                stage = 0, parity ^= 1;
            }
            note = control.note[team][stage];
        } while (n_pending > 0 && note.segment == current);
        finish_segment();
    }
    ptx::let_next_kernel_start();
    __syncthreads();

    join_parts<Config>(p, shape, control, pipelines, blocks, teams);
}

} // namespace duo::cuda
