// Mixed-head attention on a CUDA device: the two launches of the operator. Framework-free; see params.h for what they are given.
#pragma once

#include "params.h"

#include <cuda_runtime_api.h>

namespace duo::cuda {

// Attends. Chooses a kernel by shapes and types only, never by positions, so that a captured graph stays valid while sequences grow.
cudaError_t attention(const AttentionParams & params, cudaStream_t stream);

// Bytes of AttentionParams::partials that attention() may use on the current device.
size_t attention_workspace(const AttentionParams & params);

// Writes keys and values to their cells.
cudaError_t store(const StoreParams & params, cudaStream_t stream);

// For tests: from now on, as if a block of the current device had no more shared memory than this, as on other cards. Not while another thread launches.
void limit_shared_bytes(size_t n_bytes);

} // namespace duo::cuda
