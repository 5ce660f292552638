#include "../prefill-launch.cuh"

namespace duo::cuda {

cudaError_t launch_prefill_f16(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    return launch_prefill<CacheType::f16>(params, device, stream);
}

} // namespace duo::cuda
