// Changing what heads of a live context see, to measure how much they need it.
#pragma once

#include <cstdint>
#include <vector>

struct llama_context;

// From the next decode on, a head sees what a streaming head would: sinks, and windows[layer][KV head] recent keys; GGML_MIXED_ATTN_ALL: every key. All rows
// stay stored, so a head can be given its sight back, and any tail can be taken back exactly.
//
// Needs a context with mixed heads none of which streams (sparsity 0) and a table of the model's shape; throws std::runtime_error otherwise. Waits for what is
// being computed. Graphs stay valid: what a head is is data to them.
void duo_set_windows(llama_context * ctx, const std::vector<std::vector<int32_t>> & windows);
