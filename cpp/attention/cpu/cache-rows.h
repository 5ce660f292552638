// Rows of the cache to and from f32, for every cache type.
#pragma once

#include <cstdint>

struct ggml_tensor;

namespace duo {

// Converts n rows from the first on; dst has room for n rows of ld floats, of which the row's own are written.
void load_rows(const ggml_tensor * cache, int64_t row, int64_t n, float * dst, int64_t ld);

void store_row(const ggml_tensor * cache, int64_t row, const float * src);

} // namespace duo
