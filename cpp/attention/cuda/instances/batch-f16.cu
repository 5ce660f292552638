#include "../batch-launch.cuh"

namespace duo::cuda {

template cudaError_t launch_batch<CacheType::f16, CacheType::f16>(const AttentionParams & params, const Device & device, cudaStream_t stream);

} // namespace duo::cuda
