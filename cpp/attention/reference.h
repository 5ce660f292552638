// The truth that kernels are tested against: softmax attention of one query in float64, over an explicit list of keys and an explicit mask; and rotation by
// the matrix itself.
#pragma once

#include <cmath>
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

// x [n] with each run of `size` values multiplied by Sylvester's Hadamard matrix, entry (i, j) being (-1)^popcount(i & j) / sqrt(size); size 0: x.
template <typename T>
std::vector<double> reference_rotation(const T * x, int64_t n, int64_t size) {
    std::vector<double> out(x, x + n);
    for (int64_t i = 0; i < n && size > 0; ++i) {
        double sum = 0.0;
        for (int64_t j = 0; j < size; ++j) {
            int sign = 1;
            for (int64_t bits = i % size & j; bits != 0; bits &= bits - 1) {
                sign = -sign;
            }
            sum += sign * double(x[i / size * size + j]);
        }
        out[i] = sum / std::sqrt(double(size));
    }
    return out;
}

} // namespace duo
