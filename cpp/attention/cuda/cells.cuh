// Which cells a group of queries reads: at most three runs of consecutive cells, each with a constant distance to its positions.
//
//   retrieval head   [0 .................................. last]
//   streaming head   [0 .. sink)   [window, from its first cell to the end of the ring)   [start of the ring .. last]
//   windowed head    [0 .. sink)   [window .. last]
#pragma once

#include "../visibility.h"
#include "params.h"

namespace duo::cuda {

constexpr int MAX_RUNS   = 3;
constexpr int CELL_ALIGN = 8; // 8 rows of any supported type and head size are a multiple of 16 bytes, as asynchronous copies need

static __device__ __forceinline__ HeadKind head_kind(const Layout & layout, int head) {
    return HeadKind(layout.heads[2 * head + 1]);
}

// duo_window_begin in 32 bits: positions fit, and a 64-bit division takes a hundred instructions.
static __device__ __forceinline__ int32_t window_begin(const Layout & layout, int32_t p) {
    return (layout.chunk == 1 ? p : p / layout.chunk * layout.chunk) - layout.recent;
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
    int32_t from; // first position of the recent window, or -1 for a retrieval head
    int32_t cell; // of that position, or -1 where positions are cells

    Cells() = default;
    __device__ Cells(const Layout & layout, HeadKind kind, int32_t first, int32_t last_) : last(last_), from(-1), cell(-1) {
        if (kind != HeadKind::retrieval) {
            from = max(layout.sink, window_begin(layout, first));
        }
        if (kind == HeadKind::streaming) {
            cell = layout.sink + (from - layout.sink) % layout.ring;
        }
    }

    __device__ Run run(const Layout & layout, int i) const {
        const int32_t end = last + 1, sink = layout.sink;
        if (from < 0) {
            return { 0, i == 0 ? end : 0, 0 };
        }
        const int32_t n = max(0, end - from), begin = cell < 0 ? from : cell, ring_end = cell < 0 ? INT32_MAX : sink + layout.ring;
        return i == 0 ? Run { 0, min(sink, end), 0 }
             : i == 1 ? Run { begin, min(begin + n, ring_end), from - begin }
                      : Run { sink, sink + max(0, begin + n - ring_end), ring_end - begin + (from - sink) };
    }
};

} // namespace duo::cuda
