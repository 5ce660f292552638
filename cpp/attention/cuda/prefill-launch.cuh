// Chooses and launches the prefill kernel of one pair of cache types; each file of instances/ instantiates it once.
#pragma once

#include "device.h"
#include "prefill-specialised.cuh"

#include <algorithm>

namespace duo::cuda {

// Launches a kernel of Config; cudaErrorNotSupported where a block has too little shared memory. n_places: blocks that the card holds at once.
template <typename Config>
static cudaError_t launch_prefill_kernel(void (*kernel)(AttentionParams, PrefillShape), int n_threads, int n_places,
                                         const AttentionParams & params, const Device & device, cudaStream_t stream) {
    PrefillShape shape;
    shape.ratio = params.n_head / params.layout.n_head_kv;
    if (size_t(Config::SHARED) > device.shared_bytes || shape.ratio > Config::ROWS) {
        return cudaErrorNotSupported;
    }
    if (cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Config::SHARED); error != cudaSuccess) {
        return error;
    }
    shape.k_row          = int(row_bytes(params.type_k, Config::D));
    shape.v_row          = int(row_bytes(params.type_v, Config::D));
    shape.block_tokens   = Config::ROWS / shape.ratio;
    shape.n_token_blocks = (params.layout.n_tokens + shape.block_tokens - 1) / shape.block_tokens;
    const int n_items    = shape.n_token_blocks * params.layout.n_head_kv;
    // Twice as many as there is place for, since half of the heads may stream and be done at once.
    shape.n_splits       = std::max(1, 2 * n_places / n_items);
    kernel<<<n_items * shape.n_splits, n_threads, Config::SHARED, stream>>>(params, shape);
    if (shape.n_splits > 1) {
        constexpr int WARPS = 4;
        prefill_merge_kernel<Config><<<dim3(n_items, Config::ROWS / WARPS), WARPS * 32, 0, stream>>>(params, shape);
    }
    return cudaGetLastError();
}

template <typename Config>
static cudaError_t launch_prefill_tiled(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    return launch_prefill_kernel<Config>(prefill_kernel<Config>, Config::WARPS * 32, device.n_multiprocessors * Config::BLOCKS, params, device, stream);
}

// cudaErrorNotSupported where the card has no warpgroup products, or a block has too little shared memory.
template <typename Config>
static cudaError_t launch_prefill_specialised(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    if (!device.has_wgmma) {
        return cudaErrorNotSupported;
    }
    return launch_prefill_kernel<Config>(specialised_prefill_kernel<Config>, Config::THREADS, device.n_multiprocessors, params, device, stream);
}

template <CacheType K, CacheType V>
cudaError_t launch_prefill(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    return for_head_size<TypePair<K, V>>(params.head_size_k, [&](auto d) {
        constexpr int D = decltype(d)::value, KEYS = D <= 128 ? 64 : 32;
        // Tiles of half the keys for cards whose blocks have less shared memory: 99 KB at least, since sm_80.
        constexpr int LEAST = D >= 128 ? KEYS / 2 : KEYS;
        static_assert(PrefillConfig<K, V, D, LEAST>::SHARED <= 99 << 10);
        if constexpr (SpecialisedHeadSizes::contain(D)) {
            if (const cudaError_t error = launch_prefill_specialised<SpecialisedConfig<K, V, D>>(params, device, stream); error != cudaErrorNotSupported) {
                return error;
            }
        }
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
