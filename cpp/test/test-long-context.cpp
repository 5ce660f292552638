// A context of a million tokens, of which half of the heads stream: its memory as computed, allocated and filled, and one token decoded over it.
// The shape is SmolLM2-135M's where the cache is concerned (30 layers, 9 heads over 3 KV heads, head size 64); what the cache does not see is smaller.
#include "check.h"
#include "contexts.h"
#include "decode.h"
#include "random-model.h"

#include "duo-report.h"
#include "llama-batch.h"
#include "llama-context.h"
#include "llama-ext.h"
#include "llama-kv-cache-duo.h"
#include "llama-model.h"
#include "llama.h"
#include "mixed-attention.h"
#include "reference.h"
#include "visibility.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr int n_tokens = 1000000;
constexpr int n_checked[] = { 0, 13, 29 }; // layers whose attention is computed again in float64

// Every other KV head streams.
std::string alternate_gates(const random_model_params & p) {
    duo::gate_pattern pattern;
    pattern.n_layer   = int32_t(p.n_layer);
    pattern.n_head_kv = int32_t(p.n_head_kv);
    for (int i = 0; i < p.n_layer * p.n_head_kv; ++i) {
        pattern.gates.push_back(i % 2 ? 0.0f : 1.0f);
    }
    return duo::gate_pattern_to_json(pattern);
}

// Random rows in all cells: a few MB of them, over and over, so that no page is left untouched.
void fill(const llama_kv_cache_duo & kv, int n_layer) {
    std::mt19937_64 rng(fresh_seed());
    std::vector<float> values(16381 * 64); // a prime number of rows: heads are not alike
    for (float & x : values) {
        x = float(rng() >> 40) * 0x1p-22f - 2.0f;
    }
    for (int il = 0; il < n_layer; ++il) {
        for (ggml_tensor * t : { kv.get_layer(il).k, kv.get_layer(il).v }) {
            std::vector<uint8_t> rows(values.size() / t->ne[0] * t->nb[1]);
            ggml_quantize_chunk(t->type, values.data(), rows.data(), 0, values.size() / t->ne[0], t->ne[0], nullptr);
            for (size_t at = 0; at < ggml_nbytes(t); at += rows.size()) {
                memcpy((char *) t->data + at, rows.data(), std::min(rows.size(), ggml_nbytes(t) - at));
            }
        }
    }
}

// Marks positions as held without computing anything.
void hold(llama_context * ctx, int n) {
    for (int p = 0; p < n;) {
        const int piece = std::min(100000, n - p);
        llama_batch batch = llama_batch_init(piece, 0, 1);
        batch.n_tokens = piece;
        for (int i = 0; i < piece; ++i) {
            batch.token[i]     = 0;
            batch.pos[i]       = p + i;
            batch.n_seq_id[i]  = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i]    = false;
        }
        llama_batch_allocr balloc(1);
        CHECK(balloc.init(batch, ctx->get_model().vocab, ctx->get_memory(), ctx->get_model().hparams.n_embd, 1, false));
        const auto mctx = ctx->get_memory()->init_batch(balloc, piece, false);
        CHECK_EQ(mctx->get_status(), LLAMA_MEMORY_STATUS_SUCCESS);
        do {
            mctx->apply();
        } while (mctx->next());
        llama_batch_free(batch);
        p += piece;
    }
}

// What the operator of the checked layers was given, and what it gave.
struct watched {
    struct layer { std::vector<float> q, out; ggml_mixed_attn_params params; std::vector<ggml_mixed_attn_head> heads; };
    std::vector<layer> layers;
    int n_seen = 0;
};

bool watch(ggml_tensor * t, bool ask, void * data) {
    watched & w = *(watched *) data;
    if (t->op != GGML_OP_MIXED_ATTN) {
        return false;
    }
    if (ask) {
        const int il = w.n_seen++;
        return std::find(std::begin(n_checked), std::end(n_checked), il) != std::end(n_checked);
    }
    watched::layer l;
    const ggml_mixed_attn_sources s = ggml_mixed_attn_get_sources(t);
    l.q.resize(ggml_nelements(s.q));
    l.out.resize(ggml_nelements(t));
    l.heads.resize(s.heads->ne[1]);
    ggml_backend_tensor_get(s.q, l.q.data(), 0, ggml_nbytes(s.q));
    ggml_backend_tensor_get(t, l.out.data(), 0, ggml_nbytes(t));
    ggml_backend_tensor_get(s.heads, l.heads.data(), 0, ggml_nbytes(s.heads));
    l.params = ggml_mixed_attn_get_params(t);
    w.layers.push_back(l);
    return true;
}

// Softmax attention of the query at the position over the rows that it sees, in float64. Scores are small enough for no maximum to be taken out.
std::vector<double> attention(const llama_kv_cache_duo::layer & cache, const watched::layer & l, int head, int n_group, int position) {
    const ggml_mixed_attn_params & p = l.params;
    const int64_t dk = cache.k->ne[0], dv = cache.v->ne[0];
    const ggml_mixed_attn_head & h = l.heads[head / n_group];
    const std::vector<double> q = duo::reference_rotation(l.q.data() + head * dk, dk, p.rotation_k);
    std::vector<float>  k(dk), v(dv);
    std::vector<double> sum(dv);
    double weights = 0.0;
    for (int64_t j = 0; j <= position; ++j) {
        if (j >= p.sink && j < duo_window_begin(position, h.recent, p.chunk)) {
            continue;
        }
        const int64_t row = h.first_row + duo_ring_cell(j, p.sink, h.ring);
        ggml_get_type_traits(cache.k->type)->to_float((const char *) cache.k->data + row * cache.k->nb[1], k.data(), dk);
        ggml_get_type_traits(cache.v->type)->to_float((const char *) cache.v->data + row * cache.v->nb[1], v.data(), dv);
        double score = 0.0;
        for (int64_t d = 0; d < dk; ++d) {
            score += q[d] * k[d];
        }
        const double weight = std::exp(score * p.scale);
        weights += weight;
        for (int64_t d = 0; d < dv; ++d) {
            sum[d] += weight * v[d];
        }
    }
    for (double & x : sum) {
        x /= weights;
    }
    return duo::reference_rotation(sum.data(), dv, p.rotation_v);
}

} // namespace

int main() {
    llama_log_set([](ggml_log_level level, const char * text, void *) { if (level == GGML_LOG_LEVEL_ERROR) { fputs(text, stderr); } }, nullptr);
    llama_backend_init();

    random_model_params p;
    p.n_layer   = 30;
    p.n_head    = 9;
    p.n_head_kv = 3;
    p.n_ff      = 192;
    p.n_ctx     = 1 << 20;
    p.type      = GGML_TYPE_Q8_0;
    const auto model = make_random_model(p);
    const std::string gates = alternate_gates(p);

    watched w;
    llama_context_params params = duo_params(GGML_TYPE_Q4_0, n_tokens + 1, 0.5f, gates.c_str());
    params.n_batch = 2048;
    params.cb_eval           = watch;
    params.cb_eval_user_data = &w;

    // as computed: by hand (a q4_0 block is 18 bytes for 32 values), and by the report
    const uint64_t n_ctx = (n_tokens + 1 + 255) / 256 * 256; // llama.cpp's padding
    const uint64_t ring  = (64 + 256 + 1 + 512 + 64 + 63) / 64 * 64;
    const uint64_t row   = 2 * 2 * 18;
    const duo_kv_size plan = duo_kv_size_for(model.get(), params);
    CHECK_EQ(plan.n_retrieval, 45u);
    CHECK_EQ(plan.n_streaming, 45u);
    CHECK_EQ(plan.total_bytes, 45 * row * (n_ctx + ring));

    // as allocated
    const auto ctx = make_context(model.get(), params);
    CHECK(ctx != nullptr);
    if (!ctx) {
        return check::result();
    }
    const auto & kv = *static_cast<const llama_kv_cache_duo *>(ctx->get_memory());
    const duo_kv_size size = duo_kv_size_of(ctx.get());
    const auto memory = llama_get_memory_breakdown(ctx.get()).at(ggml_backend_cpu_buffer_type());
    CHECK_EQ(size.total_bytes, plan.total_bytes);
    CHECK(memory.context >= size.total_bytes && memory.context < size.total_bytes + 65536);

    // as filled
    fill(kv, int(p.n_layer));
    hold(ctx.get(), n_tokens);
    CHECK_EQ(llama_memory_seq_pos_max(llama_get_memory(ctx.get()), 0), n_tokens - 1);

    std::vector<float> logits;
    const llama_token token = 7;
    CHECK_EQ(decode(ctx.get(), &token, 1, n_tokens, false, logits), 0);
    CHECK(std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); }));

    double worst = 0.0;
    CHECK_EQ(w.n_seen, int(p.n_layer));
    CHECK_EQ(w.layers.size(), std::size(n_checked));
    for (size_t i = 0; i < w.layers.size(); ++i) {
        for (int h = 0; h < p.n_head; ++h) {
            const auto want = attention(kv.get_layer(n_checked[i]), w.layers[i], h, int(p.n_head / p.n_head_kv), n_tokens);
            double diff = 0.0, norm = 0.0;
            for (int d = 0; d < p.head_size; ++d) {
                const double e = w.layers[i].out[h * p.head_size + d] - want[d];
                diff += e * e;
                norm += want[d] * want[d];
            }
            const double e = std::sqrt(diff / norm);
            worst = e <= worst ? worst : e;
        }
    }
    CHECK(worst <= 1e-5);

    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("a context of %d tokens, half of the heads streaming, q4_0: %.0f bytes of rows computed and allocated (every head full: %.0f; in f16: %.0f), "
            "%zu with head maps, %zu of graph buffers, %.2f GB resident at most\n",
            n_tokens, double(size.total_bytes), double(size.full_bytes), double(size.full_bytes) / row * 256, memory.context, memory.compute, usage.ru_maxrss / 1e6 * 1.024);
    printf("one token decoded over it: attention %.1e from float64\n", worst);
    CHECK(usage.ru_maxrss * 1024.0 > size.total_bytes); // it really was filled
    return check::result();
}
