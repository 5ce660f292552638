// Caches of any depth that nothing was computed for.
#pragma once

#include "ggml.h"
#include "llama.h"

#include <cstdint>
#include <string>

// n tokens of each of n_seq sequences from a position on, the output of each sequence's last asked for. To be freed.
llama_batch make_batch(int n, int position, int n_seq = 1, int first_seq = 0);

// Marks positions of every sequence up to the depth as held, and computes nothing: attention reads whatever rows the cache's cells have, and a recurrent
// state stays what it was.
void mark_held(llama_context * ctx, int depth, int n_seq = 1);

// Random rows of unit variance in all cells, for both kinds of caches: with no head streaming, the same ones for the same positions. Seconds for any size.
// The rows repeat every ROW_PERIOD cells; those of sliding windows, whose cells are used again in turn, as often as rings of both kinds are a multiple of.
void fill_rows(llama_context * ctx);
constexpr int ROW_PERIOD        = 256;
constexpr int WINDOW_ROW_PERIOD = 64;

// What depth adds to the attention of one more token of each sequence. The types are those of stock's cache: one of mixed heads knows its own.
struct attention_work {
    uint64_t bytes = 0; // of K and V rows, all sequences together
    double   flop  = 0; // of one sequence's token: a product with each key and one with each value
};
attention_work work_of(const llama_context * ctx, ggml_type type_k, ggml_type type_v, int depth);
