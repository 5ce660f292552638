// The truth that kernels are tested against: softmax attention of one query in float64, over an explicit list of keys and an explicit mask.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace duo {

// q [head_size_k], keys [n][head_size_k], values [n][head_size_v], visible [n] (0 or 1; at least one is 1). softcap 0: none.
// sink: the score of one more key without a value, as learned sinks are; -infinity: none.
// Returns [head_size_v]. Rows that are not visible are not read, so they may hold anything.
std::vector<double> reference_attention(
        const float * q, int64_t head_size_k,
        const std::vector<std::vector<float>> & keys,
        const std::vector<std::vector<float>> & values,
        const std::vector<uint8_t> & visible,
        double scale, double softcap, double sink = -std::numeric_limits<double>::infinity());

} // namespace duo
