// Mixed heads of one context, resolved: which heads stream and how far they see.
#pragma once

#include "duo-support.h"

#include "head-selection.h"

#include <cstdint>

struct llama_cparams;
struct llama_model;
struct llama_context_params;
struct llama_memory_i;

struct duo_config {
    duo::head_selection heads;

    int32_t sink;
    int32_t recent;
    int32_t chunk;

    // A tail of this many positions can be taken back and decoded again exactly: their rings keep what a rollback uncovers.
    // 64 is more than any draft llama.cpp's speculative decoding proposes by default (16), at 64 cells a streaming head.
    uint32_t rollback;

    // Cells after the sinks so that a ubatch can be stored whole before any of its tokens attends.
    uint32_t ring;

    // Cells of a streaming head: sinks and ring, a multiple of 64 so that a kernel can copy whole blocks; never more than a retrieval head's.
    uint32_t n_cells_streaming(uint32_t n_ctx_seq) const;
};

// Sets cparams.duo, and what follows from it: sequences keep streams of their own (kv_unified), and stock code may roll back (n_rs_seq).
// Does nothing unless params.duo.enabled. Needs cparams.n_ubatch and n_seq_max. Throws std::runtime_error for bad gates and sizes.
void duo_init_cparams(llama_cparams & cparams, const llama_model & model, const llama_context_params & params);

// Throws std::runtime_error where a context that was promised mixed heads was given another memory: the graph would take it for the mixed-head cache.
void duo_check_memory(const llama_cparams & cparams, const llama_memory_i * memory);
