// Which keys a query sees and where they are kept: the one place that says so. Pure arithmetic on positions, so there is no mask and no cell search.
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)
#    define DUO_HOST_DEVICE __host__ __device__
#else
#    define DUO_HOST_DEVICE
#endif

// First position of the recent window of a query at position p; may be negative. Together with the sinks, keys j < sink, and causality, j <= p.
static inline DUO_HOST_DEVICE int64_t duo_window_begin(int64_t p, int32_t recent, int32_t chunk) {
    return p / chunk * chunk - recent;
}

// Cell of position j on a streaming head: sinks stay, the rest goes round the ring.
static inline DUO_HOST_DEVICE int64_t duo_ring_cell(int64_t j, int32_t sink, int32_t ring) {
    return j < sink ? j : sink + (j - sink) % ring;
}
