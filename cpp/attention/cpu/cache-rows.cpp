#include "cache-rows.h"

#include "cached-type.h"

#include "ggml-cpu.h"

namespace duo {

void load_rows(const ggml_tensor * cache, int64_t row, int64_t n, float * dst, int64_t ld) {
    const char *  src   = (const char *) cache->data + row * cache->nb[1];
    const int64_t width = cache->ne[0];

    // ggml's own conversion is compiled for any machine; this is compiled for the one at hand
    const bool fast = with_cached_type(cache->type, width, [&](auto type) {
        constexpr int n_vectors = cached<type.value>::values / simd_width;
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t step = 0; step < width / cached<type.value>::values; ++step) {
                for (int v = 0; v < n_vectors; ++v) {
                    simd_store(dst + i * ld + (step * n_vectors + v) * simd_width, cached<type.value>::load(src + i * cache->nb[1], step, v));
                }
            }
        }
    });
    if (fast) {
        return;
    }
    for (int64_t i = 0; i < n; ++i) {
        if (cache->type == GGML_TYPE_F32) {
            memcpy(dst + i * ld, src + i * cache->nb[1], width * sizeof(float));
        } else {
            ggml_get_type_traits(cache->type)->to_float(src + i * cache->nb[1], dst + i * ld, width);
        }
    }
}

void store_row(const ggml_tensor * cache, int64_t row, const float * src) {
    char * dst = (char *) cache->data + row * cache->nb[1];
    if (cache->type == GGML_TYPE_F32) {
        memcpy(dst, src, cache->ne[0] * sizeof(float));
    } else {
        ggml_get_type_traits_cpu(cache->type)->from_float(src, dst, cache->ne[0]);
    }
}

} // namespace duo
