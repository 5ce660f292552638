// A context's sizes, checked where llama.cpp would assert.
#pragma once

struct llama_cparams;

// Throws std::runtime_error where llama.cpp would end the process: in a context's constructor, whose first step reserves an output for every sequence, so that a
// batch has to have room for them; at the first batch, where recurrent states are to go back further than a ubatch of theirs has tokens. Needs n_seq_max,
// n_outputs_max, n_rs_seq and n_ubatch; called for every context, with mixed heads and without.
void check_context_sizes(const llama_cparams & cparams);
