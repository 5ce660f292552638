// Chooses and launches the prefill kernel of one pair of cache types; each file of instances/ instantiates it once.
#pragma once

#include "device.h"
#include "prefill.cuh"

#include <algorithm>

namespace duo::cuda {

// cudaErrorNotSupported where a block has too little shared memory.
template <typename Config>
static cudaError_t launch_prefill_tiled(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    PrefillShape shape;
    shape.ratio = params.n_head / params.layout.n_head_kv;
    if (size_t(Config::SHARED) > device.shared_bytes || shape.ratio > Config::ROWS) {
        return cudaErrorNotSupported;
    }
    if (cudaError_t error = cudaFuncSetAttribute(prefill_kernel<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize, Config::SHARED); error != cudaSuccess) {
        return error;
    }
    shape.k_row          = int(row_bytes(params.type_k, Config::D));
    shape.v_row          = int(row_bytes(params.type_v, Config::D));
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

template <CacheType K, CacheType V>
cudaError_t launch_prefill(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    return for_head_size<TypePair<K, V>>(params.head_size_k, [&](auto d) {
        constexpr int D = decltype(d)::value, KEYS = D <= 128 ? 64 : 32;
        // Tiles of half the keys for cards whose blocks have less shared memory: 99 KB at least, since sm_80.
        constexpr int LEAST = D >= 128 ? KEYS / 2 : KEYS;
        static_assert(PrefillConfig<K, V, D, LEAST>::SHARED <= 99 << 10);
        const cudaError_t error = launch_prefill_tiled<PrefillConfig<K, V, D, KEYS>>(params, device, stream);
        if constexpr (LEAST < KEYS) {
            if (error == cudaErrorNotSupported) {
                return launch_prefill_tiled<PrefillConfig<K, V, D, LEAST>>(params, device, stream);
            }
        }
        return error;
    });
}

} // namespace duo::cuda
