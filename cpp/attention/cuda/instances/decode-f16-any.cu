#include "../decode-launch.cuh"

namespace duo::cuda {

template cudaError_t launch_decode<CacheType::f16, ANY_QUANTISED>(const AttentionParams & params, const Device & device, cudaStream_t stream);

} // namespace duo::cuda
