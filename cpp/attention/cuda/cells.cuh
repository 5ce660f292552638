// Which cells a group of queries reads: at most three runs of consecutive cells, each with a constant distance to its positions.
//
//   retrieval head   [0 .................................. last]
//   streaming head   [0 .. sink)   [window, from its first cell to the end of the ring)   [start of the ring .. last]
#pragma once

#include "../visibility.h"
#include "params.h"

namespace duo::cuda {

constexpr int MAX_RUNS   = 3;
constexpr int CELL_ALIGN = 8; // 8 rows of any supported type and head size are a multiple of 16 bytes, as asynchronous copies need

struct Run {
    int32_t begin;  // cells [begin, end)
    int32_t end;
    int32_t offset; // position = cell + offset

    // Tiles of n cells, the first of which starts at an aligned cell.
    __device__ int32_t first_cell() const { return begin / CELL_ALIGN * CELL_ALIGN; }
    __device__ int32_t n_tiles(int32_t n) const { return end > begin ? (end - first_cell() + n - 1) / n : 0; }
};

// Run i of the queries at positions first .. last of one stream.
static __device__ __forceinline__ Run cell_run(const Layout & layout, bool streams, int32_t first, int32_t last, int i) {
    if (!streams) {
        return i == 0 ? Run { 0, last + 1, 0 } : Run { 0, 0, 0 };
    }
    const int32_t sink = layout.sink;
    if (i == 0) {
        return { 0, min(sink, last + 1), 0 };
    }
    const int32_t from     = int32_t(max(int64_t(sink), duo_window_begin(first, layout.recent, layout.chunk)));
    const int32_t n        = max(0, last + 1 - from);
    const int32_t ring_end = sink + layout.ring;
    const int32_t cell     = sink + (from - sink) % layout.ring;
    if (i == 1) {
        return { cell, min(cell + n, ring_end), from - cell };
    }
    const int32_t n_wrapped = max(0, cell + n - ring_end);
    return { sink, sink + n_wrapped, from + (ring_end - cell) - sink };
}

// Whether a query at position p sees position j; j is not above the last position written.
static __device__ __forceinline__ bool sees(const Layout & layout, bool streams, int32_t p, int32_t j) {
    return j <= p && (!streams || j < layout.sink || j >= duo_window_begin(p, layout.recent, layout.chunk));
}

} // namespace duo::cuda
