// How a decode launch shares its work.
//
// A segment is what one query group reads of one KV head: its visible cells, cut in tiles. All segments are laid end to end, each preceded by a
// few units that stand for the price of starting one, and the line is cut into equal shares, one for each warp of the grid:
//
//   segment 0: ##............................  segment 1 (streaming head): ##...  segment 2: ##..............
//   share:     |  w0  |  w1  |  w2  |  w3  |  w4  |  w5  |  w6  |  w7  |
//
// So a retrieval head is spread over many warps and a streaming head stays in one or two, whatever the positions are; the grid never changes,
// and a captured graph stays valid while positions grow. Each block computes the plan anew from the positions: that costs about a microsecond
// and saves a launch.
#pragma once

#include "cells.cuh"

namespace duo::cuda {

constexpr int MAX_DECODE_TOKENS   = 32;   // of one launch: a warp finds the groups with one ballot
constexpr int MAX_DECODE_SEGMENTS = 1024; // of one launch

// Consecutive tokens of one stream, and some of the query heads of one KV head: the columns of the products.
struct Segment {
    int64_t first_row;   // row of cell 0
    int32_t first_token;
    int32_t n_tokens;
    int32_t first_head;  // query head
    int32_t n_heads;
    int32_t first_position;
    int32_t last_position;
    bool    streams;
};

struct DecodePlan {
    int32_t position[MAX_DECODE_TOKENS];
    int32_t stream[MAX_DECODE_TOKENS];
    int32_t group_begin[MAX_DECODE_TOKENS + 1]; // first token of each group
    int32_t begin[MAX_DECODE_SEGMENTS + 1];     // first unit of each segment
    int32_t warp_total[32];
    int32_t n_segments;
    int32_t n_workers;
    int32_t workers_per_block;

    __device__ int32_t n_units() const { return begin[n_segments]; }

    // Worker w owns units [w * n_units / n_workers, (w + 1) * n_units / n_workers).
    __device__ int32_t share_begin(int32_t worker) const { return int32_t(int64_t(worker) * n_units() / n_workers); }
    __device__ int32_t owner(int32_t unit) const { return int32_t((int64_t(unit + 1) * n_workers - 1) / n_units()); }

    __device__ int32_t segment_at(int32_t unit) const {
        int32_t low = 0, high = n_segments; // begin[low] <= unit < begin[high]
        while (high - low > 1) {
            const int32_t middle = (low + high) / 2;
            (begin[middle] <= unit ? low : high) = middle;
        }
        return low;
    }
};

// How a launch cuts its queries into segments.
struct DecodeShape {
    int32_t n_head;
    int32_t n_head_kv;
    int32_t group_tokens;  // at most so many tokens in a group
    int32_t chunk_heads;   // and so many query heads
    int32_t n_chunks;      // of the query heads of one KV head
};

static __device__ __forceinline__ Segment segment(const DecodePlan & plan, const Layout & layout, const DecodeShape & shape, int32_t index) {
    const int32_t chunk = index % shape.n_chunks;
    const int32_t head  = index / shape.n_chunks % shape.n_head_kv;
    const int32_t group = index / shape.n_chunks / shape.n_head_kv;
    const int32_t ratio = shape.n_head / shape.n_head_kv;

    Segment s;
    s.first_token    = plan.group_begin[group];
    s.n_tokens       = plan.group_begin[group + 1] - s.first_token;
    s.first_head     = head * ratio + chunk * shape.chunk_heads;
    s.n_heads        = min(shape.chunk_heads, ratio - chunk * shape.chunk_heads);
    s.first_position = plan.position[s.first_token];
    s.last_position  = plan.position[s.first_token + s.n_tokens - 1];
    s.first_row      = plan.stream[s.first_token] * layout.n_rows + layout.heads[2 * head];
    s.streams        = layout.heads[2 * head + 1] != 0;
    return s;
}

// Fills the plan; all threads of the block call it. TILE: cells of a tile; OVERHEAD: units before each segment.
template <int TILE, int OVERHEAD>
static __device__ void make_plan(DecodePlan & plan, const Layout & layout, const DecodeShape & shape) {
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, n_warps = blockDim.x / 32;

    // Groups of tokens.
    if (warp == 0) {
        const int n = layout.n_tokens;
        const int32_t position = lane < n ? layout.tokens[2 * lane] : 0;
        const int32_t stream   = lane < n ? layout.tokens[2 * lane + 1] : -1;
        const int32_t previous = __shfl_up_sync(~0u, stream, 1);
        const uint32_t changes = __ballot_sync(~0u, lane == 0 || stream != previous);
        const int32_t run      = 31 - __clz(changes & (~0u >> (31 - lane))); // first token of this token's stream
        const bool starts      = lane < n && (lane - run) % shape.group_tokens == 0;
        const uint32_t groups  = __ballot_sync(~0u, starts);
        plan.position[lane] = position;
        plan.stream[lane]   = stream;
        if (starts) {
            plan.group_begin[__popc(groups & ((1u << lane) - 1))] = lane;
        }
        if (lane == 0) {
            plan.group_begin[__popc(groups)] = n;
            plan.n_segments = __popc(groups) * shape.n_head_kv * shape.n_chunks;
        }
    }
    __syncthreads();

    // Units of each segment, then their running sum over the block.
    const int per_thread = (plan.n_segments + blockDim.x - 1) / blockDim.x;
    const int first = thread * per_thread, last = min(first + per_thread, plan.n_segments);
    int32_t sum = 0;
    for (int i = first; i < last; ++i) {
        const Segment s = segment(plan, layout, shape, i);
        int32_t units = OVERHEAD;
        for (int r = 0; r < MAX_RUNS; ++r) {
            units += cell_run(layout, s.streams, s.first_position, s.last_position, r).n_tiles(TILE);
        }
        plan.begin[i] = sum;
        sum += units;
    }
    int32_t before = sum;
    for (int i = 1; i < 32; i *= 2) {
        const int32_t other = __shfl_up_sync(~0u, before, i);
        before += lane >= i ? other : 0;
    }
    if (lane == 31) {
        plan.warp_total[warp] = before;
    }
    __syncthreads();
    before -= sum;
    for (int w = 0; w < warp; ++w) {
        before += plan.warp_total[w];
    }
    for (int i = first; i < last; ++i) {
        plan.begin[i] += before;
    }
    if (thread == blockDim.x - 1) {
        // With less work than warps, few warps in every block serve better than many in few: each block brings a share of the bandwidth.
        const int32_t total = before + sum, n_blocks = gridDim.x;
        plan.begin[plan.n_segments] = total;
        plan.workers_per_block = max(1, min(n_warps, total / n_blocks));
        plan.n_workers         = min(plan.workers_per_block * n_blocks, total);
    }
    __syncthreads();
}

} // namespace duo::cuda
