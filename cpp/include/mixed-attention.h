// Mixed-head attention: one ggml operator that stores a ubatch's K and V rows in a mixed-head cache and attends to them.
#pragma once

#include "ggml.h"
#include "ggml-backend.h"

#ifdef __cplusplus
extern "C" {
#endif

// ggml_mixed_attn_head.recent of a head that sees every key.
#define GGML_MIXED_ATTN_ALL 0x3fffffff

// A KV head: what it sees, and where its rows are.
//
// Visibility: a query at position p of a sequence sees key j <= p where j < sink or j >= floor(p / chunk) * chunk - recent. So a head with recent
// GGML_MIXED_ATTN_ALL, a retrieval head, sees every key.
//
// Cells: position j of a sequence lives in cell j while j < sink, else in cell sink + (j - sink) % ring. So a ring as long as the context keeps every
// position, whatever the head sees.
struct ggml_mixed_attn_head {
    int32_t first_row; // of cell 0, within a sequence's stream
    int32_t recent;
    int32_t ring;      // at least recent + chunk + the ubatch's tokens, unless sink + ring holds the context
    int32_t reserved;
};

// Rotation: outliers cost a quantised row precision, so rows may be kept rotated. Each run of `rotation` values is multiplied by Sylvester's Hadamard matrix of
// that side, entry (i, j) being (-1)^popcount(i & j) / sqrt(rotation), before it is stored; queries are rotated as K is, and the result is rotated back as V is
// (the matrix is its own inverse). All of it is the operator's own: q, k, v and the result are as without.
//
// Sizes and numbers of one layer's operator; lives in the tensor's op_params, so 64 bytes at most. Positions are ordinals: the token's place in its sequence.
struct ggml_mixed_attn_params {
    float   scale;    // multiplies q . k
    float   softcap;  // 0: none; else scores become softcap * tanh(score / softcap)
    int32_t sink;     // first keys of a sequence, seen by every head
    int32_t chunk;    // a window moves in steps of this many positions
    int32_t n_ctx;    // positions are below this
    int32_t max_seq_tokens; // no stream has more of the tokens; which kernel is best depends on it
    int64_t n_rows;   // rows of one sequence's stream, all heads together
    int32_t has_kv;   // set by ggml_mixed_attn
    int32_t has_sinks;
    int32_t layer;    // of the model, that has the rows: for who looks at a graph
    int32_t rotation_k; // of K's rows: a power of two that divides the head size, 64 at least; 0: none
    int32_t rotation_v;
};

// q        [head_size_k, n_head,    n_tokens] f32, rows contiguous
// k, v     [head_size,   n_head_kv, n_tokens] f32, rows contiguous: this ubatch's keys (after RoPE) and values. Both NULL: the rows are stored already, as where
//          layers share them
// k_cache  [head_size_k, n_rows * n_stream]   any cache type: row of (stream, head, cell) is stream * n_rows + first_row + cell
// v_cache  [head_size_v, n_rows * n_stream]   any cache type
// tokens   [2, n_tokens] i32: position and stream of each token; tokens of a stream come in the order of their positions
// heads    [4, n_head_kv] i32: ggml_mixed_attn_head
// sinks    [n_head] f32: learned sinks, or NULL. The softmax of query head h has exp(sinks[h]) more in its denominator
//
// Returns [head_size_v * n_head, n_tokens] f32, heads in the model's order. The caches are written: the tensor must be computed on the
// backend that holds them, and what else reads them must come after it in the graph. (An operator that writes its sources is foreign to ggml: backends that
// look at destinations only to find out what may run at once would need to know of it.)
GGML_API struct ggml_tensor * ggml_mixed_attn(
        struct ggml_context * ctx,
        struct ggml_tensor  * q,
        struct ggml_tensor  * k,
        struct ggml_tensor  * v,
        struct ggml_tensor  * k_cache,
        struct ggml_tensor  * v_cache,
        struct ggml_tensor  * tokens,
        struct ggml_tensor  * heads,
        struct ggml_tensor  * sinks,
        struct ggml_mixed_attn_params params);

// The operator's sources, as it keeps them: without holes, because ggml stops at the first.
struct ggml_mixed_attn_sources {
    struct ggml_tensor * q, * k_cache, * v_cache, * tokens, * heads, * k, * v, * sinks;
};

GGML_API struct ggml_mixed_attn_params  ggml_mixed_attn_get_params (const struct ggml_tensor * dst);
GGML_API struct ggml_mixed_attn_sources ggml_mixed_attn_get_sources(const struct ggml_tensor * dst);

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
