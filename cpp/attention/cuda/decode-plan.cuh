// How a decode launch shares its work.
//
// A segment is what one query group reads of one KV head: its visible cells, cut in tiles. All segments are laid end to end, each preceded by a
// few units that stand for the price of starting one, and the line is cut into equal shares, one for each block of the grid, and each of
// those into equal shares, one for each warp:
//
//   segment 0: ##............................  segment 1 (streaming head): ##...  segment 2: ##..............
//   blocks:    |        block 0        |        block 1        |        block 2        |        block 3     |
//   warps:     |  0  |  1  |  2  |  3  |  0  |  1  |  2  |  3  |  0  |  1  |  2  |  3  | ...
//
// So a retrieval head is spread over many warps and a streaming head stays in one or two, whatever the positions are; the grid never changes,
// and a captured graph stays valid while positions grow. Each block computes the plan anew from the positions: that costs about a microsecond
// and saves a launch.
#pragma once

#include "cells.cuh"
#include "merge.cuh"

namespace duo::cuda {

constexpr int MAX_DECODE_TOKENS   = 32;   // of one launch: a warp finds the groups with one ballot
constexpr int MAX_DECODE_SEGMENTS = 512;  // of one launch
constexpr int MAX_DECODE_HEADS_KV = 128;

// Consecutive tokens of one stream, and some of the query heads of one KV head: the columns of the products.
struct Segment {
    int64_t  first_row;   // row of cell 0
    int32_t  first_token;
    int32_t  n_tokens;
    int32_t  first_head;  // query head
    int32_t  n_heads;
    int32_t  first_position;
    int32_t  recent;
};

// n things for m takers: taker i gets things [begin(i), begin(i + 1)), n / m of them or one more.
struct Shares {
    int32_t each, n_larger; // the first n_larger takers have one more

    __device__ Shares(int32_t n, int32_t m) : each(quotient(n, m)), n_larger(n - each * m) {}
    __device__ int32_t begin(int32_t taker) const { return taker * each + min(taker, n_larger); }
    __device__ int32_t taker(int32_t thing) const {
        const int32_t larger = n_larger * (each + 1);
        return thing < larger ? quotient(thing, each + 1) : n_larger + quotient(thing - larger, each);
    }

    // n / m of which the float comes within one: either n is below 2^24, or the quotient is small. Integer division takes several times as long, and
    // nothing else runs while the shares are computed.
    static __device__ int32_t quotient(int32_t n, int32_t m) {
        int32_t q = int32_t(__fdividef(float(n), float(m)));
        q -= q * m > n;
        q += (q + 1) * m <= n;
        return q;
    }
};

struct DecodePlan {
    struct Id { uint8_t group, chunk; uint16_t head; };
    Head     heads[MAX_DECODE_HEADS_KV];
    Id       id[MAX_DECODE_SEGMENTS];
    Cells    cells[MAX_DECODE_SEGMENTS];
    int32_t  position[MAX_DECODE_TOKENS];
    int32_t  stream[MAX_DECODE_TOKENS];
    int32_t  group_begin[MAX_DECODE_TOKENS + 1]; // first token of each group
    int32_t  begin[MAX_DECODE_SEGMENTS + 1];     // first unit of each segment
    int32_t  n_segments;

    __device__ int32_t n_units() const { return begin[n_segments]; }

    __device__ int32_t segment_at(int32_t unit) const {
        int32_t low = 0, high = n_segments; // begin[low] <= unit < begin[high]
#pragma unroll 1
        while (high - low > 1) {
            const int32_t middle = (low + high) / 2;
            (begin[middle] <= unit ? low : high) = middle;
        }
        return low;
    }
};

// How a launch cuts its queries into segments.
struct DecodeShape {
    int32_t n_head_kv;
    int32_t ratio;         // query heads of a KV head
    int32_t group_tokens;  // at most so many tokens in a group
    int32_t chunk_heads;   // and so many query heads
    int32_t n_chunks;      // of the query heads of one KV head
    int32_t k_row, v_row;  // bytes of a row
    int32_t n_blocks;      // of the launch
};

static __device__ __forceinline__ Segment segment(const DecodePlan & plan, const Layout & layout, const DecodeShape & shape, int32_t index) {
    const DecodePlan::Id id = plan.id[index];
    Segment s;
    s.first_token    = plan.group_begin[id.group];
    s.n_tokens       = plan.group_begin[id.group + 1] - s.first_token;
    s.first_head     = id.head * shape.ratio + id.chunk * shape.chunk_heads;
    s.n_heads        = min(shape.chunk_heads, shape.ratio - id.chunk * shape.chunk_heads);
    s.first_position = plan.position[s.first_token];
    s.first_row      = plan.stream[s.first_token] * layout.n_rows + plan.heads[id.head].first_row;
    s.recent         = plan.heads[id.head].recent;
    return s;
}

// Fills the plan; all threads of the block call it. One warp does the work: a barrier costs more than it could share out.
// TILE: cells of a tile; OVERHEAD: units before each segment.
template <int TILE, int OVERHEAD>
static __device__ void make_plan(DecodePlan & plan, const Layout & layout, const DecodeShape & shape) {
    if (threadIdx.x < 32) {
        const int lane = threadIdx.x, n = layout.n_tokens;
        const int2 token = lane < n ? *reinterpret_cast<const int2 *>(layout.tokens + 2 * lane) : make_int2(0, -1);
#pragma unroll 1
        for (int head = lane; head < layout.n_head_kv; head += 32) {
            plan.heads[head] = head_at(layout, head);
        }

        // Groups of tokens.
        const int32_t stream   = token.y;
        const int32_t previous = __shfl_up_sync(~0u, stream, 1);
        const uint32_t changes = __ballot_sync(~0u, lane == 0 || stream != previous);
        const int32_t run      = 31 - __clz(changes & (~0u >> (31 - lane))); // first token of this token's stream
        const bool starts      = lane < n && (shape.group_tokens == 1 || (lane - run) % shape.group_tokens == 0);
        const uint32_t groups  = __ballot_sync(~0u, starts);
        plan.position[lane] = token.x;
        plan.stream[lane]   = stream;
        if (starts) {
            plan.group_begin[__popc(groups & ((1u << lane) - 1))] = lane;
        }
        const int32_t n_groups = __popc(groups), n_segments = n_groups * shape.n_head_kv * shape.n_chunks;
        if (lane == 0) {
            plan.group_begin[n_groups] = n;
            plan.n_segments = n_segments;
        }
        __syncwarp();

        // Units of each segment, and their running sum.
        int32_t sum = 0;
#pragma unroll 1
        for (int first = 0; first < n_segments; first += 32) {
            const int i = first + lane;
            int32_t units = 0;
            if (i < n_segments) {
                const int column = shape.n_chunks == 1 ? i : i / shape.n_chunks, group = n_groups == 1 ? 0 : column / shape.n_head_kv;
                plan.id[i] = { uint8_t(group), uint8_t(i - column * shape.n_chunks), uint16_t(column - group * shape.n_head_kv) };
                const Segment s = segment(plan, layout, shape, i);
                const Head & head = plan.heads[plan.id[i].head];
                const Cells cells(layout, head, s.first_position, plan.position[s.first_token + s.n_tokens - 1]);
                plan.cells[i] = cells;
                units = OVERHEAD;
#pragma unroll
                for (int r = 0; r < MAX_RUNS; ++r) {
                    units += cells.run(layout, head.ring, r).n_tiles(TILE);
                }
            }
            int32_t before = units;
#pragma unroll
            for (int k = 1; k < 32; k *= 2) {
                const int32_t other = __shfl_up_sync(~0u, before, k);
                before += lane >= k ? other : 0;
            }
            if (i < n_segments) {
                plan.begin[i] = sum + before - units;
            }
            sum += __shfl_sync(~0u, before, 31);
        }
        if (lane == 0) {
            plan.begin[n_segments] = sum;
        }
    }
    __syncthreads();
}

} // namespace duo::cuda
