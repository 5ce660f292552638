// Mixed-head attention: one ggml operator that stores a ubatch's K and V rows in a mixed-head cache and attends to them.
#pragma once

#include "ggml.h"
#include "ggml-backend.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GGML_MIXED_ATTN_COUNTERS 4096

// What a KV head sees, and how it is kept. A windowed head keeps everything and sees what a streaming head would: so head kinds can be tried out on a
// context without filling it again.
enum ggml_mixed_attn_head {
    GGML_MIXED_ATTN_HEAD_RETRIEVAL = 0,
    GGML_MIXED_ATTN_HEAD_STREAMING = 1,
    GGML_MIXED_ATTN_HEAD_WINDOWED  = 2,
};

// Sizes and numbers of one layer's operator; lives in the tensor's op_params, so 64 bytes at most.
//
// Visibility (design section 2): a query at position p of a sequence sees, on a retrieval head, every key j <= p; on a streaming or
// windowed head, key j <= p where j < sink or j >= floor(p / chunk) * chunk - recent.
//
// Cells: position j of a sequence lives, for a retrieval or windowed head, in cell j; for a streaming head, in cell j while j < sink, else in cell
// sink + (j - sink) % ring.
struct ggml_mixed_attn_params {
    float   scale;    // multiplies q . k
    float   softcap;  // 0: none; else scores become softcap * tanh(score / softcap)
    int32_t sink;
    int32_t recent;
    int32_t chunk;
    int32_t ring;     // cells after the sinks; at least recent + chunk + the ubatch's tokens
    int32_t n_ctx;    // cells of a retrieval head: positions are below this
    int32_t max_seq_tokens; // no stream has more of the tokens; which kernel is best depends on it
    int64_t n_rows;   // rows of one sequence's stream, all heads together
};

// q        [head_size_k, n_head,    n_tokens] f32, rows contiguous
// k, v     [head_size,   n_head_kv, n_tokens] f32, rows contiguous: this ubatch's keys (after RoPE) and values
// k_cache  [head_size_k, n_rows * n_stream]   any cache type: row of (stream, head, cell) is stream * n_rows + first row of head + cell
// v_cache  [head_size_v, n_rows * n_stream]   any cache type
// tokens   [2, n_tokens] i32: position and stream of each token; tokens of a stream come in the order of their positions
// heads    [2, n_head_kv] i64: first row of the head within its stream, and its ggml_mixed_attn_head
// counters [GGML_MIXED_ATTN_COUNTERS] i32, beside the cache: zero at first, and a backend that uses them leaves zeros
//
// Returns [head_size_v * n_head, n_tokens] f32, heads in the model's order. The caches are written: the tensor must be computed on the
// backend that holds them, and nothing else in the graph may read them.
GGML_API struct ggml_tensor * ggml_mixed_attn(
        struct ggml_context * ctx,
        struct ggml_tensor  * q,
        struct ggml_tensor  * k,
        struct ggml_tensor  * v,
        struct ggml_tensor  * k_cache,
        struct ggml_tensor  * v_cache,
        struct ggml_tensor  * tokens,
        struct ggml_tensor  * heads,
        struct ggml_tensor  * counters,
        struct ggml_mixed_attn_params params);

// Sizes and cache types of a layer.
struct ggml_mixed_attn_shape {
    int64_t        head_size_k;
    int64_t        head_size_v;
    int64_t        n_head;
    int64_t        n_head_kv;
    enum ggml_type type_k;
    enum ggml_type type_v;
};

// Whether a device computes the operator for such a layer.
GGML_API bool ggml_mixed_attn_supported(ggml_backend_dev_t dev, struct ggml_mixed_attn_shape shape);

// For a device that does: NULL where it has a fast kernel for the layer, else a sentence that says why not and what to use instead. A backend whose kernels
// differ that much has a function of this type under this name in its registry.
typedef const char * (*ggml_mixed_attn_slow_reason_t)(struct ggml_mixed_attn_shape shape);
#define GGML_MIXED_ATTN_SLOW_REASON "ggml_mixed_attn_slow_reason"
GGML_API const char * ggml_mixed_attn_slow_reason(ggml_backend_dev_t dev, struct ggml_mixed_attn_shape shape);

#ifdef __cplusplus
}
#endif
