// Chooses and launches the decode kernel of one pair of cache types; each file of instances/ instantiates it once.
#pragma once

#include "decode.cuh"
#include "launch-shares.cuh"

namespace duo::cuda {

template <typename Config>
static cudaError_t launch_decode_sized(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    // No GPU since sm_80 has less than 99 KB for a block: there two teams fit, or one of several warps.
    static_assert(Config::N_TILES > 1 || DECODE_CONTROL_BYTES<Config> + (Config::SLICES > 1 ? 1 : 2) * Config::TEAM_BYTES <= 99 << 10);
    return launch_shares<Config>(decode_kernel<Config>, params, device, stream);
}

template <CacheType K, CacheType V>
cudaError_t launch_decode(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    return for_head_size<TypePair<K, V>>(params.head_size_k, [&](auto d) {
        constexpr int D = decltype(d)::value;
        const int columns = params.max_seq_tokens * (params.n_head / params.layout.n_head_kv);
        // Where the output of two column tiles would not fit in registers, or their queries in shared memory, the cache is read twice instead.
        if constexpr (D <= 128 || DecodeConfig<K, V, D, 1>::SLICES > 1) {
            if (columns > 8) {
                const cudaError_t error = launch_decode_sized<DecodeConfig<K, V, D, 2>>(params, device, stream);
                if (error != cudaErrorNotSupported) {
                    return error;
                }
            }
        }
        return launch_decode_sized<DecodeConfig<K, V, D, 1>>(params, device, stream);
    });
}

} // namespace duo::cuda
