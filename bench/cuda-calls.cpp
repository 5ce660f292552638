#include "cuda-calls.h"

#ifdef DUO_WRAPS_CUDA

#include <cuda_runtime_api.h>

#include <atomic>

namespace {

std::atomic<int64_t> kernels, captures, instantiated, updates, graphs;

} // namespace

extern "C" {

// What a launch <<<>>> calls, before CUDA 13 and since. Weak: a toolkit has one of them or both.
cudaError_t __attribute__((weak)) __real_cudaLaunchKernel(const void *, dim3, dim3, void **, size_t, cudaStream_t);
cudaError_t __attribute__((weak)) __real___cudaLaunchKernel(cudaKernel_t, dim3, dim3, void **, size_t, cudaStream_t);
cudaError_t __real_cudaLaunchKernelExC(const cudaLaunchConfig_t *, const void *, void **);
cudaError_t __real_cudaStreamBeginCapture(cudaStream_t, enum cudaStreamCaptureMode);
cudaError_t __real_cudaGraphInstantiate(cudaGraphExec_t *, cudaGraph_t, unsigned long long);
cudaError_t __real_cudaGraphExecUpdate(cudaGraphExec_t, cudaGraph_t, cudaGraphExecUpdateResultInfo *);
cudaError_t __real_cudaGraphLaunch(cudaGraphExec_t, cudaStream_t);

cudaError_t __wrap_cudaLaunchKernel(const void * f, dim3 grid, dim3 block, void ** args, size_t shared, cudaStream_t stream) {
    ++kernels;
    return __real_cudaLaunchKernel(f, grid, block, args, shared, stream);
}

cudaError_t __wrap___cudaLaunchKernel(cudaKernel_t f, dim3 grid, dim3 block, void ** args, size_t shared, cudaStream_t stream) {
    ++kernels;
    return __real___cudaLaunchKernel(f, grid, block, args, shared, stream);
}

cudaError_t __wrap_cudaLaunchKernelExC(const cudaLaunchConfig_t * config, const void * f, void ** args) {
    ++kernels;
    return __real_cudaLaunchKernelExC(config, f, args);
}

cudaError_t __wrap_cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    ++captures;
    return __real_cudaStreamBeginCapture(stream, mode);
}

cudaError_t __wrap_cudaGraphInstantiate(cudaGraphExec_t * out, cudaGraph_t graph, unsigned long long flags) {
    ++instantiated;
    return __real_cudaGraphInstantiate(out, graph, flags);
}

cudaError_t __wrap_cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph, cudaGraphExecUpdateResultInfo * info) {
    ++updates;
    return __real_cudaGraphExecUpdate(exec, graph, info);
}

cudaError_t __wrap_cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    ++graphs;
    return __real_cudaGraphLaunch(exec, stream);
}

} // extern "C"

cuda_calls count_cuda_calls() {
    return { kernels, captures, instantiated, updates, graphs };
}

#else

cuda_calls count_cuda_calls() {
    return {};
}

#endif
