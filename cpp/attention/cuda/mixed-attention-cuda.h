// Mixed-head attention on a CUDA device: the two launches of the operator. Framework-free; see params.h for what they are given.
#pragma once

#include "params.h"

#include <cuda_runtime_api.h>

namespace duo::cuda {

// Attends. Chooses a kernel by shapes and types only, never by positions, so that a captured graph stays valid while sequences grow.
cudaError_t attention(const AttentionParams & params, cudaStream_t stream);

// Why attention() has no fast kernel for these types, head sizes and numbers of heads, and what to use instead; null where it has one.
const char * slow_reason(const AttentionParams & params);

// Bytes of AttentionParams::partials that attention() may use on a device of so many multiprocessors. The same for any tokens and positions.
size_t attention_workspace(const AttentionParams & params, int n_multiprocessors);

// Writes keys and values to their cells, rotated as rows are; and rotated queries, where rows are rotated.
cudaError_t store(const StoreParams & params, cudaStream_t stream);

// For tests: from now on, as if a block of the current device had no more shared memory than this, as on other cards. Not while another thread launches.
void limit_shared_bytes(size_t n_bytes);

} // namespace duo::cuda
