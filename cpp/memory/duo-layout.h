// What every KV head of a cache sees and which rows of its layer's tensors it has: sizes only, no tensors.
//
// Rows of one layer's K (or V), for each sequence the same:
//
//   | retrieval head a: n_ctx_seq cells | retrieval head b: ... | streaming head c: sinks, ring | streaming head d: ... |
#pragma once

#include "duo-stream.h"

#include <cstdint>
#include <vector>

struct duo_config;

struct duo_layout {
    struct head {
        int32_t  first_row; // within a sequence's stream
        uint32_t n_cells;
        int32_t  i_ring;    // of rings; -1: keeps every position
    };

    struct layer {
        std::vector<head> heads;  // [n_head_kv], in the model's order; none: the layer stores nothing
        int64_t           n_rows = 0; // of one sequence's stream
        uint32_t          stored_by = 0; // the layer whose rows it attends to: itself, or an earlier one
    };

    std::vector<layer> layers; // [n_layer]
    duo_stream::rings  rings;  // all that differ

    duo_layout(const duo_config & config, uint32_t n_ctx_seq);
};
