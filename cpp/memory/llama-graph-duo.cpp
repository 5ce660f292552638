#include "llama-graph-duo.h"

#include "duo-primitives.h"

#include "llama-impl.h"
#include "llama-memory-hybrid-duo.h"
#include "llama-model.h"
#include "mixed-attention.h"

#include <algorithm>
#include <cstring>

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

// Of each token, its ordinal and its stream. None where a graph is reserved, for nothing is computed then.
static std::vector<int32_t> places(const llama_kv_cache_duo & kv, const llama_ubatch & ubatch) {
    std::vector<int32_t> result;
    if (kv.get_ordinals().size() != ubatch.n_tokens) {
        return result;
    }
    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        result.push_back(kv.get_ordinals()[i]);
        result.push_back(ubatch.seq_id[i][0]);
    }
    return result;
}

// What the graph of a ubatch is built for, where ggml's own operators attend.
static duo_primitives_input::size primitives_size(const llama_kv_cache_duo & kv, const llama_ubatch & ubatch) {
    const int64_t n_seq = ubatch.equal_seqs() ? ubatch.n_seqs : 1; // all of a cache with one sequence are its
    return duo_primitives_input::size_of(places(kv, ubatch), n_seq, ubatch.n_tokens / n_seq, kv.attn_params(0, 1.0f).n_ctx);
}

duo_graph_input::duo_graph_input(const llm_graph_context & graph) :
    tokens(ggml_new_tensor_2d(graph.ctx0, GGML_TYPE_I32, 2, graph.ubatch.n_tokens)),
    n_seq_tokens(max_seq_tokens(graph.ubatch)),
    kv(cache_of(graph.mctx)) {
    ggml_set_input(tokens);
    ggml_set_name(tokens, "duo_inp_tokens");
    if (!kv.get_primitives().layers.empty()) {
        primitives = std::make_unique<duo_primitives_input>(graph.ctx0, kv.get_primitives(), primitives_size(kv, graph.ubatch));
    }
}

duo_graph_input::~duo_graph_input() = default;

void duo_graph_input::set(const llama_ubatch & ubatch) const {
    const std::vector<int32_t> data = places(kv, ubatch);
    if (tokens->buffer) {
        GGML_ASSERT(data.size() == 2 * ubatch.n_tokens);
        memcpy(tokens->data, data.data(), ggml_nbytes(tokens));
    }
    if (primitives) {
        primitives->set(data);
    }
}

bool duo_graph_input::fits(const llama_ubatch & ubatch) const {
    // to our operator ordinals and streams are data: any ubatch of as many tokens fits the graph
    return tokens->ne[1] == ubatch.n_tokens && n_seq_tokens == max_seq_tokens(ubatch) &&
           (!primitives || primitives->get_size() == primitives_size(kv, ubatch));
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

    q = rows(q, layer.k->ne[0], layer.rot_k);
    k = rows(k, layer.k->ne[0], layer.rot_k);
    v = rows(v, layer.v->ne[0], layer.rot_v);

    ggml_mixed_attn_params params = kv.attn_params(il, kq_scale);
    params.max_seq_tokens = n_seq_tokens;

    const auto compute = [&](ggml_tensor * t) {
        ggml_backend_sched_set_tensor_backend(graph.sched, t, cache_backend(graph, t, layer.k));
        ggml_build_forward_expand(graph.gf, t);
    };
    ggml_tensor * cur;
    if (const int32_t i = kv.i_primitives(il); i >= 0) {
        // each device takes one copy of the indices: as inputs, their views would be copied one by one
        ggml_tensor *& ids = indices[ggml_backend_buffer_get_type(layer.k->buffer)];
        if (!ids && ggml_backend_buffer_is_host(layer.k->buffer)) {
            ids = primitives->indices();
        } else if (!ids) {
            ids = ggml_cont(graph.ctx0, primitives->indices());
            compute(ids);
        }
        cur = primitives->build(graph.ctx0, compute, ids, i, { q, k, v, layer.k, layer.v, sinks }, params.scale, params.softcap);
    } else {
        cur = ggml_mixed_attn(graph.ctx0, q, k, v, layer.k, layer.v, tokens, layer.heads, sinks, params);
        compute(cur);
    }

    // a Hadamard matrix is its own inverse
    return layer.rot_v ? llama_mul_mat_hadamard(graph.ctx0, cur, layer.rot_v) : cur;
}
