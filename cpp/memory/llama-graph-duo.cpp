#include "llama-graph-duo.h"

#include "llama-impl.h"
#include "llama-memory-hybrid-duo.h"
#include "llama-model.h"
#include "mixed-attention.h"

#include <algorithm>
#include <map>

// The most tokens that one sequence has in the ubatch.
static int32_t max_seq_tokens(const llama_ubatch & ubatch) {
    if (ubatch.equal_seqs()) { // as where a graph is reserved, which names no sequences
        return ubatch.n_seq_tokens;
    }
    int32_t most = 0;
    std::map<llama_seq_id, int32_t> n_tokens;
    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        most = std::max(most, ++n_tokens[ubatch.seq_id[i][0]]);
    }
    return most;
}

const llama_memory_recurrent_context * duo_recurrent(const llama_memory_context_i * mctx) {
    return static_cast<const llama_memory_hybrid_duo_context *>(mctx)->get_recr();
}

static const llama_kv_cache_duo & cache_of(const llama_memory_context_i * mctx) {
    const auto * hybrid = dynamic_cast<const llama_memory_hybrid_duo_context *>(mctx);
    return hybrid ? hybrid->get_kv() : static_cast<const llama_kv_cache_duo_context *>(mctx)->get_kv();
}

duo_graph_input::duo_graph_input(const llm_graph_context & graph) :
    tokens(ggml_new_tensor_2d(graph.ctx0, GGML_TYPE_I32, 2, graph.ubatch.n_tokens)),
    n_seq_tokens(max_seq_tokens(graph.ubatch)),
    kv(cache_of(graph.mctx)) {
    ggml_set_input(tokens);
    ggml_set_name(tokens, "duo_inp_tokens");
}

void duo_graph_input::set(const llama_ubatch & ubatch) const {
    if (tokens->buffer) {
        int32_t * data = (int32_t *) tokens->data;
        for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
            data[2 * i]     = kv.get_ordinals()[i];
            data[2 * i + 1] = ubatch.seq_id[i][0];
        }
    }
}

bool duo_graph_input::fits(const llama_ubatch & ubatch) const {
    // ordinals and streams are data: any ubatch of as many tokens fits the graph
    return tokens->ne[1] == ubatch.n_tokens && n_seq_tokens == max_seq_tokens(ubatch);
}

// The backend that computes on the layer's cache. The operator writes the cache, so it must not be computed on a copy.
static ggml_backend_t cache_backend(const llm_graph_context & graph, const ggml_tensor * op, const ggml_tensor * cache) {
    for (int i = 0; i < ggml_backend_sched_get_n_backends(graph.sched); ++i) {
        ggml_backend_t backend = ggml_backend_sched_get_backend(graph.sched, i);
        if (ggml_backend_supports_buft(backend, ggml_backend_buffer_get_type(cache->buffer)) && ggml_backend_supports_op(backend, op)) {
            return backend;
        }
    }
    return graph.backend_cpu;
}

ggml_tensor * duo_graph_input::build_attn(
        const llm_graph_context & graph, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, ggml_tensor * sinks, float kq_scale, int il) const {
    const auto & layer = kv.get_layer(il);

    // a fused QKV projection leaves strided views, and some models' V has all heads in one row (plm)
    auto rows = [&](ggml_tensor * t, int64_t head_size, ggml_tensor * rotation) -> ggml_tensor * {
        if (!t) {
            return nullptr;
        }
        t = rotation ? llama_mul_mat_hadamard(graph.ctx0, t, rotation) : ggml_is_contiguous(t) ? t : ggml_cont(graph.ctx0, t);
        return ggml_reshape_3d(graph.ctx0, t, head_size, ggml_nelements(t) / (head_size * graph.ubatch.n_tokens), graph.ubatch.n_tokens);
    };

    ggml_mixed_attn_params params = kv.attn_params(il, kq_scale);
    params.max_seq_tokens = n_seq_tokens;

    ggml_tensor * cur = ggml_mixed_attn(graph.ctx0,
            rows(q, layer.k->ne[0], layer.rot_k), rows(k, layer.k->ne[0], layer.rot_k), rows(v, layer.v->ne[0], layer.rot_v),
            layer.k, layer.v, tokens, layer.heads, sinks, params);
    ggml_backend_sched_set_tensor_backend(graph.sched, cur, cache_backend(graph, cur, layer.k));
    ggml_build_forward_expand(graph.gf, cur);

    // a Hadamard matrix is its own inverse
    return layer.rot_v ? llama_mul_mat_hadamard(graph.ctx0, cur, layer.rot_v) : cur;
}
