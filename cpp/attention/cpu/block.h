// A block of keys: what the kernels for few and for many queries share.
#pragma once

#include "simd.h"

#include <cstdint>
#include <type_traits>

namespace duo {

constexpr int block_size = 64; // keys

// Calls f(first row, constant number of rows) for n rows taken MAX at a time, the rest in one group.
template <int MAX, typename F>
void for_row_groups(int64_t n, F && f) {
    int64_t r = 0;
    for (; r + MAX <= n; r += MAX) {
        f(r, std::integral_constant<int, MAX>());
    }
    if constexpr (MAX > 1) {
        if (r < n) {
            for_row_groups<MAX - 1>(n - r, [&](int64_t i, auto rows) { f(r + i, rows); });
        }
    }
}

} // namespace duo
