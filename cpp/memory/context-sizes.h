// A context's sizes, checked where llama.cpp would assert.
#pragma once

struct llama_cparams;

// Throws std::runtime_error where llama_context's constructor would end the process: its first step reserves an output for every sequence, and a batch has
// to have room for them. Needs n_seq_max and n_outputs_max; called for every context, with mixed heads and without.
void check_context_sizes(const llama_cparams & cparams);
