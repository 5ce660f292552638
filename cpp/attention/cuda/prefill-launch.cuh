// Chooses and launches the prefill kernel of one cache type; each instances/prefill-*.cu instantiates it once.
#pragma once

#include "device.h"
#include "prefill.cuh"

#include <algorithm>

namespace duo::cuda {

template <CacheType TYPE, int D, int KEYS>
static cudaError_t launch_prefill_tiled(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    using Config = PrefillConfig<TYPE, D, KEYS>;
    PrefillShape shape;
    shape.ratio = params.n_head / params.layout.n_head_kv;
    if (size_t(Config::SHARED) > device.shared_bytes || shape.ratio > Config::ROWS) {
        return cudaErrorNotSupported;
    }
    if (cudaError_t error = cudaFuncSetAttribute(prefill_kernel<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize, Config::SHARED); error != cudaSuccess) {
        return error;
    }
    shape.block_tokens   = Config::ROWS / shape.ratio;
    shape.n_token_blocks = (params.layout.n_tokens + shape.block_tokens - 1) / shape.block_tokens;
    const int n_items    = shape.n_token_blocks * params.layout.n_head_kv, n_places = device.n_multiprocessors * Config::BLOCKS;
    // Twice as many as there is place for, since half of the heads may stream and be done at once.
    shape.n_splits       = std::max(1, 2 * n_places / n_items);
    prefill_kernel<Config><<<n_items * shape.n_splits, Config::WARPS * 32, Config::SHARED, stream>>>(params, shape);
    if (shape.n_splits > 1) {
        constexpr int WARPS = 4;
        prefill_merge_kernel<Config><<<dim3(n_items, Config::ROWS / WARPS), WARPS * 32, 0, stream>>>(params, shape);
    }
    return cudaGetLastError();
}

template <CacheType TYPE, int D>
static cudaError_t launch_prefill_sized(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    // Tiles of half the keys for cards whose blocks have 99 KB of shared memory.
    constexpr int KEYS = D <= 128 ? 64 : 32;
    const cudaError_t error = launch_prefill_tiled<TYPE, D, KEYS>(params, device, stream);
    if constexpr (D >= 128) {
        if (error == cudaErrorNotSupported) {
            return launch_prefill_tiled<TYPE, D, KEYS / 2>(params, device, stream);
        }
    }
    return error;
}

template <CacheType TYPE>
static cudaError_t launch_prefill(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    return for_head_size<TYPE>(params.head_size_k, [&](auto d) { return launch_prefill_sized<TYPE, decltype(d)::value>(params, device, stream); });
}

} // namespace duo::cuda
