#include "llama-graph-duo.h"

#include "llama-kv-cache-duo.h"
#include "llama-model.h"
#include "mixed-attention.h"

#include <algorithm>
#include <cstring>
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

std::unique_ptr<llm_graph_input_attn_duo> llm_graph_input_attn_duo::create(const llm_graph_context & graph) {
    const auto & kv  = static_cast<const llama_kv_cache_duo_context *>(graph.mctx)->get_kv();
    auto         inp = std::make_unique<llm_graph_input_attn_duo>(graph.hparams, graph.cparams, kv);

    auto new_input = [&](ggml_type type, int64_t ne0, int64_t ne1, const char * name) {
        ggml_tensor * t = ggml_new_tensor_2d(graph.ctx0, type, ne0, ne1);
        ggml_set_input(t);
        ggml_set_name(t, name);
        return t;
    };

    inp->n_seq_tokens = max_seq_tokens(graph.ubatch);
    inp->tokens       = new_input(GGML_TYPE_I32, 2, graph.ubatch.n_tokens, "duo_inp_tokens");
    if (const int64_t n = kv.rotation_k().n) {
        inp->self_k_rot = new_input(GGML_TYPE_F32, n, n, "attn_inp_k_rot");
    }
    if (const int64_t n = kv.rotation_v().n) {
        inp->self_v_rot = new_input(GGML_TYPE_F32, n, n, "attn_inp_v_rot");
    }
    return inp;
}

void llm_graph_input_attn_duo::set_input(const llama_ubatch * ubatch) {
    if (tokens->buffer) {
        int32_t * data = (int32_t *) tokens->data;
        for (uint32_t i = 0; i < ubatch->n_tokens; ++i) {
            data[2 * i]     = ubatch->pos[i];
            data[2 * i + 1] = ubatch->seq_id[i][0];
        }
    }
    auto set_rotation = [](ggml_tensor * t, const llama_kv_cache_duo::rotation & rot) {
        if (t && t->buffer) {
            memcpy(t->data, rot.matrix.data(), ggml_nbytes(t));
        }
    };
    set_rotation(self_k_rot, kv.rotation_k());
    set_rotation(self_v_rot, kv.rotation_v());
}

bool llm_graph_input_attn_duo::can_reuse(const llm_graph_params & params) {
    // positions and streams are data: any ubatch of as many tokens fits the graph
    return tokens->ne[1] == params.ubatch.n_tokens && n_seq_tokens == max_seq_tokens(params.ubatch);
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

ggml_tensor * llm_graph_input_attn_duo::build_attn(
        const llm_graph_context & graph, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, float kq_scale, int il) const {
    const auto & layer = kv.get_layer(il);

    // a fused QKV projection leaves strided views, and some models' V has all heads in one row (plm)
    auto rows = [&](ggml_tensor * t, int64_t head_size) {
        t = ggml_is_contiguous(t) ? t : ggml_cont(graph.ctx0, t);
        return ggml_reshape_3d(graph.ctx0, t, head_size, ggml_nelements(t) / (head_size * graph.ubatch.n_tokens), graph.ubatch.n_tokens);
    };

    ggml_mixed_attn_params params = kv.attn_params(il, kq_scale);
    params.max_seq_tokens = n_seq_tokens;

    ggml_tensor * cur = ggml_mixed_attn(graph.ctx0,
            rows(q, layer.k->ne[0]), rows(k, layer.k->ne[0]), rows(v, layer.v->ne[0]), layer.k, layer.v, tokens, layer.heads, layer.counters, params);
    ggml_backend_sched_set_tensor_backend(graph.sched, cur, cache_backend(graph, cur, layer.k));
    ggml_build_forward_expand(graph.gf, cur);
    return cur;
}
