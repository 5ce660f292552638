// Chooses and launches the decode kernel of one pair of cache types; each file of instances/ instantiates it once.
#pragma once

#include "decode.cuh"
#include "device.h"

#include <algorithm>

namespace duo::cuda {

// cudaErrorNotSupported where a block has too little shared memory.
template <typename Config>
static cudaError_t launch_decode_sized(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    constexpr size_t CONTROL = DECODE_CONTROL_BYTES<Config>;
    // No GPU since sm_80 has less than 99 KB for a block: there two teams fit, or one of several warps.
    static_assert(Config::N_TILES > 1 || CONTROL + (Config::SLICES > 1 ? 1 : 2) * Config::TEAM_BYTES <= 99 << 10);
    if (device.shared_bytes < CONTROL + Config::TEAM_BYTES) {
        return cudaErrorNotSupported;
    }
    const int    n_teams = int(std::min<size_t>(Config::MAX_TEAMS, (device.shared_bytes - CONTROL) / Config::TEAM_BYTES));
    // More than half of what there is, so that no multiprocessor gets two blocks: where this kernel starts while another ends, the first ones free would.
    const size_t shared  = std::max(CONTROL + n_teams * size_t(Config::TEAM_BYTES), device.shared_bytes / 2 + 1024);
    const auto kernel = decode_kernel<Config>;
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
    shape.k_row        = int(row_bytes(params.type_k, Config::D));
    shape.v_row        = int(row_bytes(params.type_v, Config::D));
    shape.n_blocks     = device.n_multiprocessors;

    // As many tokens at a time as the plan holds.
    const int per_launch = std::min(MAX_DECODE_TOKENS, MAX_DECODE_SEGMENTS / (shape.n_head_kv * shape.n_chunks));
    if (per_launch == 0 || shape.n_head_kv > MAX_DECODE_HEADS_KV) {
        return cudaErrorInvalidValue; // slow_reason sees to it that this does not happen
    }
    for (int first = 0; first < params.layout.n_tokens; first += per_launch) {
        AttentionParams part = params;
        part.layout.n_tokens = std::min(per_launch, params.layout.n_tokens - first);
        part.layout.tokens  += 2 * int64_t(first);
        part.q              += int64_t(first) * params.n_head * Config::D;
        part.dst            += int64_t(first) * params.n_head * Config::D;
        cudaError_t error = launch_early(device, kernel, shape.n_blocks, n_teams * Config::TEAM_THREADS, shared, stream, part, shape);
        if constexpr (Config::MERGES_APART) {
            if (error == cudaSuccess) {
                const dim3 grid(part.layout.n_tokens * part.n_head, Config::D / 128);
                error = launch_early(device, decode_merge_kernel<Config>, grid, DECODE_MERGE_WARPS * 32, 0, stream, part, shape);
            }
        }
        if (error != cudaSuccess) {
            return error;
        }
    }
    return cudaSuccess;
}

template <CacheType K, CacheType V>
cudaError_t launch_decode(const AttentionParams & params, const Device & device, cudaStream_t stream) {
    return for_head_size<TypePair<K, V>>(params.head_size_k, [&](auto d) {
        constexpr int D = decltype(d)::value;
        const int columns = params.max_seq_tokens * (params.n_head / params.layout.n_head_kv);
        // Where the output of two column tiles would not fit in registers, or their queries in shared memory, the cache is read twice instead.
        if constexpr (D <= 128 || DecodeConfig<K, V, D, 1>::SLICES > 1) {
            if (columns > 8) {
                const cudaError_t error = launch_decode_sized<DecodeConfig<K, V, D, 2>>(params, device, stream);
                if (error != cudaErrorNotSupported) {
                    return error;
                }
            }
        }
        return launch_decode_sized<DecodeConfig<K, V, D, 1>>(params, device, stream);
    });
}

} // namespace duo::cuda
