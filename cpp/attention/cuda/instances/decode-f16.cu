#include "../decode-launch.cuh"

namespace duo::cuda {

cudaError_t launch_decode_f16(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    return launch_decode<CacheType::f16>(params, device, stream);
}

} // namespace duo::cuda
