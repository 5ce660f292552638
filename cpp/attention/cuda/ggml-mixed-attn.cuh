// GGML_OP_MIXED_ATTN on the CUDA backend: what ggml-cuda.cu calls.
#pragma once

#include "common.cuh"

bool ggml_cuda_mixed_attn_supported(int device, const ggml_tensor * dst);

void ggml_cuda_mixed_attn(ggml_backend_cuda_context & ctx, ggml_tensor * dst);
