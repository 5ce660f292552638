// Writes a ubatch's keys and values to the cells of their positions, in the cache's type: one launch, one warp a row.
#pragma once

#include "cells.cuh"
#include "rows.cuh"

namespace duo::cuda {

constexpr int STORE_WARPS = 4;

// Bytes of rows are given, so that the kernel needs no switch for them.
static __global__ void store_kernel(const __grid_constant__ StoreParams p, int64_t k_row_bytes, int64_t v_row_bytes) {
    const Layout & layout = p.layout;
    const int64_t item  = int64_t(blockIdx.x) * STORE_WARPS + threadIdx.x / 32;
    const int64_t n     = int64_t(layout.n_tokens) * layout.n_head_kv;
    if (item >= 2 * n) {
        return;
    }
    const bool    keys  = item < n;
    const int64_t row   = keys ? item : item - n; // of the input: token * n_head_kv + head
    const int32_t token = int32_t(row / layout.n_head_kv), head = int32_t(row % layout.n_head_kv);

    const int32_t position = layout.tokens[2 * token];
    const int64_t stream   = layout.tokens[2 * token + 1];
    const Head    what     = head_at(layout, head);
    const int64_t to       = stream * layout.n_rows + what.first_row + duo_ring_cell(position, layout.sink, what.ring);

    ptx::wait_for_previous_kernel(); // tokens and heads are older
    ptx::let_next_kernel_start();

    const int size = keys ? p.head_size_k : p.head_size_v, lane = threadIdx.x % 32;
    const CacheType type = keys ? p.type_k : p.type_v;
    const float * from   = (keys ? p.k : p.v) + row * size;
    uint8_t * const out  = static_cast<uint8_t *>(keys ? p.k_cache : p.v_cache) + to * (keys ? k_row_bytes : v_row_bytes);
    for (int block = 0; block < size / 32; ++block) {
        store_block(type, out, block, from[32 * block + lane]);
    }
    if (const int i = size / 32 * 32 + lane; i < size) { // a head size that is no multiple of 32 has no quantised type
        if (type == CacheType::f32) {
            reinterpret_cast<float *>(out)[i] = from[i];
        } else if (type == CacheType::f16) {
            reinterpret_cast<__half *>(out)[i] = __float2half_rn(from[i]);
        } else {
            reinterpret_cast<__nv_bfloat16 *>(out)[i] = __float2bfloat16_rn(from[i]);
        }
    }
}

} // namespace duo::cuda
