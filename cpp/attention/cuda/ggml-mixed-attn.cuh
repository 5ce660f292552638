// GGML_OP_MIXED_ATTN on the CUDA backend: what ggml-cuda.cu calls. HIP and MUSA compile that file too, but their devices do not have the operator.
#pragma once

#include "common.cuh"
#include "mixed-attention.h"

#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)

bool ggml_cuda_mixed_attn_supported(int device, const ggml_tensor * dst);

// Bytes of the result, with the kernels' scratch behind it.
size_t ggml_cuda_mixed_attn_get_alloc_size(int device, const ggml_tensor * dst);

void ggml_cuda_mixed_attn(ggml_backend_cuda_context & ctx, ggml_tensor * dst);

const char * ggml_cuda_mixed_attn_slow_reason(ggml_mixed_attn_shape shape);

#else

static inline bool         ggml_cuda_mixed_attn_supported(int, const ggml_tensor *)              { return false; }
static inline size_t       ggml_cuda_mixed_attn_get_alloc_size(int, const ggml_tensor * dst)     { return ggml_nbytes(dst); }
static inline void         ggml_cuda_mixed_attn(ggml_backend_cuda_context &, ggml_tensor *)      { GGML_ABORT("this backend does not have the operator"); }
static inline const char * ggml_cuda_mixed_attn_slow_reason(ggml_mixed_attn_shape)               { return nullptr; }

#endif
