// What a graph with mixed heads is built from: one small input for all layers and one operator a layer, or ggml's own operators (duo-primitives.h) where a
// device lacks ours.
#pragma once

#include "llama-memory-recurrent.h"
#include "llama-graph.h"

#include <map>
#include <memory>

class duo_primitives_input;
class llama_kv_cache_duo;

// The recurrent part of a context with mixed heads.
const llama_memory_recurrent_context * duo_recurrent(const llama_memory_context_i * mctx);

// Which token is where: all that changes from one ubatch to the next.
class duo_graph_input {
public:
    duo_graph_input(const llm_graph_context & graph);
    ~duo_graph_input();

    void set(const llama_ubatch & ubatch) const;

    // Whether a ubatch fits the graph that this is in.
    bool fits(const llama_ubatch & ubatch) const;

    // q [head size, heads, tokens], k and v [head size, KV heads, tokens], or null where another layer stored them; sinks [heads], learned ones, or null
    // -> [head size V * heads, tokens]
    ggml_tensor * build_attn(
            const llm_graph_context & graph, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, ggml_tensor * sinks, float kq_scale, int il) const;

private:
    ggml_tensor * tokens; // [2, n_tokens] i32: ordinal in its sequence, and stream

    int32_t n_seq_tokens; // the most that one sequence has of them

    const llama_kv_cache_duo & kv;

    std::unique_ptr<duo_primitives_input> primitives; // null: they attend nowhere

    mutable std::map<ggml_backend_buffer_type_t, ggml_tensor *> indices; // the primitives', beside the caches
};

// Stands in for the input of a standard cache (llm_graph_input_attn_kv) or of one with sliding windows (llm_graph_input_attn_kv_iswa): so every architecture
// that builds its attention with these has mixed heads.
template <typename input>
class llm_graph_input_attn_duo : public input {
public:
    explicit llm_graph_input_attn_duo(const llm_graph_context & graph) : input(graph.hparams, graph.cparams, nullptr), duo(graph) {}

    void set_input(const llama_ubatch * ubatch) override { duo.set(*ubatch); }

    bool can_reuse(const llm_graph_params & params) override { return duo.fits(params.ubatch); }

    const duo_graph_input duo;
};

// Of an input that a context with mixed heads made.
template <typename input>
const duo_graph_input & duo_input(const input * inp) {
    return static_cast<const llm_graph_input_attn_duo<input> *>(inp)->duo;
}

// Stands in for the input of a memory with recurrent layers beside attention (llm_graph_input_mem_hybrid, or _iswa).
template <typename input, typename attn_input>
class llm_graph_input_mem_hybrid_duo : public input {
public:
    llm_graph_input_mem_hybrid_duo(const llm_graph_context & graph, std::unique_ptr<llm_graph_input_rs> inp_rs) :
        input(graph.cparams, std::make_unique<llm_graph_input_attn_duo<attn_input>>(graph), std::move(inp_rs), nullptr) {}

    void set_input(const llama_ubatch * ubatch) override {
        this->inp_attn->set_input(ubatch);
        this->inp_rs->set_input(ubatch);
    }

    bool can_reuse(const llm_graph_params & params) override {
        llm_graph_params recurrent = params;
        recurrent.mctx = duo_recurrent(params.mctx);
        return this->inp_attn->can_reuse(params) && this->inp_rs->can_reuse(recurrent);
    }
};
