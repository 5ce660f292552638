// Which cells a group of queries reads: at most three runs of consecutive cells, each with a constant distance to its positions.
//
//   sees every key   [0 .................................. last]
//   sees a window    [0 .. sink)   [window, from its first cell to the end of the ring)   [start of the ring .. last]
//
// A ring as long as the context never comes round, so a head can see a window and keep every position.
#pragma once

#include "../visibility.h"
#include "params.h"

namespace duo::cuda {

constexpr int MAX_RUNS   = 3;
constexpr int CELL_ALIGN = 8; // 8 rows of any supported type and head size are a multiple of 16 bytes, as asynchronous copies need

// In one load.
static __device__ __forceinline__ Head head_at(const Layout & layout, int head) {
    const int4 x = *reinterpret_cast<const int4 *>(layout.heads + head);
    return { x.x, x.y, x.z, x.w };
}

// duo_window_begin in 32 bits: positions fit, and a 64-bit division takes a hundred instructions.
static __device__ __forceinline__ int32_t window_begin(const Layout & layout, int32_t recent, int32_t p) {
    return (layout.chunk == 1 ? p : p / layout.chunk * layout.chunk) - recent;
}

struct Run {
    int32_t begin;  // cells [begin, end)
    int32_t end;
    int32_t offset; // position = cell + offset

    // Tiles of n cells, the first of which starts at an aligned cell.
    __device__ int32_t first_cell() const { return begin & ~(CELL_ALIGN - 1); }
    __device__ int32_t n_tiles(int32_t n) const { return end > begin ? int32_t(uint32_t(end - first_cell() + n - 1) / uint32_t(n)) : 0; }
};

// The cells of queries at positions first .. last of one stream; holds what takes divisions to find.
struct Cells {
    int32_t last;
    int32_t from; // first position of the recent window, or -1 where every key is seen
    int32_t cell; // of that position

    Cells() = default;
    __device__ Cells(const Layout & layout, const Head & head, int32_t first, int32_t last_) : last(last_), from(-1), cell(0) {
        if (head.recent < SEES_ALL) {
            from = max(layout.sink, window_begin(layout, head.recent, first));
            cell = layout.sink + (from - layout.sink) % head.ring;
        }
    }

    // ring: the head's
    __device__ Run run(const Layout & layout, int32_t ring, int i) const {
        const int32_t end = last + 1, sink = layout.sink, ring_end = sink + ring;
        if (from < 0) {
            return { 0, i == 0 ? end : 0, 0 };
        }
        const int32_t n = max(0, end - from);
        return i == 0 ? Run { 0, min(sink, end), 0 }
             : i == 1 ? Run { cell, min(cell + n, ring_end), from - cell }
                      : Run { sink, sink + max(0, cell + n - ring_end), ring_end - cell + (from - sink) };
    }

    // Tiles of n cells of all runs, one run after another.
    __device__ int32_t n_tiles(const Layout & layout, int32_t ring, int32_t n) const {
        int32_t sum = 0;
#pragma unroll
        for (int i = 0; i < MAX_RUNS; ++i) {
            sum += run(layout, ring, i).n_tiles(n);
        }
        return sum;
    }

    // The run of one of them, and its first cell.
    __device__ void find_tile(const Layout & layout, int32_t ring, int32_t n, int index, Run & found, int & first_cell) const {
#pragma unroll 1
        for (int i = 0; i < MAX_RUNS; ++i) {
            found = run(layout, ring, i);
            const int n_tiles = found.n_tiles(n);
            if (index < n_tiles) {
                first_cell = found.first_cell() + index * n;
                return;
            }
            index -= n_tiles;
        }
    }
};

} // namespace duo::cuda
