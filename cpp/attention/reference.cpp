#include "reference.h"

#include <algorithm>
#include <cmath>

namespace duo {

std::vector<double> reference_attention(
        const float * q, int64_t head_size_k,
        const std::vector<std::vector<float>> & keys,
        const std::vector<std::vector<float>> & values,
        const std::vector<uint8_t> & visible,
        double scale, double softcap, double sink) {
    std::vector<double> score(keys.size(), 0.0);
    double max = sink;
    for (size_t j = 0; j < keys.size(); ++j) {
        if (!visible[j]) {
            continue;
        }
        double dot = 0.0;
        for (int64_t d = 0; d < head_size_k; ++d) {
            dot += double(q[d]) * double(keys[j][d]);
        }
        score[j] = dot * scale;
        if (softcap != 0.0) {
            score[j] = softcap * std::tanh(score[j] / softcap);
        }
        max = std::max(max, score[j]);
    }

    std::vector<double> out(values.empty() ? 0 : values[0].size(), 0.0);
    double sum = std::isinf(sink) ? 0.0 : std::exp(sink - max);
    for (size_t j = 0; j < keys.size(); ++j) {
        if (!visible[j]) {
            continue;
        }
        const double p = std::exp(score[j] - max);
        sum += p;
        for (size_t d = 0; d < out.size(); ++d) {
            out[d] += p * double(values[j][d]);
        }
    }
    for (double & x : out) {
        x /= sum;
    }
    return out;
}

} // namespace duo
