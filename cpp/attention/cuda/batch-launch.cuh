// Launches the batch kernel of one pair of cache types; each file of instances/ instantiates it once.
#pragma once

#include "batch.cuh"
#include "launch-shares.cuh"

namespace duo::cuda {

template <CacheType K, CacheType V>
cudaError_t launch_batch(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    return BatchHeadSizes::dispatch(params.head_size_k, [&](auto d) {
        using Config = BatchConfig<K, V, decltype(d)::value, MAX_BATCH_COLUMNS>;
        return launch_shares<Config>(batch_kernel<Config>, params, device, stream);
    });
}

} // namespace duo::cuda
