// What mixed heads cost, answered without allocating anything.
#pragma once

#include "duo-row-types.h"
#include "duo-support.h"

#include "llama.h"

#include <cstdint>
#include <string>

struct duo_config;

// Bytes of the K and V rows, all layers and sequences together, and of what a context keeps beside them.
struct duo_kv_size : duo_row_types {
    uint64_t retrieval_bytes   = 0;  // rows of heads that keep the whole cache
    uint64_t streaming_bytes   = 0;  // rows of heads that keep sinks and a ring
    uint64_t windowed_bytes    = 0;  // rows of layers with the model's own sliding windows
    uint64_t total_bytes       = 0;  // what is allocated: the sum of the three
    uint64_t recurrent_bytes   = 0;  // states of recurrent layers, which no context size changes: not in the total
    uint64_t full_bytes        = 0;  // if every head with a gate kept every position, in f16 where a budget chose the types: what stock's cache takes, but for how it rounds windows
    uint32_t n_retrieval       = 0;  // KV heads over all layers
    uint32_t n_streaming       = 0;
    uint32_t n_windowed        = 0;  // of the model's own sliding windows, which have no gates
    uint32_t n_ctx_seq         = 0;  // cells of a retrieval head, one sequence
    uint32_t n_cells_streaming = 0;  // cells of a streaming head, one sequence: sinks + ring (0 where there is none); the most, where heads differ
    uint32_t n_cells_windowed  = 0;  // cells of a head of a sliding window
    uint32_t n_seq             = 0;  // sequences
    double   expected_loss     = -1; // of a budget's choice, in the unit of the pattern's losses; negative: not known
    int32_t  sink              = 0;  // what a streaming head sees; the most, where heads differ
    int32_t  recent            = 0;
    int32_t  chunk             = 0;
};

// Adds up the rows that a context of n_seq sequences of n_ctx_seq cells keeps, without recurrent states. config: null for stock.
duo_kv_size duo_kv_sizes(
        const llama_model & model, const duo_config * config, uint32_t n_ctx_seq, uint32_t n_seq, const duo_row_types & types);

// The sizes a context with these parameters would have. params.duo.enabled = false gives those of stock's standard
// cache, which knows no windows. Throws std::runtime_error with what
// llama_init_from_model would say: unsupported models, bad gates, bad sizes.
duo_kv_size duo_kv_size_for(const llama_model * model, const llama_context_params & params);

// The sizes of a context as allocated; of a stock context all heads count as retrieval heads.
duo_kv_size duo_kv_size_of(const llama_context * ctx);

// Where the gates of a context come from.
struct duo_pattern_origin {
    std::string name;       // a file or a metadata key; "": all heads are alike, which takes no gates
    std::string provenance; // the text of a JSON object; "": the pattern has none
};

bool duo_has_mixed_heads(const llama_context * ctx);

duo_pattern_origin duo_pattern_of(const llama_context * ctx);

// Cells that hold a token, of all sequences together. A cell is a head's place for the K and V of one token.
struct duo_cells {
    uint64_t retrieval = 0;
    uint64_t streaming = 0;
    uint64_t windowed  = 0;
};

// None where the context has no mixed heads. Nothing may be computing.
duo_cells duo_cells_held(const llama_context * ctx);
