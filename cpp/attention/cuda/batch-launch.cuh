// Launches the batch kernel of one pair of cache types; each file of instances/ instantiates it once.
#pragma once

#include "batch.cuh"
#include "launch-shares.cuh"

namespace duo::cuda {

// With the fewest columns that do, down from MOST.
template <CacheType K, CacheType V, int D, int MOST>
static cudaError_t launch_batch_sized(int columns, const AttentionParams & params, const Device & device, cudaStream_t stream) {
    if constexpr (MOST / 2 > MIN_BATCH_COLUMNS) {
        if (columns <= MOST / 2) {
            return launch_batch_sized<K, V, D, MOST / 2>(columns, params, device, stream);
        }
    }
    using Config = BatchConfig<K, V, D, MOST>;
    return launch_shares<Config>(batch_kernel<Config>, params, device, stream);
}

template <CacheType K, CacheType V>
cudaError_t launch_batch(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    return BatchHeadSizes::dispatch(params.head_size_k, [&](auto d) {
        const int columns = params.max_seq_tokens * (params.n_head / params.layout.n_head_kv);
        return launch_batch_sized<K, V, decltype(d)::value, MAX_BATCH_COLUMNS>(columns, params, device, stream);
    });
}

} // namespace duo::cuda
