#include "mixed-attention-cuda.h"

#include "device.h"
#include "generic.cuh"
#include "store.cuh"

#include <algorithm>
#include <cstdlib>

namespace duo::cuda {

cudaError_t launch_decode_f16 (const AttentionParams & params, const Device & device, cudaStream_t stream);
cudaError_t launch_decode_bf16(const AttentionParams & params, const Device & device, cudaStream_t stream);
cudaError_t launch_decode_q8_0(const AttentionParams & params, const Device & device, cudaStream_t stream);
cudaError_t launch_decode_q4_0(const AttentionParams & params, const Device & device, cudaStream_t stream);

cudaError_t launch_prefill_f16 (const AttentionParams & params, const Device & device, cudaStream_t stream);
cudaError_t launch_prefill_bf16(const AttentionParams & params, const Device & device, cudaStream_t stream);
cudaError_t launch_prefill_q8_0(const AttentionParams & params, const Device & device, cudaStream_t stream);
cudaError_t launch_prefill_q4_0(const AttentionParams & params, const Device & device, cudaStream_t stream);

static Device & current_device() {
    constexpr int MAX_DEVICES = 64;
    static Device devices[MAX_DEVICES];
    int id = 0;
    cudaGetDevice(&id);
    Device & device = devices[id];
    if (device.n_multiprocessors == 0) { // racing threads write the same numbers
        int bytes = 0, n = 0;
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, id);
        cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, id);
        device.shared_bytes      = size_t(bytes);
        // GGML_CUDA_PDL=0 turns early starts off, as it does in ggml. Code compiled for an older architecture has no waiting in it.
        const char * wish = getenv("GGML_CUDA_PDL");
        cudaFuncAttributes attributes = {};
        device.starts_early = cudaFuncGetAttributes(&attributes, store_kernel) == cudaSuccess && attributes.ptxVersion >= 90 && (!wish || atoi(wish) != 0);
        device.n_multiprocessors = n;
    }
    return device;
}

void limit_shared_bytes(size_t n_bytes) {
    Device & device = current_device();
    device.shared_bytes = std::min(device.shared_bytes, n_bytes);
}

static bool has_fast_kernel(const AttentionParams & params) {
    const int d = params.head_size_k;
    if (params.type_k != params.type_v || d != params.head_size_v) {
        return false;
    }
    switch (params.type_k) {
        case CacheType::f16:
        case CacheType::bf16: return d == 64 || d == 80 || d == 96 || d == 128 || d == 192 || d == 256;
        case CacheType::q8_0:
        case CacheType::q4_0: return d == 64 || d == 128 || d == 192 || d == 256;
        default:              return false;
    }
}

cudaError_t attention(const AttentionParams & params, cudaStream_t stream) {
    if (params.layout.n_tokens == 0) {
        return cudaSuccess;
    }
    if (has_fast_kernel(params)) {
        const Device & device = current_device();
        // The decode kernel reads the cache once for every 16 query heads of a KV head; beyond twice, the prefill kernel's 128 rows are worth filling.
        if (params.max_seq_tokens * (params.n_head / params.layout.n_head_kv) > 32) {
            cudaError_t error = cudaErrorNotSupported;
            switch (params.type_k) {
                case CacheType::f16:  error = launch_prefill_f16 (params, device, stream); break;
                case CacheType::bf16: error = launch_prefill_bf16(params, device, stream); break;
                case CacheType::q8_0: error = launch_prefill_q8_0(params, device, stream); break;
                case CacheType::q4_0: error = launch_prefill_q4_0(params, device, stream); break;
                default:              break;
            }
            if (error != cudaErrorNotSupported) { // as where a block has too little shared memory
                return error;
            }
        }
        switch (params.type_k) {
            case CacheType::f16:  return launch_decode_f16 (params, device, stream);
            case CacheType::bf16: return launch_decode_bf16(params, device, stream);
            case CacheType::q8_0: return launch_decode_q8_0(params, device, stream);
            case CacheType::q4_0: return launch_decode_q4_0(params, device, stream);
            default:              break;
        }
    }
    if (params.head_size_k > GENERIC_MAX_SIZE || params.head_size_v > GENERIC_MAX_SIZE) {
        return cudaErrorNotSupported;
    }
    const dim3 grid(params.n_head, params.layout.n_tokens);
    generic_kernel<<<grid, GENERIC_WARPS * 32, 0, stream>>>(params, row_bytes(params.type_k, params.head_size_k), row_bytes(params.type_v, params.head_size_v));
    return cudaGetLastError();
}

size_t attention_workspace(const AttentionParams & params) {
    // Decode: a part of each of 8 warps and 2 of the block, of at most 16 columns, on each multiprocessor. Prefill: four parts of 128 rows.
    const size_t n_columns = std::max(10 * 16, 4 * 128);
    return current_device().n_multiprocessors * n_columns * (params.head_size_v + 2) * sizeof(float);
}

cudaError_t store(const StoreParams & params, cudaStream_t stream) {
    const int64_t n_rows = 2 * int64_t(params.layout.n_tokens) * params.layout.n_head_kv;
    if (n_rows == 0) {
        return cudaSuccess;
    }
    return launch_early(current_device(), store_kernel, uint32_t((n_rows + STORE_WARPS - 1) / STORE_WARPS), STORE_WARPS * 32, 0, stream,
        params, int64_t(row_bytes(params.type_k, params.head_size_k)), int64_t(row_bytes(params.type_v, params.head_size_v)));
}

} // namespace duo::cuda
