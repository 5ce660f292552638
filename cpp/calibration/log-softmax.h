// The probability that logits give a token.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace duo {

// The natural logarithm of softmax(logits)[token]. Exponentials are floats, whose 1e-7 is far below what rounding does to logits; their sum is not.
inline double log_softmax(const float * logits, size_t n, int32_t token) {
    const float max = *std::max_element(logits, logits + n);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += std::exp(logits[i] - max);
    }
    return double(logits[token]) - double(max) - std::log(sum);
}

} // namespace duo
