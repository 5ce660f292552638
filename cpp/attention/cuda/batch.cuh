// Attention of a few tokens of one sequence over many keys, as when several drafted tokens are verified: up to 32 query columns for one reading of the cache.
//
// As decode.cuh, but a team is four warps, which share the products, with 64 keys, then dimensions, as rows in registers:
//   scores  S^T[64 keys][columns] = K[64 keys][D] Q^T[D][columns]          warp w has keys 16 w .. 16 w + 15
//   output  O^T[D][columns]       = V^T[D][64 keys] P^T[64 keys][columns]  warp w has D / 4 dimensions
// So each quant is unpacked once, whatever the number of columns, and a warp holds a quarter of the output. Queries and probabilities lie in shared memory
// as the products want them: eight columns with eight of their values each are 128 bytes. At 32 columns the products are those of a warpgroup (wgmma.cuh), at
// 16 each warp's own.
//
// Keys: quants stay integers, as subnormal halves, and a block's scale multiplies its products. What makes quants non-negative is taken off by
// one more product, of the scales and the sums of the queries' values, high and low halves. Values are multiplied by their scale and rounded, once;
// in return a probability is rounded once, where decode.cuh rounds its product with a scale.
#pragma once

#include "decode-common.cuh"
#include "fragments.cuh"
#include "wgmma.cuh"

namespace duo::cuda {

template <CacheType K_, CacheType V_, int D_, int COLUMNS_>
struct BatchConfig {
    static constexpr CacheType K     = K_, V = V_;
    static_assert(K == V && (K == CacheType::f16 || K == CacheType::q8_0 || K == CacheType::q4_0));
    static constexpr int D           = D_;
    static_assert(D == 128);
    static constexpr int COLUMNS     = COLUMNS_;
    static constexpr int N_TILES     = COLUMNS / 8;
    static constexpr bool WARPGROUPS = COLUMNS > 16;           // products of four warps each, which are slower at 16 columns and faster at 32
    static constexpr int V_TILES     = D / 64;                 // of 16 dimensions, of a warp
    static constexpr int N_BLOCKS    = D / BLOCK_VALUES;       // of a quantised row
    static constexpr bool BULK       = is_quantised<K>;        // tiles come by the copy engine, see decode.cuh
    static constexpr int TILE        = 64;                     // cells
    static constexpr int N_STAGES    = 2;                      // tiles of a team under way; three are not faster
    static constexpr int MAX_TEAMS   = !BULK ? 2 : COLUMNS <= 16 ? 4 : 3; // more spill registers, of 16 bits have no place
    static constexpr int OVERHEAD    = 1;                      // price of starting a segment, in tiles
    static constexpr int K_STRIDE    = ROW_STRIDE<K, D>, V_STRIDE = ROW_STRIDE<V, D>; // bytes of a row in shared memory
    static constexpr int K_STAGE     = TILE * K_STRIDE;
    static constexpr int STAGE       = K_STAGE + TILE * V_STRIDE;
    static constexpr int PART_FLOATS = COLUMNS * (D + 2);      // output [column][D], maximum and sum [column]
    static constexpr int PIPELINE_BYTES = N_STAGES * STAGE > PART_FLOATS * 4 ? N_STAGES * STAGE : (PART_FLOATS * 4 + 127) / 128 * 128;
    // Then, of each team, halves in groups of eight: queries [D / 8][column][8], sums of their blocks [2][column][8], probabilities [TILE / 8][column][8];
    // and of each column four numbers, of its warps' maxima or sums, and what it sees: its position and the begin of its window.
    static constexpr int GROUP       = COLUMNS * 16;           // bytes of eight values of all columns
    static constexpr int SUMS_AT     = PIPELINE_BYTES + D / 8 * GROUP;
    static constexpr int P_AT        = SUMS_AT + (is_quantised<K> ? 2 * GROUP : 0);
    static constexpr int TOPS_AT     = P_AT + TILE / 8 * GROUP;
    static constexpr int SIGHT_AT    = TOPS_AT + COLUMNS * 16;
    static constexpr int CURSOR_AT   = SIGHT_AT + COLUMNS * 8;
    static constexpr int TEAM_BYTES  = CURSOR_AT + 128;
    static constexpr int TEAM_THREADS = 128;
    static constexpr bool MERGES_APART = true;                 // one block would take longer over 33 parts than a second launch, by 16 us at 32 columns
    static constexpr float HEADROOM = 5.0f, SLACK = 3.0f;      // see decode.cuh
};

// Rows 16 w + g and 8 more of a tile, two blocks of them, as operands a: [block][product][register]; scales[r]: the two of a row.
template <CacheType TYPE>
static __device__ __forceinline__ void key_pair(uint32_t (&a)[2][2][4], uint32_t (&scales)[2], const uint8_t * const (&row)[2], int t) {
    // See key_product: lanes take whole words, and the last one puts a word of the first block together.
    const uint32_t select = t < 3 ? 0x7654 : 0x5432;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const uint8_t * p = row[r];
        const uint32_t head = load32(p);
        if constexpr (TYPE == CacheType::q8_0) {
            const uint32_t middle = load32(p + 32);
            const uint32_t word[2][2] = { { load32(p + 4 + 4 * t), __byte_perm(head, load32(p + 20 + 4 * t), select) },
                                          { load32(p + 36 + 4 * t), load32(p + 52 + 4 * t) } };
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const uint32_t w = word[i / 2][i % 2];
                a[i / 2][i % 2][r]     = ptx::and_xor(w,      0x00ff00ff, 0x00800080);
                a[i / 2][i % 2][r + 2] = ptx::and_xor(w >> 8, 0x00ff00ff, 0x00800080);
            }
            scales[r] = __byte_perm(head, middle, 0x7610);
        } else {
            const uint32_t middle = load32(p + 16);
            const uint32_t word[2] = { __byte_perm(head, load32(p + 4 + 4 * t), select), load32(p + 20 + 4 * t) };
#pragma unroll
            for (int b = 0; b < 2; ++b) {
                const uint32_t w = word[b];
                a[b][0][r]     = w & 0x000f000f;
                a[b][0][r + 2] = w & 0x00f000f0;
                a[b][1][r]     = w >> 8 & 0x000f000f;
                a[b][1][r + 2] = w >> 8 & 0x00f000f0;
            }
            scales[r] = __byte_perm(head, middle, 0x7610);
        }
    }
}

// Values of 16 keys as operands a: of each tile of value_dim's, the 16 dimensions of a block that are its. The blocks lie at `rows`, STRIDE bytes apart.
template <CacheType TYPE, int STRIDE>
static __device__ __forceinline__ void value_operands(uint32_t (&a)[2][4], const uint8_t * rows, int g, int t) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const uint8_t * x = rows + (2 * t + 8 * h) * STRIDE, * y = x + STRIDE;
        const half2 scale = halves(__byte_perm(load16(x), load16(y), 0x5410));
        const auto quants = [&](int at) { return __byte_perm(load16(x + at + 2 * g), load16(y + at + 2 * g), 0x5410); };
        const uint32_t low = quants(2), high = TYPE == CacheType::q8_0 ? quants(18) : 0;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            if constexpr (TYPE == CacheType::q8_0) { // see value_product
                const half2 offset = __float2half2_rn(1152.0f);
                a[i][2 * h]     = bits((halves(ptx::and_xor(low >> 8 * i,  0x00ff00ff, 0x64806480)) - offset) * scale);
                a[i][2 * h + 1] = bits((halves(ptx::and_xor(high >> 8 * i, 0x00ff00ff, 0x64806480)) - offset) * scale);
            } else {
                // 0x6400 | x is 1024 + x; upper nibbles stay where they are, 16 times larger.
                const half2 offset = __float2half2_rn(1024.0f + 8), upper = __float2half2_rn(1024.0f + 128);
                a[i][2 * h]     = bits((halves(ptx::and_xor(low >> 8 * i, 0x000f000f, 0x64006400)) - offset) * scale);
                a[i][2 * h + 1] = bits((halves(ptx::and_xor(low >> 8 * i, 0x00f000f0, 0x64006400)) - upper) * scale);
            }
        }
    }
}

template <typename Config>
static __global__ void __launch_bounds__(HAS_WGMMA ? Config::MAX_TEAMS * Config::TEAM_THREADS : 1, 1)
batch_kernel(const __grid_constant__ AttentionParams p, const __grid_constant__ DecodeShape shape) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    constexpr CacheType K = Config::K, V = Config::V;
    constexpr int D = Config::D, N_TILES = Config::N_TILES, V_TILES = Config::V_TILES, TILE = Config::TILE, COLUMNS = Config::COLUMNS, GROUP = Config::GROUP;
    constexpr int N_BLOCKS = Config::N_BLOCKS, K_ROW = ROW_BYTES<K, D>, V_ROW = ROW_BYTES<V, D>;

    extern __shared__ __align__(128) uint8_t shared[];
    auto & control = *reinterpret_cast<DecodeControl<Config> *>(shared);
    const DecodePlan & plan = control.plan;
    uint8_t * const pipelines = shared + DECODE_CONTROL_BYTES<Config>;

    const Layout & layout = p.layout;
    const int thread = threadIdx.x, lane = thread % 32, g = lane / 4, t = lane % 4;
    const int team = __shfl_sync(~0u, thread / 128, 0); // which the compiler then knows to be one for the warp, as descriptors must be
    const int warp = thread / 32 % 4, member = thread % 128, n_teams = blockDim.x / 128;
    uint8_t * const pipeline = pipelines + team * Config::TEAM_BYTES;
    uint8_t * const queries  = pipeline + Config::PIPELINE_BYTES, * const sums = pipeline + Config::SUMS_AT, * const weights = pipeline + Config::P_AT;
    float   * const tops     = reinterpret_cast<float *>(pipeline + Config::TOPS_AT);    // [warp][column]
    float   * const highs    = reinterpret_cast<float *>(pipeline + Config::CURSOR_AT + 112); // of the queries, [warp]
    int2    * const sight    = reinterpret_cast<int2 *>(pipeline + Config::SIGHT_AT);    // [column]
    const auto sync_team = [&]() { ptx::barrier<128>(1 + team); };

    if (Config::BULK && member == 0) {
        for (int i = 0; i < Config::N_STAGES; ++i) {
            ptx::mbarrier_init(ptx::shared_address(&control.full[team][i]), 1);
        }
        ptx::fence_async();
    }
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
    const auto tiles_begin = [&](int32_t index) { return plan.begin[index] + Config::OVERHEAD; };
    const auto tiles_end   = [&](int32_t index) { return plan.begin[index + 1]; };
    float * const team_parts = p.partials + int64_t(blockIdx.x) * Config::MAX_TEAMS * Config::PART_FLOATS;

    // The copy engine needs one thread, of a warp in which other teams have none; its cursor is in shared memory, so that no registers are kept for it.
    const bool notes = Config::BULK ? warp == team % 4 && lane == 0 : member == 0;
    TileCursor<Config> own;
    TileCursor<Config> & cursor = Config::BULK ? *reinterpret_cast<TileCursor<Config> *>(pipeline + Config::CURSOR_AT) : own;
    static_assert(sizeof(own) <= 112);
    if (!Config::BULK || notes) {
        cursor.unit = team_begin, cursor.unit_end = team_end;
        if (!cursor.done()) {
            cursor.enter(plan, layout, shape, plan.segment_at(team_begin));
        }
        if (notes) {
            control.note[team][0].segment = cursor.done() ? -1 : cursor.segment; // for all to know, and as the first tile's note says again
        }
    }
    sync_team();

    // Sends the next tile, if there is one, on its way.
    const auto fetch = [&](int stage) {
        if (Config::BULK && !notes) {
            return;
        }
        if (cursor.done()) {
            if (notes) {
                control.note[team][stage].segment = -1;
            }
        } else {
            const int32_t n_cells = min(TILE, (cursor.run.end - cursor.cell + CELL_ALIGN - 1) / CELL_ALIGN * CELL_ALIGN);
            const int64_t first   = cursor.first_row + cursor.cell;
            const uint8_t * k = static_cast<const uint8_t *>(p.k_cache) + first * K_ROW, * v = static_cast<const uint8_t *>(p.v_cache) + first * V_ROW;
            const uint32_t to = ptx::shared_address(pipeline + stage * Config::STAGE);
            if (notes) {
                control.note[team][stage] = { cursor.segment, cursor.run.begin - cursor.cell, cursor.run.end - cursor.cell, cursor.cell + cursor.run.offset };
            }
            if constexpr (Config::BULK) {
                const uint32_t full = ptx::shared_address(&control.full[team][stage]);
                if (notes) {
                    ptx::mbarrier_arrive_expect_tx(full, n_cells * (K_ROW + V_ROW));
                    ptx::bulk_copy(to, k, n_cells * K_ROW, full);
                    ptx::bulk_copy(to + Config::K_STAGE, v, n_cells * V_ROW, full);
                }
            } else {
                constexpr int PIECES = K_ROW / 16;
#pragma unroll 8
                for (int i = member; i < n_cells * PIECES; i += 128) {
                    const int at = i / PIECES * Config::K_STRIDE + i % PIECES * 16;
                    ptx::cp_async_16(to + at, k + i * 16);
                    ptx::cp_async_16(to + Config::K_STAGE + at, v + i * 16);
                }
            }
            cursor.advance(plan, layout, shape);
        }
        if constexpr (!Config::BULK) {
            ptx::cp_async_commit();
        }
    };

    // The state of the segment at hand. Lanes hold columns 2t, 2t + 1 of each tile of 8.
    float   out[V_TILES][N_TILES][4];
    float   maximum[N_TILES][2], sum[N_TILES][2];
    float   query_factor = 0.0f, factor = 0.0f; // of scores, and of what becomes of them where they are capped
    const bool caps = p.softcap != 0.0f;
    int32_t current = -1, n_columns = 0, first_position = 0;
    bool    sees_window = false; // sinks and recent keys only

    const auto start_segment = [&](int32_t index, bool first_tiles) {
        const Segment s = segment(plan, layout, shape, index);
        current = index, sees_window = s.recent < SEES_ALL, first_position = s.first_position, n_columns = s.n_tokens * s.n_heads;
        const float q_factor = p.softcap != 0.0f ? p.scale / p.softcap : p.scale * 1.44269504f;
        // A warp has every fourth column, a lane these of its values in the products' order.
        constexpr int VALUES = D / 32, BLOCK_LANES = 32 / VALUES;
        const int first = VALUES * lane, step = first / 16, r = first % 16 / 8;
        float raw[COLUMNS / 4][VALUES];
#pragma unroll
        for (int k = 0; k < COLUMNS / 4; ++k) {
            const int column = 4 * k + warp, token = column / s.n_heads;
            const float * from = p.q + (int64_t(s.first_token + token) * p.n_head + s.first_head + column - token * s.n_heads) * D;
#pragma unroll
            for (int i = 0; i < VALUES; ++i) {
                raw[k][i] = column < n_columns ? from[key_dim<K>(step, r, i % 2, (first + i) % 8 / 2)] : 0.0f;
            }
        }
        if (first_tiles) { // behind the queries, or their bytes keep those waiting
#pragma unroll 1
            for (int i = 0; i < Config::N_STAGES; ++i) {
                fetch(i);
            }
        }
        float top = 0.0f;
#pragma unroll
        for (int i = 0; i < COLUMNS / 4 * VALUES; ++i) {
            top = fmaxf(top, fabsf(raw[i / VALUES][i % VALUES]));
        }
#pragma unroll
        for (int i = 16; i > 0; i /= 2) {
            top = fmaxf(top, __shfl_xor_sync(~0u, top, i));
        }
        if (lane == 0) {
            highs[warp] = top;
        }
        sync_team(); // all are done with the queries before, too
        // Near 2^8, as in decode.cuh, but the largest of all columns: they have one factor. Of smaller ones than 2^-100 the factor would be 0 where those that
        // are no normal numbers are, and the masked scores, -infinity, no numbers.
        const int exponent = 8 - ilogbf(fmaxf(fmaxf(fmaxf(highs[0], highs[1]), fmaxf(highs[2], highs[3])), 0x1p-100f));
        const float lift = scalbnf(1.0f, exponent);
        query_factor = scalbnf(q_factor, -exponent);
        factor = caps ? 1.0f : query_factor;
#pragma unroll
        for (int k = 0; k < COLUMNS / 4; ++k) {
            const int column = 4 * k + warp;
            float block_sum = 0.0f;
#pragma unroll
            for (int i = 0; i < VALUES; i += 2) {
                const half2 x = __floats2half2_rn(raw[k][i] * lift * key_factor<K>(r), raw[k][i + 1] * lift * key_factor<K>(r));
                *reinterpret_cast<half2 *>(queries + (first + i) / 8 * GROUP + column * 16 + (first + i) % 8 * 2) = x;
                if constexpr (is_quantised<K>) {
                    const float2 xy = __half22float2(x);
                    block_sum += (xy.x + xy.y) / key_factor<K>(r);
                }
            }
            if constexpr (is_quantised<K>) {
#pragma unroll
                for (int i = 1; i < BLOCK_LANES; i *= 2) {
                    block_sum += __shfl_xor_sync(~0u, block_sum, i);
                }
                const float  x = __shfl_sync(~0u, block_sum, lane % N_BLOCKS * BLOCK_LANES);
                const __half high = __float2half_rn(x), low = __float2half_rn(x - __half2float(high));
                if (lane < 16) {
                    *reinterpret_cast<__half *>(sums + lane / 8 * GROUP + column * 16 + lane % 8 * 2) =
                        lane < N_BLOCKS ? high : lane < 2 * N_BLOCKS ? low : __float2half_rn(0.0f);
                }
            }
            if (lane == 0) {
                const int32_t position = plan.position[s.first_token + min(column / s.n_heads, s.n_tokens - 1)];
                sight[column]   = make_int2(position, sees_window ? window_begin(layout, s.recent, position) : -1);
            }
        }
        ptx::fence_async(); // warpgroup products read shared memory past the ordinary path
        sync_team();
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                maximum[n][c] = NO_KEY;
                sum[n][c]     = 0.0f;
            }
        }
#pragma unroll
        for (int i = 0; i < V_TILES * N_TILES * 4; ++i) {
            out[i / (4 * N_TILES)][i / 4 % N_TILES][i % 4] = 0.0f;
        }
    };

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
                if (g == 0) {
                    tops[warp * COLUMNS + 8 * n + 2 * t + c] = x;
                }
            }
        }
        sync_team();
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                const int column = 8 * n + 2 * t + c;
                if (column < n_columns) {
                    const float x = tops[column] + tops[COLUMNS + column] + tops[2 * COLUMNS + column] + tops[3 * COLUMNS + column];
                    float * const to = whole ? destination<D>(p, s, column) : part + column * D;
                    const float norm = whole ? 1.0f / denominator(p, head_of(s, column), maximum[n][c], x) : 1.0f;
#pragma unroll
                    for (int tile = 0; tile < V_TILES; ++tile) {
#pragma unroll
                        for (int row = 0; row < 2; ++row) {
                            const float unit = V == CacheType::q4_0 && row == 1 ? 1.0f / 16 : 1.0f;
                            to[value_dim<V>(warp * V_TILES + tile, row, g)] = out[tile][n][2 * row + c] * (unit * norm);
                        }
                    }
                    if (!whole && g == 0 && warp == 0) {
                        control.part[moves_on][team][column] = make_float2(maximum[n][c], x);
                    }
                }
            }
        }
        if (whole && rotates_values<V>(p)) { // where it lies, since a warp has but some of a rotation's dimensions
            sync_team();
            for (int i = member; i < n_columns * (D / 4); i += Config::TEAM_THREADS) {
                float4 & at = reinterpret_cast<float4 *>(destination<D>(p, s, i / (D / 4)))[i % (D / 4)];
                at = rotated_back<V>(p, at);
            }
        }
    };

    // Operand b of a step of 16 values.
    const auto operand = [&](const uint8_t * groups, int step) {
        return ptx::wgmma_descriptor_plain(ptx::shared_address(groups), step * 2 * GROUP, GROUP, 128);
    };
    // Where this lane finds, or puts, its row of four matrices of 8 columns: two groups of each of two tiles.
    const uint32_t of_lane = lane / 8 % 2 * GROUP + (8 * (lane / 16) + lane % 8) * 16;
    const uint32_t q_address = ptx::shared_address(queries) + of_lane, s_address = ptx::shared_address(sums) + of_lane;
    const uint32_t p_address = ptx::shared_address(weights) + of_lane;
    // product[n] += a times 16 values of each column
    const auto multiply = [&](float (&product)[N_TILES][4], const uint32_t (&a)[4], uint32_t address, int step) {
#pragma unroll
        for (int n = 0; n < N_TILES; n += 2) {
            uint32_t b[4];
            ptx::ldmatrix_x4(b, address + step * 2 * GROUP + n * 128);
            ptx::mma_f16(product[n], a, b[0], b[1]);
            ptx::mma_f16(product[n + 1], a, b[2], b[3]);
        }
    };

    // The scores of this warp's 16 keys.
    const auto key_scores = [&](float (&score)[N_TILES][4], const uint8_t * keys) {
#pragma unroll
        for (int i = 0; i < 4 * N_TILES; ++i) {
            score[i / 4][i % 4] = 0.0f;
        }
        if constexpr (!is_quantised<K>) {
            const uint32_t address = ptx::shared_address(keys) + (16 * warp + lane % 16) * Config::K_STRIDE + lane / 16 * 16;
            uint32_t a[D / 16][4];
#pragma unroll
            for (int step = 0; step < D / 16; ++step) {
                ptx::ldmatrix_x4(a[step], address + 32 * step);
            }
            if constexpr (Config::WARPGROUPS) {
                ptx::wgmma_fence();
#pragma unroll
                for (int step = 0; step < D / 16; ++step) {
                    ptx::wgmma_by_columns(score, a[step], operand(queries, step), step == 0);
                }
                ptx::wgmma_commit();
                ptx::wgmma_wait<0>();
                ptx::wgmma_hold(score);
            } else {
#pragma unroll
                for (int step = 0; step < D / 16; ++step) {
                    multiply(score, a[step], q_address, step);
                }
            }
        } else {
            constexpr int PAIRS = D / 64, PAIR = 2 * BLOCK_BYTES<K>;
            const uint8_t * const rows = keys + (16 * warp + g) * Config::K_STRIDE;
            uint32_t a[2][2][4], scales[2]; // of the pair of blocks at hand
            const auto unpack = [&](int pair) {
                const uint8_t * const row[2] = { rows + pair * PAIR, rows + pair * PAIR + 8 * Config::K_STRIDE };
                key_pair<K>(a, scales, row, t);
            };
            // Columns 2t, 2t + 1 of the product that takes the offset off are the scales of two blocks, once for high and once for low halves.
            uint32_t offset[4] = {};
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const uint8_t * const row = rows + t % PAIRS * PAIR + 8 * r * Config::K_STRIDE;
                offset[r] = bits(halves(__byte_perm(load32(row), load32(row + PAIR / 2 - 2), 0x7610)) * __float2half2_rn(-QUANT_OFFSET<K>));
            }
            // score += the products of a block times its scale
            const auto add = [&](const float (&product)[N_TILES][4], const float (&scale)[2]) {
#pragma unroll
                for (int i = 0; i < 4 * N_TILES; ++i) {
                    score[i / 4][i % 4] += scale[i % 4 / 2] * product[i / 4][i % 4];
                }
            };
            float product[2][N_TILES][4], scale[2][2]; // of each block; [block][row]
            unpack(0);
            if constexpr (!Config::WARPGROUPS) {
                multiply(score, offset, s_address, 0);
            }
#pragma unroll
            for (int pair = 0; pair < PAIRS; ++pair) {
                if constexpr (Config::WARPGROUPS) {
                    ptx::wgmma_fence();
                    if (pair == 0) {
                        ptx::wgmma_by_columns(score, offset, operand(sums, 0), true);
                    }
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        ptx::wgmma_by_columns(product[i / 2], a[i / 2][i % 2], operand(queries, 4 * pair + i), i % 2 == 0);
                    }
                    ptx::wgmma_commit();
                } else {
#pragma unroll
                    for (int i = 0; i < 8 * N_TILES; ++i) {
                        product[i / (4 * N_TILES)][i / 4 % N_TILES][i % 4] = 0.0f;
                    }
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        multiply(product[i / 2], a[i / 2][i % 2], q_address, 4 * pair + i);
                    }
                }
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    scale[0][r] = __low2float(halves(scales[r])) / KEY_UNIT<K>;
                    scale[1][r] = __high2float(halves(scales[r])) / KEY_UNIT<K>;
                }
                if (pair + 1 < PAIRS) {
                    unpack(pair + 1);
                }
                if constexpr (Config::WARPGROUPS) {
                    ptx::wgmma_wait<0>();
                    ptx::wgmma_hold(product[0]);
                    ptx::wgmma_hold(product[1]);
                    if (pair == 0) {
                        ptx::wgmma_hold(score);
                    }
                }
                add(product[0], scale[0]);
                add(product[1], scale[1]);
            }
        }
    };

    // Multiplies the tile at hand, the cells [begin, end) of which exist, with the position `first` of the first cell; then sends the next one on its way.
    const auto consume = [&](int stage, int begin, int end, int first) {
        uint8_t * const keys = pipeline + stage * Config::STAGE, * const values = keys + Config::K_STAGE;
        const bool partial = begin > 0 || end < TILE, edge = partial || sees_window || first + TILE - 1 > first_position;
        float score[N_TILES][4];
        key_scores(score, keys);

        if (caps) {
#pragma unroll
            for (int i = 0; i < 4 * N_TILES; ++i) {
                score[i / 4][i % 4] = p.softcap * 1.44269504f * ptx::tanh(score[i / 4][i % 4] * query_factor);
            }
        }
        if (edge) { // of what somebody sees
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    const int2 see = sight[8 * n + 2 * t + c];
#pragma unroll
                    for (int row = 0; row < 2; ++row) {
                        const int  key = 16 * warp + g + 8 * row, j = first + key;
                        const bool visible = key >= begin && key < end && j <= see.x && (j < layout.sink || j >= see.y);
                        float & x = score[n][2 * row + c];
                        x = visible ? x : -INFINITY;
                    }
                }
            }
        }

        // New maxima are rare: look for one in the whole team, and only then agree on it.
        bool grows = false;
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                grows |= fmaxf(score[n][c], score[n][c + 2]) * factor - maximum[n][c] > Config::HEADROOM + Config::SLACK;
            }
        }
        if (ptx::barrier_any<128>(1 + team, grows)) {
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    float x = fmaxf(score[n][c], score[n][c + 2]) * factor;
                    x = fmaxf(x, __shfl_xor_sync(~0u, x, 4));
                    x = fmaxf(x, __shfl_xor_sync(~0u, x, 8));
                    x = fmaxf(x, __shfl_xor_sync(~0u, x, 16));
                    if (g == 0) {
                        tops[warp * COLUMNS + 8 * n + 2 * t + c] = x;
                    }
                }
            }
            sync_team();
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    const float * const top = tops + 8 * n + 2 * t + c;
                    const float x = fmaxf(maximum[n][c], fmaxf(fmaxf(top[0], top[COLUMNS]), fmaxf(top[2 * COLUMNS], top[3 * COLUMNS])) - Config::HEADROOM);
                    const float shrink = ptx::exp2(maximum[n][c] - x);
                    maximum[n][c] = x;
                    sum[n][c] *= shrink;
#pragma unroll
                    for (int tile = 0; tile < V_TILES; ++tile) {
                        out[tile][n][c]     *= shrink;
                        out[tile][n][c + 2] *= shrink;
                    }
                }
            }
        }

        // Probabilities, to shared memory by columns.
#pragma unroll
        for (int n = 0; n < N_TILES; n += 2) {
            uint32_t packed[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int tile = n + i / 2, row = i % 2;
                packed[i] = bits(__floats2half2_rn(ptx::exp2(score[tile][2 * row] * factor - maximum[tile][0]),
                                                   ptx::exp2(score[tile][2 * row + 1] * factor - maximum[tile][1])));
                // The sum of what is multiplied, as in decode.cuh.
                const float2 rounded = __half22float2(halves(packed[i]));
                sum[tile][0] += rounded.x;
                sum[tile][1] += rounded.y;
            }
            ptx::stmatrix_x4_trans(p_address + 2 * warp * GROUP + n * 128, packed);
        }

        if (partial) { // of its own dimensions alone
            clear_values<V, D / 4, Config::V_STRIDE, TILE>(values + warp * ROW_BYTES<V, D / 4>, begin, end, lane);
        }
        uint32_t a[TILE / 16][V_TILES][4];
#pragma unroll
        for (int k = 0; k < TILE / 16; ++k) {
            if constexpr (is_quantised<V>) {
                static_assert(V_TILES == 2); // a block of each warp's own
                value_operands<V, Config::V_STRIDE>(a[k], values + 16 * k * Config::V_STRIDE + warp * BLOCK_BYTES<V>, g, t);
            } else {
                const uint32_t address = ptx::shared_address(values) + (16 * k + lane % 8 + lane / 16 * 8) * Config::V_STRIDE + lane / 8 % 2 * 16;
#pragma unroll
                for (int tile = 0; tile < V_TILES; ++tile) {
                    ptx::ldmatrix_x4_trans(a[k][tile], address + 32 * (warp * V_TILES + tile));
                }
            }
        }
        if (Config::WARPGROUPS || partial) {
            ptx::fence_async(); // probabilities, and values that were cleared where the copy engine writes next
        }
        sync_team(); // now the tile is in registers, too
        fetch(stage);
        if constexpr (Config::WARPGROUPS) {
#pragma unroll
            for (int tile = 0; tile < V_TILES; ++tile) {
                ptx::wgmma_hold(out[tile]);
            }
            ptx::wgmma_fence();
#pragma unroll
            for (int k = 0; k < TILE / 16; ++k) {
#pragma unroll
                for (int tile = 0; tile < V_TILES; ++tile) {
                    ptx::wgmma_by_columns(out[tile], a[k][tile], operand(weights, k), false);
                }
            }
            ptx::wgmma_commit();
            ptx::wgmma_wait<0>();
#pragma unroll
            for (int tile = 0; tile < V_TILES; ++tile) {
                ptx::wgmma_hold(out[tile]);
            }
        } else {
#pragma unroll
            for (int k = 0; k < TILE / 16; ++k) {
#pragma unroll
                for (int n = 0; n < N_TILES; n += 2) {
                    uint32_t b[4];
                    ptx::ldmatrix_x4(b, p_address + k * 2 * GROUP + n * 128);
#pragma unroll
                    for (int tile = 0; tile < V_TILES; ++tile) {
                        ptx::mma_f16(out[tile][n], a[k][tile], b[0], b[1]);
                        ptx::mma_f16(out[tile][n + 1], a[k][tile], b[2], b[3]);
                    }
                }
            }
        }
    };

    // What the joining will ask for.
    if (team_begin < team_end && member == 0) {
        control.last_segment[team] = plan.segment_at(team_end - 1);
    }
    if (thread == 0) {
        control.first_segment = plan.segment_at(block_begin);
    }

    // The share of this team, segment by segment, while the next N_STAGES tiles are on their way.
    int stage = 0, parity = 0;
    bool first = true;
    for (int32_t index = control.note[team][0].segment; index >= 0; first = false) {
        start_segment(index, first);
        do {
            const TileNote note = control.note[team][stage];
            if constexpr (Config::BULK) {
                ptx::mbarrier_wait(ptx::shared_address(&control.full[team][stage]), parity);
            } else {
                ptx::cp_async_wait<Config::N_STAGES - 1>();
                sync_team();
            }
            consume(stage, note.begin, note.end, note.position);
            if (++stage == Config::N_STAGES) {
                stage = 0, parity ^= 1;
            }
            index = control.note[team][stage].segment;
        } while (index == current);
        finish_segment();
    }
    ptx::let_next_kernel_start();
    __syncthreads();

    join_parts<Config>(p, shape, control, pipelines, blocks, teams);
#endif
}

} // namespace duo::cuda
