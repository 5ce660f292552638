// From gates to a choice: which KV heads stream.
#pragma once

#include "gate-pattern.h"

#include <cstdint>
#include <vector>

namespace duo {

// Which KV heads of a model stream. Order is the model's own.
struct head_selection {
    int32_t              n_layer = 0;
    std::vector<int32_t> n_head_kv;  // [n_layer], KV heads of each layer (they may differ)
    std::vector<std::vector<uint8_t>> streaming; // [n_layer][n_head_kv[il]], 1: streams

    uint32_t n_streaming() const;
    uint32_t n_retrieval() const;
};

// Throws gate_error where a pattern is not what its struct says, gate_shape_error, which names both shapes, where it is not of a model with these KV heads a layer.
void check_gate_shape(const gate_pattern & pattern, const std::vector<int32_t> & n_head_kv);

struct ranked_head {
    int32_t il;
    int32_t ih;
};

// From the lowest gate to the highest. Equal gates are taken in the order of (layer, head), so a pattern always gives the same order. Throws gate_error where
// the pattern's shape is not the model's, naming both.
std::vector<ranked_head> heads_by_gate(const gate_pattern & pattern, const std::vector<int32_t> & n_head_kv);

// Streams the ceil((n - 1) * sparsity) lowest gates of all n heads together: what DuoAttention's np.quantile rule gives where gates differ
// (duo_attn/utils.py, sparsify_attention_heads). All heads at sparsity >= 1, none at <= 0. Throws as above.
head_selection select_by_sparsity(const gate_pattern & pattern, const std::vector<int32_t> & n_head_kv, double sparsity);

// Keeps gate >= threshold.
head_selection select_by_threshold(const gate_pattern & pattern, const std::vector<int32_t> & n_head_kv, double threshold);

// Needs no gates: every head alike.
head_selection select_all(const std::vector<int32_t> & n_head_kv, bool streaming);

} // namespace duo
