#include "../decode-launch.cuh"

namespace duo::cuda {

template cudaError_t launch_decode<ANY_QUANTISED, CacheType::f16>(const AttentionParams & params, const Device & device, cudaStream_t stream);

} // namespace duo::cuda
