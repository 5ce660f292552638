// What a caller asks of a context with mixed heads. Plain C, because llama.h includes it: a llama_context_params carries one of these.
#pragma once

#include "ggml.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// A specification, not a resolved pattern: llama.cpp's tools fill their context parameters before the model is loaded, so which heads stream
// is worked out in the context's constructor. A zeroed struct means stock behaviour, bit for bit.
struct llama_duo_params {
    bool enabled;

    // Where the gates come from; need outlive llama_init_from_model only.
    //   NULL      no gates: allowed where sparsity is 0 (every head full) or 1 (every head streaming)
    //   "auto"    the model's own: its GGUF metadata, else the side-car MODEL.duo.json beside it
    //   "{..."    the text of a JSON pattern
    //   else      a path: a DuoAttention folder, a TSV file, or a JSON file
    const char * gates;

    // How heads are chosen; a negative value means not given, and both negative means sparsity 0.5. At most one may be given.
    float sparsity;   // share of all KV heads that stream, 0 to 1
    float threshold;  // a head with a gate of at least this keeps its whole cache

    // Instead of both: what the cache of all sequences may take. Up to 1 a share of what a full f16 cache takes, above it bytes; negative: not given. Heads, windows and,
    // where type_k and type_v are f16, types are those that lose least of what was measured. With recent, or without losses, the lowest gates stream, no more than have to.
    double budget;

    // A streaming head's visible keys; a negative value means the pattern's own, which may have sinks a layer and windows a head, else 64, 256 and 1.
    int32_t sink;     // first keys of the sequence, always visible
    int32_t recent;   // keys before the query's chunk
    int32_t chunk;    // the window moves in steps of this many positions

    // K rows of these layers are of another type than type_k, as where a coarse type breaks a model by a few layers alone; none: no layer's. A budget that chooses
    // types chooses these, too.
    const int32_t * finer_layers; // [n_finer_layers], each below the model's number of layers; need outlive llama_init_from_model only
    size_t          n_finer_layers;
    enum ggml_type  finer_k;

    // Attention is GGML_OP_MIXED_ATTN in every layer, on the CPU where a device lacks it, and never other operators: for what looks at it.
    bool operator_only;
};

// Every field "not given", enabled = false.
static inline struct llama_duo_params llama_duo_default_params(void) {
    struct llama_duo_params p = { false, 0, -1.0f, -1.0f, -1.0, -1, -1, -1, 0, 0, GGML_TYPE_F16, false };
    return p;
}

#ifdef __cplusplus
}
#endif
