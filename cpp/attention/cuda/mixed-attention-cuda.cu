#include "mixed-attention-cuda.h"

#include "decode-plan.cuh"
#include "device.h"
#include "fast-kernels.h"
#include "generic.cuh"
#include "store.cuh"
#include "wgmma.cuh"

#include <algorithm>
#include <cstdlib>
#include <mutex>

namespace duo::cuda {

// Instantiated in instances/.
template <CacheType K, CacheType V>
cudaError_t launch_decode(const AttentionParams & params, const Device & device, cudaStream_t stream);
template <CacheType K, CacheType V>
cudaError_t launch_batch(const AttentionParams & params, const Device & device, cudaStream_t stream);
template <CacheType K, CacheType V>
cudaError_t launch_prefill(const AttentionParams & params, const Device & device, cudaStream_t stream);

// Tells the host by its attributes whether the code for this device has warpgroup products.
static __global__ void __launch_bounds__(HAS_WGMMA ? 128 : 32) tells_wgmma() {}

static Device & current_device() {
    constexpr int MAX_DEVICES = 64;
    static Device         devices[MAX_DEVICES];
    static std::once_flag known[MAX_DEVICES];
    int id = 0;
    cudaGetDevice(&id);
    Device & device = devices[id];
    std::call_once(known[id], [&] {
        int bytes = 0;
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, id);
        cudaDeviceGetAttribute(&device.n_multiprocessors, cudaDevAttrMultiProcessorCount, id);
        device.shared_bytes = size_t(bytes);
        // GGML_CUDA_PDL=0 turns early starts off, as it does in ggml. Code compiled for an older architecture has no waiting in it.
        const char * wish = getenv("GGML_CUDA_PDL");
        cudaFuncAttributes attributes = {};
        device.has_wgmma    = cudaFuncGetAttributes(&attributes, tells_wgmma) == cudaSuccess && attributes.maxThreadsPerBlock == 128;
        device.starts_early = cudaFuncGetAttributes(&attributes, store_kernel) == cudaSuccess && attributes.ptxVersion >= 90 && (!wish || atoi(wish) != 0);
    });
    return device;
}

void limit_shared_bytes(size_t n_bytes) {
    Device & device = current_device();
    device.shared_bytes = std::min(device.shared_bytes, n_bytes);
}

const char * slow_reason(const AttentionParams & params) {
    const int d = params.head_size_k;
    bool fast_size = false;
    if (!FastTypePairs::dispatch(params.type_k, params.type_v, [&](auto pair) { fast_size = decltype(pair)::has_head_size(d); })) {
        return "the cache types have no fast kernels; use f16 or a quantised type for each of K and V, or bf16 for both";
    }
    if (d != params.head_size_v) {
        return "only K and V heads of one size have fast kernels";
    }
    if (!fast_size) {
        return FastHeadSizes::contain(d) ? "with these cache types the head size has no fast kernels; use f16 or bf16" : "the head size has no fast kernels";
    }
    // A token's segments must fit the plan of a decode launch; its columns are 8 at least.
    const int ratio = params.n_head / params.layout.n_head_kv;
    if (params.layout.n_head_kv > MAX_DECODE_HEADS_KV || params.layout.n_head_kv * ((ratio + 7) / 8) > MAX_DECODE_SEGMENTS) {
        return "the fast kernels cannot hold so many heads";
    }
    return nullptr;
}

cudaError_t attention(const AttentionParams & params, cudaStream_t stream) {
    if (params.layout.n_tokens == 0) {
        return cudaSuccess;
    }
    if (!slow_reason(params)) {
        const Device & device = current_device();
        const int columns = params.max_seq_tokens * (params.n_head / params.layout.n_head_kv);
        // The batch kernel reads the cache once, where the decode kernel does for every 16 query heads of a KV head, and shares its tiles among more warps.
        if (device.has_wgmma && params.max_seq_tokens > 1 && columns > MIN_BATCH_COLUMNS && columns <= MAX_BATCH_COLUMNS) {
            cudaError_t error = cudaErrorNotSupported;
            BatchTypePairs::dispatch(params.type_k, params.type_v, [&](auto pair) { error = launch_batch<decltype(pair)::K, decltype(pair)::V>(params, device, stream); });
            if (error != cudaErrorNotSupported) { // as where a block has too little shared memory
                return error;
            }
        }
        // Beyond twice, the prefill kernel's 128 rows are worth filling.
        if (columns > 32) {
            cudaError_t error = cudaErrorNotSupported;
            FastTypePairs::dispatch(params.type_k, params.type_v, [&](auto pair) { error = launch_prefill<decltype(pair)::K, decltype(pair)::V>(params, device, stream); });
            if (error != cudaErrorNotSupported) {
                return error;
            }
        }
        cudaError_t error = cudaErrorNotSupported;
        FastTypePairs::dispatch(params.type_k, params.type_v, [&](auto pair) { error = launch_decode<decltype(pair)::K, decltype(pair)::V>(params, device, stream); });
        return error;
    }
    if (params.head_size_k > MAX_HEAD_SIZE || params.head_size_v > MAX_HEAD_SIZE) {
        return cudaErrorNotSupported;
    }
    const int64_t n_blocks = int64_t(params.layout.n_tokens) * params.n_head; // in x, which alone takes more than 65,535
    generic_kernel<<<uint32_t(n_blocks), GENERIC_WARPS * 32, 0, stream>>>(params, row_bytes(params.type_k, params.head_size_k), row_bytes(params.type_v, params.head_size_v));
    return cudaGetLastError();
}

size_t attention_workspace(const AttentionParams & params, int n_multiprocessors) {
    if (slow_reason(params)) {
        return 0;
    }
    // Decode: a part of each of 8 teams and 2 of the block, of at most 16 columns, on each multiprocessor; of 3 teams and 32 columns. Prefill: four parts
    // of 128 rows.
    const size_t n_columns = std::max({ 10 * 16, 5 * 32, 4 * 128 });
    return n_multiprocessors * n_columns * (params.head_size_v + 2) * sizeof(float);
}

cudaError_t store(const StoreParams & params, cudaStream_t stream) {
    const int64_t n_rows = n_store_rows(params);
    if (n_rows == 0) {
        return cudaSuccess;
    }
    const int     n_parts  = n_store_parts(params);
    const int64_t n_blocks = (n_rows * n_parts + STORE_WARPS - 1) / STORE_WARPS;
    return launch_early(current_device(), store_kernel, uint32_t(n_blocks), STORE_WARPS * 32, 0, stream, params, n_rows, n_parts,
        int64_t(row_bytes(params.type_k, params.head_size_k)), int64_t(row_bytes(params.type_v, params.head_size_v)));
}

} // namespace duo::cuda
