// Writes a ubatch's keys and values to the cells of their positions, in the cache's type, and rotates them and the queries before, in one launch.
#pragma once

#include "cells.cuh"
#include "rotation.cuh"
#include "rows.cuh"

#include <algorithm>
#include <type_traits>

namespace duo::cuda {

constexpr int STORE_WARPS = 4;

// Rows of the call: keys, then values, then the queries that are to be rotated.
static inline int64_t n_store_rows(const StoreParams & p) {
    return int64_t(p.layout.n_tokens) * ((p.k ? 2 * p.layout.n_head_kv : 0) + (p.rotation_k ? p.n_head : 0));
}

// Warps of a row. All of them load and rotate it, and each writes every n_parts-th block of 32 values: a warp's blocks come one after another, which where rows
// are few is the time that all take.
static inline int n_store_parts(const StoreParams & p) {
    return n_store_rows(p) <= 1024 ? std::max(1, std::max(p.head_size_k, p.head_size_v) / 32) : 1;
}

// Bytes of rows are given, so that the kernel needs no switch for them.
static __global__ void store_kernel(const __grid_constant__ StoreParams p, int64_t n_rows, int n_parts, int64_t k_row_bytes, int64_t v_row_bytes) {
    __shared__ float values[STORE_WARPS][MAX_HEAD_SIZE]; // each lane's own
    const Layout & layout = p.layout;
    const int64_t warp = int64_t(blockIdx.x) * STORE_WARPS + threadIdx.x / 32, item = warp / n_parts;
    const int     part = int(warp - item * n_parts);
    const int64_t n    = p.k ? int64_t(layout.n_tokens) * layout.n_head_kv : 0;
    if (item >= n_rows) {
        return;
    }
    const bool    keys = item < n, queries = item >= 2 * n;
    const int64_t row  = queries ? item - 2 * n : keys ? item : item - n; // of the input: token * heads + head

    const int     size     = keys || queries ? p.head_size_k : p.head_size_v, lane = threadIdx.x % 32;
    const int     rotation = keys || queries ? p.rotation_k : p.rotation_v;
    CacheType     type     = CacheType::f32;
    const float * from     = p.q + row * size;
    uint8_t     * out      = reinterpret_cast<uint8_t *>(p.q_rotated + row * size);
    if (!queries) {
        const int32_t token    = int32_t(row / layout.n_head_kv), head = int32_t(row % layout.n_head_kv);
        const int32_t position = layout.tokens[2 * token];
        const int64_t stream   = layout.tokens[2 * token + 1];
        const Head    what     = head_at(layout, head);
        const int64_t to       = stream * layout.n_rows + what.first_row + duo_ring_cell(position, layout.sink, what.ring);
        type = keys ? p.type_k : p.type_v;
        from = (keys ? p.k : p.v) + row * size;
        out  = static_cast<uint8_t *>(keys ? p.k_cache : p.v_cache) + to * (keys ? k_row_bytes : v_row_bytes);
    }

    ptx::wait_for_previous_kernel(); // tokens and heads are older
    ptx::let_next_kernel_start();

    float * const mine = values[threadIdx.x / 32];
    const auto load = [&](auto n_blocks) { // of 32 values, their loads under way together
        constexpr int N = decltype(n_blocks)::value;
        for (int first = lane; first < size + lane; first += 32 * N) {
            float x[N];
#pragma unroll
            for (int i = 0; i < N; ++i) {
                x[i] = first + 32 * i < size ? from[first + 32 * i] : 0.0f;
            }
            if (rotation != 0) {
                rotate<1, 32>(x, rotation);
            }
#pragma unroll
            for (int i = 0; i < N; ++i) {
                if (first + 32 * i < size) {
                    mine[first + 32 * i] = x[i];
                }
            }
        }
    };
    if (rotation <= 128) {
        load(std::integral_constant<int, 4>());
    } else {
        load(std::integral_constant<int, MAX_HEAD_SIZE / 32>());
    }
    for (int block = part; block < size / 32; block += n_parts) {
        store_block(type, out, block, mine[32 * block + lane]);
    }
    if (const int i = size / 32 * 32 + lane; i < size && part == 0) { // a head size that is no multiple of 32 has no quantised type
        if (type == CacheType::f32) {
            reinterpret_cast<float *>(out)[i] = mine[i];
        } else if (type == CacheType::f16) {
            reinterpret_cast<__half *>(out)[i] = __float2half_rn(mine[i]);
        } else {
            reinterpret_cast<__nv_bfloat16 *>(out)[i] = __float2bfloat16_rn(mine[i]);
        }
    }
}

} // namespace duo::cuda
