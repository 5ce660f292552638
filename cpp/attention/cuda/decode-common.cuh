// What the decode kernels have in common: the walk of a team through its tiles, and the joining of what teams and blocks have found.
#pragma once

#include "decode-plan.cuh"
#include "merge.cuh"
#include "rotation.cuh"

namespace duo::cuda {

// What a team must know of a tile when it has arrived.
struct alignas(16) TileNote {
    int32_t segment;
    int32_t begin, end; // its keys that exist, of [0, TILE)
    int32_t position;   // of key 0
};

// Shared memory: this, then a pipeline of N_STAGES tiles for each team. A pipeline later holds its team's part.
template <typename Config>
struct DecodeControl {
    DecodePlan plan;
    TileNote   note[Config::MAX_TEAMS][Config::N_STAGES];
    alignas(8) uint64_t full[Config::MAX_TEAMS][Config::N_STAGES];
    float2     part[2][Config::MAX_TEAMS][Config::COLUMNS]; // maximum and sum of each team's parts: of its last segment, and of the one before
    int32_t    first_block[2], n_blocks[2];        // of the first and of the last segment of the block's share; 0 where it has none of its tiles
    bool       is_last[2];                        // to arrive at those segments
    int32_t    first_segment, last_segment[Config::MAX_TEAMS]; // of the block's and of each team's share
};

template <typename Config>
constexpr size_t DECODE_CONTROL_BYTES = (sizeof(DecodeControl<Config>) + 127) / 128 * 128;

// Walks the tiles of one share, segment by segment, run by run.
template <typename Config>
struct TileCursor {
    Cells   cells;
    Run     run;
    int64_t first_row;
    int32_t unit, unit_end, segment_end, segment, run_index, cell;

    __device__ bool done() const { return unit >= unit_end; }

    // To the tile of `unit`, or of the first tile after it, in segment `index` or a later one.
    __device__ void enter(const DecodePlan & plan, const Layout & layout, const DecodeShape & shape, int32_t index) {
        for (segment = index; !done(); ++segment) {
            const int32_t first_tile = plan.begin[segment] + Config::OVERHEAD;
            segment_end = plan.begin[segment + 1];
            unit = max(unit, first_tile);
            if (unit < segment_end) {
                int32_t tile = unit - first_tile;
                cells     = plan.cells[segment];
                const int32_t ring = plan.heads[plan.id[segment].head].ring;
                first_row = duo::cuda::segment(plan, layout, shape, segment).first_row;
#pragma unroll 1
                for (run_index = 0; unit < unit_end; ++run_index) {
                    run = cells.run(layout, ring, run_index);
                    const int32_t n = run.n_tiles(Config::TILE);
                    if (tile < n) {
                        cell = run.first_cell() + tile * Config::TILE;
                        return;
                    }
                    tile -= n;
                }
            }
        }
    }

    __device__ void advance(const DecodePlan & plan, const Layout & layout, const DecodeShape & shape) {
        ++unit;
        cell += Config::TILE;
        // Anything but the next tile of the same run is rare, and found anew.
        if (cell >= run.end && !done()) {
            enter(plan, layout, shape, segment);
        }
    }
};

// Where the blocks of a launch leave their parts: behind those of the teams, two of each, of a segment that another block has begun and of one it begins.
template <typename Config>
static __device__ __forceinline__ float * block_part(const AttentionParams & p, int n_blocks, int block, bool starts_there) {
    return p.partials + (int64_t(n_blocks) * Config::MAX_TEAMS + 2 * int64_t(block) + starts_there) * Config::PART_FLOATS;
}

// The query head of a segment's column.
static __device__ __forceinline__ int head_of(const Segment & s, int column) { return s.first_head + (s.n_tokens == 1 ? column : column % s.n_heads); }

// Where element d of the output of a segment's column goes.
template <int D>
static __device__ __forceinline__ float * destination(const AttentionParams & p, const Segment & s, int column) {
    const int token = s.n_tokens == 1 ? 0 : column / s.n_heads;
    return p.dst + (int64_t(s.first_token + token) * p.n_head + s.first_head + column - token * s.n_heads) * D;
}

// The end of a decode kernel, for all threads of a block whose teams have left their parts.
template <typename Config>
static __device__ __forceinline__ void join_parts(const AttentionParams & p, const DecodeShape & shape, DecodeControl<Config> & control, uint8_t * pipelines,
                                                  const Shares & blocks, const Shares & teams) {
    constexpr int D = Config::D, COLUMNS = Config::COLUMNS;
    const DecodePlan & plan = control.plan;
    const Layout & layout = p.layout;
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, n_teams = blockDim.x / Config::TEAM_THREADS;
    const int32_t block_begin = blocks.begin(blockIdx.x), block_end = blocks.begin(blockIdx.x + 1);
    const float * const team_parts = p.partials + int64_t(blockIdx.x) * Config::MAX_TEAMS * Config::PART_FLOATS;
    const auto tiles_begin = [&](int32_t index) { return plan.begin[index] + Config::OVERHEAD; };
    const auto tiles_end   = [&](int32_t index) { return plan.begin[index + 1]; };

    // Joins the parts of this block's teams; what lies in this block alone is then done.
    constexpr int VECTORS = D / 4;
    const int32_t first_segment = control.first_segment;
    const int32_t last_segment  = control.last_segment[min(n_teams, block_end - block_begin) - 1];
    for (int32_t index = first_segment; index <= last_segment; ++index) {
        const int32_t begin = max(tiles_begin(index), block_begin), end = min(tiles_end(index), block_end);
        const bool starts_here = tiles_begin(index) >= block_begin, whole = starts_here && tiles_end(index) <= block_end;
        uint32_t has_part = 0; // by team
#pragma unroll
        for (int w = 0; w < Config::MAX_TEAMS; ++w) {
            has_part |= uint32_t(max(begin, block_begin + teams.begin(w)) < min(end, block_begin + teams.begin(w + 1))) << w;
        }
        if (has_part == 0 || (whole && (has_part & (has_part - 1)) == 0)) {
            continue; // only the overhead lies here, or one team had it all and has written it
        }
        const Segment s    = segment(plan, layout, shape, index);
        float * const part = block_part<Config>(p, gridDim.x, blockIdx.x, starts_here);
        for (int item = thread; item < s.n_tokens * s.n_heads * VECTORS; item += blockDim.x) {
            const int column = item / VECTORS;
            float2 norm[Config::MAX_TEAMS];
            float4 x[Config::MAX_TEAMS];
            Joined joined;
            float  m = NO_KEY;
#pragma unroll
            for (int w = 0; w < Config::MAX_TEAMS; ++w) {
                norm[w] = make_float2(NO_KEY, 0.0f), x[w] = make_float4(0, 0, 0, 0);
                if (has_part >> w & 1) {
                    const bool moved_on = control.last_segment[w] != index;
                    const float * const from = moved_on ? team_parts + w * Config::PART_FLOATS : reinterpret_cast<const float *>(pipelines + w * Config::TEAM_BYTES);
                    norm[w] = control.part[moved_on][w][column];
                    x[w]    = reinterpret_cast<const float4 *>(from)[item];
                }
                m = fmaxf(m, norm[w].x);
            }
#pragma unroll
            for (int w = 0; w < Config::MAX_TEAMS; ++w) {
                joined.add(ptx::exp2(norm[w].x - m), norm[w].y, x[w]);
            }
            if (whole) {
                const float4 result = joined.over(denominator(p, head_of(s, column), m, joined.sum));
                reinterpret_cast<float4 *>(destination<D>(p, s, column))[item % VECTORS] = rotated_back<Config::V>(p, result);
            } else {
                reinterpret_cast<float4 *>(part)[item] = joined.out;
                if (item % VECTORS == 0) {
                    reinterpret_cast<float2 *>(part + COLUMNS * D)[column] = make_float2(m, joined.sum);
                }
            }
        }
    }

    if constexpr (Config::MERGES_APART) {
        return;
    }

    // Joins the parts of the blocks of a segment, in the last of them to arrive. A block shares at most its first and its last segment; it arrives
    // at both counters at once.
    __syncthreads();
    if (lane == 0 && warp < 2) {
        const int32_t n = control.n_blocks[warp];
        control.is_last[warp] = n > 1 && last_to_arrive(p.counters + (warp == 0 ? first_segment : last_segment), n);
    }
    __syncthreads();
    for (int which = 0; which < 2; ++which) {
        if (!control.is_last[which]) {
            continue;
        }
        const int32_t index = which == 0 ? first_segment : last_segment;
        const int first_block = control.first_block[which], n_parts = control.n_blocks[which];
        // The parts are dealt to equal groups of threads, a group takes consecutive ones, and then the groups are joined in order.
        const Segment s = segment(plan, layout, shape, index);
        const int columns = s.n_tokens * s.n_heads, items = columns * VECTORS;
        const int n_groups = max(1, min(Shares::quotient(blockDim.x, items), 16));
        const Shares groups(n_parts, n_groups);
        float4 * const sums  = reinterpret_cast<float4 *>(pipelines);                                                       // [group][item]
        float2 * const norms = reinterpret_cast<float2 *>(pipelines + max(items, int(blockDim.x)) * sizeof(float4));  // [group][column]: maximum, sum
        for (int i = thread; i < items * n_groups; i += blockDim.x) {
            const int group = Shares::quotient(i, items), item = i - group * items, column = item / VECTORS;
            float m = NO_KEY;
            Joined joined;
            // Many parts at a time, so that their loads are under way together.
            constexpr int BATCH = 17; // 33 blocks share a retrieval head when 4 of 8 heads of a 132-processor card are such
            const int end = groups.begin(group + 1);
            for (int first = groups.begin(group); first < end; first += BATCH) {
                float4 y[BATCH];
                float2 norm[BATCH];
                float  top = m;
#pragma unroll
                for (int k = 0; k < BATCH; ++k) {
                    const int part = min(first + k, end - 1);
                    const float * const x = block_part<Config>(p, gridDim.x, first_block + part, part == 0);
                    y[k]    = __ldcg(reinterpret_cast<const float4 *>(x) + item);
                    norm[k] = __ldcg(reinterpret_cast<const float2 *>(x + COLUMNS * D) + column);
                }
#pragma unroll
                for (int k = 0; k < BATCH; ++k) {
                    norm[k].x = first + k < end ? norm[k].x : NO_KEY;
                    top = fmaxf(top, norm[k].x);
                }
                joined.scale(ptx::exp2(m - top));
                m = top;
#pragma unroll
                for (int k = 0; k < BATCH; ++k) {
                    joined.add(ptx::exp2(norm[k].x - m), norm[k].y, y[k]);
                }
            }
            sums[i] = joined.out;
            if (item % VECTORS == 0) {
                norms[group * COLUMNS + column] = make_float2(m, joined.sum);
            }
        }
        __syncthreads();
        for (int item = thread; item < items; item += blockDim.x) {
            const int column = item / VECTORS;
            float m = NO_KEY;
            Joined joined;
            for (int group = 0; group < n_groups; ++group) {
                m = fmaxf(m, norms[group * COLUMNS + column].x);
            }
            for (int group = 0; group < n_groups; ++group) {
                const float2 norm = norms[group * COLUMNS + column];
                joined.add(ptx::exp2(norm.x - m), norm.y, sums[group * items + item]);
            }
            const float4 result = joined.over(denominator(p, head_of(s, column), m, joined.sum));
            reinterpret_cast<float4 *>(destination<D>(p, s, column))[item % VECTORS] = rotated_back<Config::V>(p, result);
        }
        __syncthreads();
    }
}

// Joins the parts of blocks: 128 values of a query's output in each block of this launch. The parts are dealt to its warps, a warp takes consecutive ones,
// and then the warps' sums are joined in order.
constexpr int DECODE_MERGE_WARPS = 8;

template <typename Config>
static __global__ void __launch_bounds__(DECODE_MERGE_WARPS * 32)
decode_merge_kernel(const __grid_constant__ AttentionParams p, const __grid_constant__ DecodeShape shape) {
    constexpr int D = Config::D, WARPS = DECODE_MERGE_WARPS;
    static_assert(D % 128 == 0);
    __shared__ DecodePlan plan;
    __shared__ float4 sums[WARPS][32];
    __shared__ float2 norms[WARPS]; // maximum, sum
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    make_plan<Config::TILE, Config::OVERHEAD>(plan, p.layout, shape);
    ptx::wait_for_previous_kernel();
    ptx::let_next_kernel_start();

    const int token = blockIdx.x / p.n_head, head = blockIdx.x % p.n_head, head_kv = head / shape.ratio, chunk = head % shape.ratio / shape.chunk_heads;
    int group = 0;
    while (plan.group_begin[group + 1] <= token) {
        ++group;
    }
    const int index = (group * shape.n_head_kv + head_kv) * shape.n_chunks + chunk;
    const Segment s = segment(plan, p.layout, shape, index);
    const int column = (token - s.first_token) * s.n_heads + head - s.first_head;

    const Shares blocks(plan.n_units(), shape.n_blocks);
    const int first_block = blocks.taker(plan.begin[index] + Config::OVERHEAD), n_parts = blocks.taker(plan.begin[index + 1] - 1) - first_block + 1;
    if (n_parts == 1) {
        return; // its block has written it
    }
    const Shares warps(n_parts, WARPS);
    float m = NO_KEY;
    Joined joined;
    constexpr int BATCH = 9; // 66 blocks share a head when 2 heads share a 132-processor card
    for (int first = warps.begin(warp), end = warps.begin(warp + 1); first < end; first += BATCH) {
        float4 y[BATCH];
        float2 norm[BATCH];
        float  top = m;
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
            const int part = min(first + k, end - 1);
            const float * const x = block_part<Config>(p, shape.n_blocks, first_block + part, part == 0);
            y[k]    = __ldcg(reinterpret_cast<const float4 *>(x + column * D) + blockIdx.y * 32 + lane);
            norm[k] = __ldcg(reinterpret_cast<const float2 *>(x + Config::COLUMNS * D) + column);
        }
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
            norm[k].x = first + k < end ? norm[k].x : NO_KEY;
            top = fmaxf(top, norm[k].x);
        }
        joined.scale(ptx::exp2(m - top));
        m = top;
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
            joined.add(ptx::exp2(norm[k].x - m), norm[k].y, y[k]);
        }
    }
    sums[warp][lane] = joined.out;
    if (lane == 0) {
        norms[warp] = make_float2(m, joined.sum);
    }
    __syncthreads();
    if (warp == 0) {
        Joined all;
        float  top = NO_KEY;
        for (int w = 0; w < WARPS; ++w) {
            top = fmaxf(top, norms[w].x);
        }
        for (int w = 0; w < WARPS; ++w) {
            all.add(ptx::exp2(norms[w].x - top), norms[w].y, sums[w][lane]);
        }
        const float4 result = all.over(denominator(p, head, top, all.sum));
        reinterpret_cast<float4 *>(p.dst + int64_t(blockIdx.x) * D)[blockIdx.y * 32 + lane] = rotated_back<Config::V>(p, result);
    }
}

} // namespace duo::cuda
