#include "../batch-launch.cuh"

namespace duo::cuda {

template cudaError_t launch_batch<CacheType::q8_0, CacheType::q8_0>(const AttentionParams & params, const Device & device, cudaStream_t stream);

} // namespace duo::cuda
