// Launches a kernel whose blocks and teams have equal shares of all tiles (decode-plan.cuh).
#pragma once

#include "decode-common.cuh"
#include "device.h"

#include <algorithm>

namespace duo::cuda {

// cudaErrorNotSupported where a block has too little shared memory.
template <typename Config, typename Kernel>
static cudaError_t launch_shares(Kernel kernel, const AttentionParams & params, const Device & device, cudaStream_t stream) {
    constexpr size_t CONTROL = DECODE_CONTROL_BYTES<Config>;
    if (device.shared_bytes < CONTROL + Config::TEAM_BYTES) {
        return cudaErrorNotSupported;
    }
    const int    n_teams = int(std::min<size_t>(Config::MAX_TEAMS, (device.shared_bytes - CONTROL) / Config::TEAM_BYTES));
    // More than half of what there is, so that no multiprocessor gets two blocks: where this kernel starts while another ends, the first ones free would.
    const size_t shared  = std::max(CONTROL + n_teams * size_t(Config::TEAM_BYTES), device.shared_bytes / 2 + 1024);
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

} // namespace duo::cuda
