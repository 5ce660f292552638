// What a graph with mixed heads is built from: one small input for all layers, and one operator a layer.
#pragma once

#include "llama-graph.h"

class llama_kv_cache_duo;

// Stands in for the standard cache's input, so every architecture that calls build_attn_inp_kv and build_attn has mixed heads.
class llm_graph_input_attn_duo : public llm_graph_input_attn_kv {
public:
    static std::unique_ptr<llm_graph_input_attn_duo> create(const llm_graph_context & graph);

    llm_graph_input_attn_duo(const llama_hparams & hparams, const llama_cparams & cparams, const llama_kv_cache_duo & kv) :
        llm_graph_input_attn_kv(hparams, cparams, nullptr), kv(kv) {}

    void set_input(const llama_ubatch * ubatch) override;

    bool can_reuse(const llm_graph_params & params) override;

    // q [head size, heads, tokens], k and v [head size, KV heads, tokens] -> [head size V * heads, tokens]
    ggml_tensor * build_attn(const llm_graph_context & graph, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, float kq_scale, int il) const;

private:
    ggml_tensor * tokens = nullptr; // [2, n_tokens] i32: position and stream

    int32_t n_seq_tokens = 0; // the most that one sequence has of them

    const llama_kv_cache_duo & kv;
};
