// What a launch must know of the GPU, read once; and launches that overlap.
#pragma once

#include <cuda_runtime.h>

#include <stddef.h>

namespace duo::cuda {

struct Device {
    int    n_multiprocessors;
    size_t shared_bytes;   // at most, of one block
    bool   has_wgmma;      // and the kernels have code for it
    bool   starts_early;   // has programmatic dependent launch, and the kernels were compiled with it
};

// Launches a kernel that may start while the one before it in the stream ends, and must wait for that one itself (ptx::wait_for_previous_kernel), as
// nearly all kernels of ggml do: its launch then costs nothing.
template <typename... Params, typename... Args>
static cudaError_t launch_early(const Device & device, void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream, const Args &... args) {
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;

    cudaLaunchConfig_t config = {};
    config.gridDim          = grid;
    config.blockDim         = block;
    config.dynamicSmemBytes = shared;
    config.stream           = stream;
    config.attrs            = &early;
    config.numAttrs         = device.starts_early ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, args...);
}

} // namespace duo::cuda
