// GGML_OP_MIXED_ATTN on the CPU backend: what ggml-cpu.c calls.
#pragma once

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ggml_compute_params;
struct ggml_tensor;

// Bytes of work buffer that n_threads threads need to compute the tensor.
size_t ggml_mixed_attn_cpu_work_size(const struct ggml_tensor * dst, int n_threads);

void ggml_compute_forward_mixed_attn(const struct ggml_compute_params * params, struct ggml_tensor * dst);

#ifdef __cplusplus
}
#endif
