// Chooses and launches the decode kernel of one cache type; each instances/decode-*.cu instantiates it once.
#pragma once

#include "decode.cuh"
#include "device.h"

#include <algorithm>

namespace duo::cuda {

template <CacheType TYPE, int D, int N_TILES>
static cudaError_t launch_decode_sized(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    using Config = DecodeConfig<TYPE, D, N_TILES>;
    const int    n_warps = int(std::min<size_t>(Config::MAX_WARPS, (device.shared_bytes - DECODE_CONTROL_BYTES<Config>) / Config::WARP_BYTES));
    // More than half of what there is, so that no multiprocessor gets two blocks: where this kernel starts while another ends, the first ones free would.
    const size_t shared  = std::max(DECODE_CONTROL_BYTES<Config> + n_warps * size_t(Config::WARP_BYTES), device.shared_bytes / 2 + 1024);
    static_assert(DECODE_CONTROL_BYTES<Config> + 2 * Config::WARP_BYTES <= 99 << 10, "no GPU since sm_80 has less than 99 KB for a block");
    const auto kernel = decode_kernel<TYPE, D, N_TILES>;
    if (cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)); error != cudaSuccess) {
        return error;
    }

    const int ratio = params.n_head / params.layout.n_head_kv;
    DecodeShape shape;
    shape.n_head_kv    = params.layout.n_head_kv;
    shape.ratio        = ratio;
    shape.group_tokens = std::max(1, Config::COLUMNS / ratio);
    shape.chunk_heads  = std::min(ratio, Config::COLUMNS);
    shape.n_chunks     = (ratio + shape.chunk_heads - 1) / shape.chunk_heads;

    // As many tokens at a time as the plan holds.
    const int per_launch = std::min(MAX_DECODE_TOKENS, MAX_DECODE_SEGMENTS / (shape.n_head_kv * shape.n_chunks));
    if (per_launch == 0 || shape.n_head_kv > MAX_DECODE_HEADS_KV) {
        return cudaErrorInvalidValue; // slow_reason sees to it that this does not happen
    }
    for (int first = 0; first < params.layout.n_tokens; first += per_launch) {
        AttentionParams part = params;
        part.layout.n_tokens = std::min(per_launch, params.layout.n_tokens - first);
        part.layout.tokens  += 2 * int64_t(first);
        part.q              += int64_t(first) * params.n_head * D;
        part.dst            += int64_t(first) * params.n_head * D;
        if (cudaError_t error = launch_early(device, kernel, device.n_multiprocessors, n_warps * 32, shared, stream, part, shape); error != cudaSuccess) {
            return error;
        }
    }
    return cudaSuccess;
}

template <CacheType TYPE, int D>
static cudaError_t launch_decode_columns(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    const int columns = params.max_seq_tokens * (params.n_head / params.layout.n_head_kv);
    // Beyond a head size of 128 the output of two column tiles would not fit in registers: the cache is read twice instead.
    if constexpr (D <= 128) {
        if (columns > 8) {
            return launch_decode_sized<TYPE, D, 2>(params, device, stream);
        }
    }
    return launch_decode_sized<TYPE, D, 1>(params, device, stream);
}

template <CacheType TYPE>
static cudaError_t launch_decode(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    return for_head_size<TYPE>(params.head_size_k, [&](auto d) { return launch_decode_columns<TYPE, decltype(d)::value>(params, device, stream); });
}

} // namespace duo::cuda
