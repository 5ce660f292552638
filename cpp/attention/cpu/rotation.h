// The rotation of rows (mixed-attention.h), as a fast Walsh-Hadamard transform.
#pragma once

#include "simd.h"

#include <cmath>
#include <cstdint>

namespace duo {

// Rotates n values, a multiple of `size`, by the matrix of that side; `to` may be `from`. Sums are rounded as ggml's product with the matrix rounds them
// (GGML_HINT_SRC0_IS_HADAMARD), so that rows and results have the bits that explicit products give.
inline void rotate(const float * from, float * to, int64_t n, int64_t size) {
    const simd scale = simd_set(1.0f / std::sqrt(float(size)));
    for (int64_t i = 0; i < n; i += simd_width) {
        simd_store(to + i, simd_hadamard(simd_load(from + i) * scale));
    }
    for (int64_t apart = simd_width; apart < size; apart *= 2) {
        for (int64_t begin = 0; begin < n; begin += 2 * apart) {
            for (int64_t i = begin; i < begin + apart; i += simd_width) {
                const simd a = simd_load(to + i), b = simd_load(to + i + apart);
                simd_store(to + i,         a + b);
                simd_store(to + i + apart, a - b);
            }
        }
    }
}

} // namespace duo
