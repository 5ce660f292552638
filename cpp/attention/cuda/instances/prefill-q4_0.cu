#include "../prefill-launch.cuh"

namespace duo::cuda {

cudaError_t launch_prefill_q4_0(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    return launch_prefill<CacheType::q4_0>(params, device, stream);
}

} // namespace duo::cuda
