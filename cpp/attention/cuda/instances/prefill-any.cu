#include "../prefill-launch.cuh"

namespace duo::cuda {

template cudaError_t launch_prefill<ANY_QUANTISED, ANY_QUANTISED>(const AttentionParams & params, const Device & device, cudaStream_t stream);

} // namespace duo::cuda
