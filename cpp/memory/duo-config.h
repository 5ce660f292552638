// Mixed heads of one context, resolved: which heads stream and how far they see.
#pragma once

#include "duo-row-types.h"
#include "duo-support.h"

#include "head-selection.h"

#include "ggml.h"

#include <cstdint>
#include <string>
#include <vector>

struct llama_cparams;
struct llama_model;
struct llama_context_params;
struct llama_memory_i;

// What the KV heads of one layer see.
struct duo_layer {
    std::vector<int32_t> recent; // [n_head_kv] keys before the query's chunk; GGML_MIXED_ATTN_ALL: every key. None: no attention, or no cache of its own

    int32_t  sink      = 0;      // first keys, that every head sees
    int32_t  chunk     = 1;      // windows move in steps of this many positions
    bool     windowed  = false;  // it has the model's own sliding window: none of its heads has a gate
    uint32_t stored_by = 0;      // the layer whose rows it attends to: itself, or an earlier one
};

// Types of rows are what the context was asked for, or what a budget has chosen.
struct duo_config : duo_row_types {
    std::vector<duo_layer> layers; // [n_layer]

    // Which heads of the layers that see the whole context stream; a layer with a window of the model's own, or without attention, has no heads here.
    duo::head_selection heads;

    // Where the gates come from, and what is said of them: a file or a metadata key, and the text of a JSON object. "": none.
    std::string pattern;
    std::string provenance;

    bool by_budget = false; // that chose types, heads and windows

    // What a budget's choice is expected to lose, in the unit of the pattern's losses; negative: nothing was measured, or no budget given.
    double expected_loss = -1;

    // Streaming heads': the most that any of them sees, where a pattern has windows and sinks of its own. A windowed head of a calibration sees that.
    int32_t sink;
    int32_t recent;
    int32_t chunk;

    // A tail of this many positions can be taken back and decoded again exactly: their rings keep what a rollback uncovers.
    // 64 is more than any draft llama.cpp's speculative decoding proposes by default (16), at 64 cells a streaming head; beside recurrent layers no more than
    // their own states can, which each position of it multiplies.
    uint32_t rollback;

    // As in llama_duo_params.
    bool operator_only = false;

    // The model has recurrent layers, too, whose states cannot go back to just any position.
    bool recurrent = false;

    // Tokens that are stored before any of them attends.
    uint32_t n_ubatch;

    // Cells of a head that does not see everything: sinks, and a ring so long that a ubatch can be stored whole and rolled back. A multiple of 64, so that a
    // kernel can copy whole blocks. A context has no more of them than it has positions.
    int64_t n_cells(const duo_layer & layer, int32_t recent) const;
};

// Whether a layer attends, alone or beside a recurrent part: as the layer filters of llama_model::create_memory have it.
bool duo_attends(const llama_model & model, uint32_t il);

// Whether a layer has a recurrent state, alone or beside attention.
bool duo_recurs(const llama_model & model, uint32_t il);

// How many KV heads of each layer have a gate: those of layers that see the whole context and store rows of their own. None in layers with a window of the
// model's own, without attention, or that attend to another's rows. [n_layer]
std::vector<int32_t> duo_gated_heads(const llama_model & model);

// Sets cparams.duo, and what follows from it: sequences keep streams of their own (kv_unified), and stock code may roll back (n_rs_seq).
// Does nothing unless params.duo.enabled. Needs cparams.n_ubatch and n_seq_max. Throws std::runtime_error for bad gates and sizes, and, enabled or not, for a
// context that would read the cache of another with mixed heads.
void duo_init_cparams(llama_cparams & cparams, const llama_model & model, const llama_context_params & params);

// How many more nodes a graph may have than one of stock's.
uint32_t duo_graph_nodes(const llama_cparams & cparams);

// Throws std::runtime_error where a context that was promised mixed heads was given another memory: the graph would take it for the mixed-head cache.
void duo_check_memory(const llama_cparams & cparams, const llama_memory_i * memory);
