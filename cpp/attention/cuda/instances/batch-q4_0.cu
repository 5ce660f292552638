#include "../batch-launch.cuh"

namespace duo::cuda {

template cudaError_t launch_batch<CacheType::q4_0, CacheType::q4_0>(const AttentionParams & params, const Device & device, cudaStream_t stream);

} // namespace duo::cuda
