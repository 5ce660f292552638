// Mixed heads in whole models: against stock, against themselves when the prompt is cut differently, and what is refused.
#include "check.h"
#include "contexts.h"
#include "decode.h"
#include "random-model.h"

#include "duo-report.h"
#include "gate-pattern.h"
#include "mixed-attention.h"
#include "reference.h"
#include "llama-kv-cache-duo.h"
#include "llama-arch.h"
#include "llama-context.h"
#include "llama-model.h"
#include "llama.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace {

llama_context_params stock(ggml_type type_kv) { return stock_params(type_kv, 1024); }

llama_context_params duo(ggml_type type_kv, float sparsity, const char * gates = nullptr) {
    llama_context_params p = duo_params(type_kv, 1024, sparsity, gates);
    p.duo.sink   = 16;
    p.duo.recent = 48;
    return p;
}

context_ptr make_context(const llama_model_ptr_t & model, const llama_context_params & params) { return ::make_context(model.get(), params); }

struct shape { const char * name; int64_t n_head, n_head_kv; };

const shape shapes[] = { { "MHA", 4, 4 }, { "GQA 3", 9, 3 }, { "GQA 4", 8, 2 }, { "GQA 8", 16, 2 }, { "one KV head", 4, 1 } };

random_model_params model_params(const shape & s, ggml_type type = GGML_TYPE_F32) {
    random_model_params p;
    p.n_head    = s.n_head;
    p.n_head_kv = s.n_head_kv;
    p.head_size = 32;
    p.type      = type;
    p.seed      = fresh_seed();
    return p;
}

// No head streaming is stock; and windows as wide as the context change nothing either.
void test_against_stock() {
    for (const shape & s : shapes) {
        const random_model_params p = model_params(s);
        const auto model  = make_random_model(p);
        const auto tokens = random_tokens(300, p.n_vocab, fresh_seed());
        for (const auto & [type, bar] : std::map<ggml_type, double> { { GGML_TYPE_F32, 1e-5 }, { GGML_TYPE_F16, 1e-3 } }) {
            llama_context_params wide = duo(type, 1.0f);
            wide.duo.recent = 1024;
            std::vector<float> want;
            const auto ref = make_context(model, stock(type));
            CHECK_EQ(decode(ref.get(), tokens.data(), 280, 0, true, want), 0);
            for (int i = 280; i < 300; ++i) {
                CHECK_EQ(decode(ref.get(), tokens.data() + i, 1, i, true, want), 0);
            }
            for (const auto & params : { duo(type, 0.0f), wide }) {
                std::vector<float> found;
                const auto ctx = make_context(model, params);
                CHECK(ctx != nullptr);
                if (!ctx) {
                    continue;
                }
                CHECK_EQ(decode(ctx.get(), tokens.data(), 280, 0, true, found), 0);
                for (int i = 280; i < 300; ++i) {
                    CHECK_EQ(decode(ctx.get(), tokens.data() + i, 1, i, true, found), 0);
                }
                CHECK_EQ(found.size(), want.size());
                const double all   = relative(found, want);
                const double worst = worst_relative(found, want, p.n_vocab);
                printf("%-12s %s KV, %-27s %.2e from stock, worst token %.2e\n", s.name, ggml_type_name(type),
                        params.duo.sparsity > 0 ? "all streaming, wide window:" : "no head streaming:", all, worst);
                // with an f16 cache stock rounds queries and weights to f16 too; over 300 tokens of fresh random models one may stand out
                CHECK(all <= bar && worst <= (type == GGML_TYPE_F32 ? bar : 3 * bar));
            }
        }
    }
}

// Any head size, any number of query heads a KV head, with soft-capped scores and without.
void test_shapes() {
    struct sized { int64_t head_size, n_head, n_head_kv; float softcap; };
    for (const sized & z : { sized { 8, 6, 6, 0 }, { 24, 5, 1, 0 }, { 40, 9, 3, 5 }, { 72, 14, 2, 0 }, { 80, 16, 1, 5 }, { 112, 12, 4, 0 }, { 128, 8, 8, 5 }, { 256, 4, 2, 0 },
                             { 16, 71, 1, 0 }, { 36, 4, 2, 0 }, { 100, 8, 8, 0 }, { 2, 6, 3, 0 } }) {
        random_model_params p = model_params({ "", z.n_head, z.n_head_kv });
        p.n_layer   = 2;
        p.head_size = z.head_size;
        p.n_embd    = 192;
        const auto model = make_random_model(p);
        if (z.softcap != 0.0f) {
            // as gemma 2 has it, of which none is without sliding windows: there stock has nothing to scale, and without flash attention it would scale what is capped
            model->hparams.attn_soft_cap = true;
            model->hparams.f_attn_logit_softcapping = z.softcap;
            model->hparams.f_attention_scale = 1.0f;
        }
        const auto tokens = random_tokens(200, p.n_vocab, fresh_seed());
        auto logits = [&](const llama_context_params & params) {
            std::vector<float> out;
            const auto ctx = make_context(model, params);
            CHECK_EQ(decode(ctx.get(), tokens.data(), 190, 0, true, out), 0);
            for (int i = 190; i < 200; ++i) {
                CHECK_EQ(decode(ctx.get(), tokens.data() + i, 1, i, true, out), 0);
            }
            return out;
        };
        const double e = worst_relative(logits(duo(GGML_TYPE_F32, 0.0f)), logits(stock(GGML_TYPE_F32)), p.n_vocab);
        printf("heads of %d, %d over %d, soft-cap %g: worst token %.2e from stock\n", int(z.head_size), int(z.n_head), int(z.n_head_kv), z.softcap, e);
        CHECK(e <= 1e-5);
    }
}

// Every type of K with every type of V costs what it costs stock: the deviation from an f32 cache, and the bytes.
void test_cache_types() {
    random_model_params p = model_params(shapes[2]);
    p.n_layer   = 2;
    p.head_size = 64;
    const auto model  = make_random_model(p);
    const auto tokens = random_tokens(256, p.n_vocab, fresh_seed());
    auto logits = [&](llama_context_params params, ggml_type type_k, ggml_type type_v) {
        std::vector<float> out;
        params.type_k = type_k;
        params.type_v = type_v;
        params.n_threads = params.n_threads_batch = 1;
        const auto ctx = make_context(model, params);
        CHECK_EQ(decode(ctx.get(), tokens.data(), 256, 0, true, out), 0);
        if (params.duo.enabled) {
            const uint64_t row = ggml_row_size(type_k, p.head_size) + ggml_row_size(type_v, p.head_size);
            CHECK_EQ(duo_kv_size_of(ctx.get()).total_bytes, row * params.n_ctx * p.n_head_kv * p.n_layer);
        }
        return out;
    };
    llama_context_params flash = stock(GGML_TYPE_F32);
    flash.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED; // stock quantises V with flash attention only
    const auto exact = logits(stock(GGML_TYPE_F32), GGML_TYPE_F32, GGML_TYPE_F32);

    const ggml_type types[] = { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q5_1, GGML_TYPE_Q5_0, GGML_TYPE_Q4_1, GGML_TYPE_IQ4_NL, GGML_TYPE_Q4_0 };
    double worst = 0.0;
    for (const ggml_type k : types) {
        for (const ggml_type v : types) {
            const double own  = relative(logits(duo(GGML_TYPE_F32, 0.0f), k, v), exact);
            const double than = relative(logits(flash, k, v), exact);
            check::report(own <= 1.1 * than + 1e-5, __FILE__, __LINE__, std::string("a cache of ") + ggml_type_name(k) + " and " + ggml_type_name(v) + " costs no more than stock's",
                    check::text(own) + " from an f32 cache, stock " + check::text(than));
            worst = std::max(worst, own / than);
            if (k == v) {
                printf("%s K and V: %.2e from an f32 cache, stock %.2e\n", ggml_type_name(k), own, than);
            }
        }
    }
    printf("81 pairs of cache types: at most %.2f times stock's deviation from an f32 cache\n", worst);
}

// In a model of one layer a key depends on its token and position alone, so a streaming head is stock that has forgotten all but sinks and window.
void test_against_forgetful_stock() {
    random_model_params p = model_params(shapes[2]);
    p.n_layer = 1;
    const auto model  = make_random_model(p);
    const auto tokens = random_tokens(1000, p.n_vocab, fresh_seed());
    llama_context_params params = duo(GGML_TYPE_F32, 1.0f);
    params.n_ubatch = 64; // a ring of 240 cells: it goes round four times
    const auto ctx = make_context(model, params);
    const auto ref = make_context(model, stock(GGML_TYPE_F32));
    const int sink = params.duo.sink, recent = params.duo.recent;

    double worst = 0.0;
    int decoded = 0;
    for (const int at : { 10, 15, 16, 17, 63, 64, 65, 66, 239, 255, 256, 257, 500, 999 }) {
        std::vector<float> want, found;
        llama_memory_t mem = llama_get_memory(ref.get());
        prefill(ref.get(), std::vector<llama_token>(tokens.begin(), tokens.begin() + at), 512);
        if (at - recent > sink) {
            CHECK(llama_memory_seq_rm(mem, 0, sink, at - recent));
        }
        CHECK_EQ(decode(ref.get(), tokens.data() + at, 1, at, false, want), 0);
        if (at > decoded) {
            CHECK_EQ(decode(ctx.get(), tokens.data() + decoded, at - decoded, decoded, false, found), 0);
            found.clear();
        }
        CHECK_EQ(decode(ctx.get(), tokens.data() + at, 1, at, false, found), 0);
        decoded = at + 1;
        const double e = relative(found, want);
        worst = e <= worst ? worst : e;
    }
    printf("one layer, all heads streaming: %.2e from stock without what lies between sinks and window\n", worst);
    CHECK(worst <= 1e-5);
}

// How a prompt is cut does not matter, nor do threads: all tokens together, because how far one of them is off is chance.
void test_pieces() {
    // bar 0: 1.5 times stock's own deviation, which is about 1.1e-2 with quantised activations, and by chance half of that in some models. A 4-bit cache
    // turns a last bit that differs into another step, even another scale of a block, now and then.
    struct cased { ggml_type weights, kv; double bar; };
    for (const cased & c : { cased { GGML_TYPE_F32, GGML_TYPE_F32, 1e-5 }, cased { GGML_TYPE_F32, GGML_TYPE_F16, 1e-3 }, cased { GGML_TYPE_Q8_0, GGML_TYPE_F16, 0 },
                             cased { GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, 0 }, cased { GGML_TYPE_Q4_0, GGML_TYPE_F32, 0 }, cased { GGML_TYPE_F32, GGML_TYPE_Q4_0, 5e-2 } }) {
        random_model_params p = model_params(shapes[1], c.weights);
        p.head_size = 64;
        const auto model  = make_random_model(p);
        const auto tokens = random_tokens(600, p.n_vocab, fresh_seed());
        const auto gates  = random_gates(model.get(), fresh_seed());
        const auto params = duo(c.kv, 0.5f, gates.c_str());

        const auto ctx  = make_context(model, params);
        const auto want = prefill(ctx.get(), tokens, 512, true);
        for (const int piece : { 7, 64, 600 }) {
            for (const int n_threads : { 1, 2, 3 }) {
                llama_set_n_threads(ctx.get(), n_threads, n_threads);
                const auto found = prefill(ctx.get(), tokens, piece, true);
                CHECK(found.size() == want.size() && memcmp(found.data(), want.data(), want.size() * sizeof(float)) == 0);
            }
        }
        const double ones = relative(prefill(ctx.get(), tokens, 1, true), want);
        double bar = c.bar;
        if (bar == 0) {
            // stock's own deviation, with a cache that it keeps as it is
            const auto ref = make_context(model, stock(ggml_is_quantized(c.kv) ? GGML_TYPE_F32 : c.kv));
            const auto ref_want = prefill(ref.get(), tokens, 512, true);
            bar = 1.5 * std::max(1.1e-2, relative(prefill(ref.get(), tokens, 1, true), ref_want));
            if (ggml_is_quantized(c.kv)) {
                // a quantised cache rounds what differs in the last bit differently; stock's does too
                llama_context_params q = stock(c.kv);
                q.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
                const auto ref_q = make_context(model, q);
                const auto q_want = prefill(ref_q.get(), tokens, 512, true);
                bar = std::max(bar, 1.5 * relative(prefill(ref_q.get(), tokens, 1, true), q_want));
            }
        }
        printf("%s weights, %s KV: pieces of 7, 64 and 600 are bit-identical; of 1 %.2e, bar %.2e\n", ggml_type_name(c.weights), ggml_type_name(c.kv), ones, bar);
        CHECK(ones <= bar);
    }
}

// Bytes as reported, as planned, as allocated and as computed by hand.
void test_bytes() {
    const random_model_params p = model_params(shapes[1]);
    const auto model = make_random_model(p);
    const auto gates = random_gates(model.get(), fresh_seed());
    for (const ggml_type type : { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 }) {
        for (const uint32_t n_seq : { 1u, 3u }) {
            llama_context_params params = duo(type, 0.5f, gates.c_str());
            params.n_ctx     = 4096 * n_seq;
            params.n_seq_max = n_seq;
            const auto ctx = make_context(model, params);
            const duo_kv_size plan = duo_kv_size_for(model.get(), params);
            const duo_kv_size size = duo_kv_size_of(ctx.get());

            uint64_t tensors = 0;
            const auto * kv = static_cast<const llama_kv_cache_duo *>(ctx->get_memory());
            for (int il = 0; il < p.n_layer; ++il) {
                tensors += ggml_nbytes(kv->get_layer(il).k) + ggml_nbytes(kv->get_layer(il).v);
            }
            // 9 KV heads, of which ceil(8 * 0.5) stream; sinks and ring: 16 + 48 + 1 + 512 (padded to the sequences) + 64, a multiple of 64
            const uint64_t row  = 2 * ggml_row_size(type, p.head_size) * n_seq;
            const uint64_t ring = (16 + 48 + 1 + (512 + n_seq - 1) / n_seq * n_seq + 64 + 63) / 64 * 64;
            CHECK_EQ(size.n_streaming, 4u);
            CHECK_EQ(size.n_retrieval, 5u);
            CHECK_EQ(size.retrieval_bytes, 5 * 4096 * row);
            CHECK_EQ(size.streaming_bytes, 4 * ring * row);
            CHECK_EQ(size.total_bytes, tensors);
            CHECK_EQ(size.total_bytes, size.retrieval_bytes + size.streaming_bytes);
            CHECK_EQ(size.full_bytes, 9 * 4096 * row);
            CHECK_EQ(plan.total_bytes, size.total_bytes);
            CHECK_EQ(plan.full_bytes, size.full_bytes);

            params.duo = llama_duo_default_params();
            params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
            const auto full = make_context(model, params);
            CHECK_EQ(duo_kv_size_of(full.get()).total_bytes, size.full_bytes);
            CHECK_EQ(duo_kv_size_for(model.get(), params).total_bytes, size.full_bytes);
        }
    }
}

// K rows of some layers in a finer type: bytes are theirs, and with all layers so the finer type is all there is.
void test_finer_layers() {
    const random_model_params p = model_params(shapes[1]);
    const auto model = make_random_model(p);
    const auto gates = random_gates(model.get(), fresh_seed());
    std::vector<int32_t> layers(size_t(p.n_layer));
    std::iota(layers.begin(), layers.end(), 0);
    const auto finer_params = [&](ggml_type type_k, ggml_type finer, const std::vector<int32_t> & finer_layers) {
        llama_context_params params = duo(type_k, 0.5f, gates.c_str());
        params.type_v = GGML_TYPE_F16;
        params.duo.finer_k        = finer;
        params.duo.finer_layers   = finer_layers.data();
        params.duo.n_finer_layers = finer_layers.size();
        return params;
    };
    const auto tokens = random_tokens(300, p.n_vocab, fresh_seed());
    const auto logits = [&](const llama_context_params & params) {
        const auto ctx = make_context(model, params);
        std::vector<float> out;
        CHECK_EQ(decode(ctx.get(), tokens.data(), int(tokens.size()), 0, true, out), 0);
        return out;
    };
    CHECK(logits(finer_params(GGML_TYPE_Q4_0, GGML_TYPE_F16, layers)) == logits(finer_params(GGML_TYPE_F16, GGML_TYPE_F16, {})));

    const std::vector<int32_t> last = { int32_t(p.n_layer) - 1 };
    const auto some = finer_params(GGML_TYPE_Q4_0, GGML_TYPE_Q8_0, last);
    const auto ctx = make_context(model, some);
    const auto * kv = static_cast<const llama_kv_cache_duo *>(ctx->get_memory());
    uint64_t tensors = 0;
    for (int il = 0; il < p.n_layer; ++il) {
        CHECK(kv->get_layer(il).k->type == (il == last[0] ? GGML_TYPE_Q8_0 : GGML_TYPE_Q4_0));
        tensors += ggml_nbytes(kv->get_layer(il).k) + ggml_nbytes(kv->get_layer(il).v);
    }
    CHECK_EQ(duo_kv_size_for(model.get(), some).total_bytes, tensors);
    CHECK_EQ(duo_kv_size_of(ctx.get()).total_bytes, tensors);
    CHECK(logits(some) != logits(finer_params(GGML_TYPE_Q4_0, GGML_TYPE_Q8_0, {})));

    // a state goes where rows are alike, and nowhere else
    std::vector<float> unused;
    CHECK_EQ(decode(ctx.get(), tokens.data(), int(tokens.size()), 0, false, unused), 0);
    std::vector<uint8_t> state(llama_state_seq_get_size(ctx.get(), 0));
    CHECK_EQ(llama_state_seq_get_data(ctx.get(), state.data(), state.size(), 0), state.size());
    CHECK_EQ(llama_state_seq_set_data(make_context(model, some).get(), state.data(), state.size(), 0), state.size());
    CHECK_EQ(llama_state_seq_set_data(make_context(model, finer_params(GGML_TYPE_Q4_0, GGML_TYPE_Q8_0, { 0 })).get(), state.data(), state.size(), 0), size_t(0));

    for (const std::vector<int32_t> & wrong : { std::vector<int32_t> { -1 }, { 1, 1 }, { 1, 0 }, { 0, int32_t(p.n_layer) } }) {
        CHECK_THROWS(duo_kv_size_for(model.get(), finer_params(GGML_TYPE_Q4_0, GGML_TYPE_Q8_0, wrong)), std::runtime_error, "a layer of finer K rows is");
    }
}

// What each layer's operator was given and what it gave: [layer][position].
struct recorded {
    struct token { std::vector<float> q, k, v, out; };
    std::vector<std::map<int, token>> layers;
    int64_t head_size = 0, n_head = 0, n_head_kv = 0;

    static bool record(ggml_tensor * t, bool ask, void * data) {
        if (ask || t->op != GGML_OP_MIXED_ATTN) {
            return t->op == GGML_OP_MIXED_ATTN;
        }
        auto & r = *static_cast<recorded *>(data);
        const ggml_mixed_attn_sources s = ggml_mixed_attn_get_sources(t);
        const auto * at = static_cast<const int32_t *>(s.tokens->data);
        const auto row = [](const ggml_tensor * x, int64_t n, int64_t i) { return std::vector<float>((const float *) x->data + n * i, (const float *) x->data + n * (i + 1)); };
        r.head_size = s.q->ne[0];
        r.n_head    = s.q->ne[1];
        r.n_head_kv = s.heads->ne[1];
        for (int64_t i = 0; i < s.q->ne[2]; ++i) {
            r.layers[ggml_mixed_attn_get_params(t).layer][at[2 * i]] = {
                row(s.q, r.head_size * r.n_head, i), row(s.k, r.head_size * r.n_head_kv, i), row(s.v, r.head_size * r.n_head_kv, i), row(t, t->ne[0], i) };
        }
        return true;
    }
};

// A pattern of version 2: every streaming head sees its own window behind its layer's sinks, against float64 over masks by the pattern alone.
void test_windows() {
    random_model_params p = model_params(shapes[1]);
    p.n_layer = 3;
    const auto model  = make_random_model(p);
    const auto tokens = random_tokens(500, p.n_vocab, fresh_seed());
    std::mt19937_64 rng(fresh_seed());
    duo::gate_pattern pattern = duo::parse_gate_pattern(random_gates(model.get(), fresh_seed()), "random");
    for (int i = 0; i < 9; ++i) {
        pattern.windows.push_back(int32_t(rng() % 3 == 0 ? rng() % 3 : rng() % 200));
    }
    pattern.sinks  = { 0, int32_t(rng() % 40), 1 };
    pattern.sink   = 99; // which no layer has
    pattern.recent = 999;
    const std::string gates = duo::gate_pattern_to_json(pattern);

    llama_context_params params = duo_params(GGML_TYPE_F32, 1024, 0.5f, gates.c_str());
    params.n_ubatch = 32;
    recorded r;
    r.layers.resize(3);
    params.cb_eval = recorded::record;
    params.cb_eval_user_data = &r;
    const auto ctx = make_context(model, params);
    const auto logits = prefill(ctx.get(), std::vector<llama_token>(tokens.begin(), tokens.end() - 3), 64);
    for (int i = 497; i < 500; ++i) {
        std::vector<float> one;
        CHECK_EQ(decode(ctx.get(), tokens.data() + i, 1, i, false, one), 0);
    }

    std::vector<float> sorted = pattern.gates;
    std::sort(sorted.begin(), sorted.end());
    const float highest = sorted[3]; // of ceil(8 * 0.5) that stream; equal gates of random ones are taken in order
    int n_streaming = 0, n_checked = 0;
    uint64_t bytes = 0;
    double worst = 0.0;
    for (int il = 0; il < 3; ++il) {
        for (int h = 0; h < 3; ++h) {
            const bool streams = pattern.at(il, h) <= highest && n_streaming < 4;
            n_streaming += streams;
            bytes += streams ? 2 * 32 * sizeof(float) * ((pattern.sinks[il] + pattern.window(il, h) + 1 + 32 + 64 + 63) / 64 * 64) : 0;
            std::vector<std::vector<float>> k, v;
            for (const auto & [at, t] : r.layers[il]) {
                k.emplace_back(t.k.begin() + h * r.head_size, t.k.begin() + (h + 1) * r.head_size);
                v.emplace_back(t.v.begin() + h * r.head_size, t.v.begin() + (h + 1) * r.head_size);
            }
            for (const int at : { 0, 1, 40, 130, 300, 450, 496, 498, 499 }) {
                std::vector<uint8_t> visible;
                for (int j = 0; j <= at; ++j) {
                    visible.push_back(!streams || j < pattern.sinks[il] || j >= at - pattern.window(il, h));
                }
                const auto & t = r.layers[il].at(at);
                for (int q = 3 * h; q < 3 * h + 3; ++q) { // its query heads
                    const auto want = duo::reference_attention(t.q.data() + q * r.head_size, r.head_size, { k.begin(), k.begin() + at + 1 }, { v.begin(), v.begin() + at + 1 },
                            visible, 1.0 / std::sqrt(double(r.head_size)), 0.0);
                    const std::vector<float> want_f(want.begin(), want.end());
                    worst = std::max(worst, relative(t.out.data() + q * r.head_size, want_f.data(), want_f.size()));
                    n_checked++;
                }
            }
        }
    }
    const duo_kv_size size = duo_kv_size_of(ctx.get());
    CHECK_EQ(n_streaming, 4);
    CHECK_EQ(size.n_streaming, 4u);
    CHECK_EQ(size.streaming_bytes, bytes);
    CHECK_EQ(duo_kv_size_for(model.get(), params).streaming_bytes, bytes);
    printf("windows a head and sinks a layer: %d outputs at most %.2e from float64\n", n_checked, worst);
    CHECK(worst <= 1e-5);

    // a tail within the slack of every ring can be replaced
    llama_memory_t mem = llama_get_memory(ctx.get());
    CHECK(llama_memory_seq_rm(mem, 0, 436, -1));
    CHECK(!llama_memory_seq_rm(mem, 0, 100, -1));
    std::vector<float> again;
    CHECK_EQ(decode(ctx.get(), tokens.data() + 436, 61, 436, false, again), 0);
    CHECK(again == logits);

    // what is asked for goes before what the pattern has
    params.duo.recent = 48;
    params.duo.sink   = 16;
    const auto asked = make_context(model, params);
    pattern.windows.clear();
    pattern.sinks.clear();
    const std::string plain = duo::gate_pattern_to_json(pattern);
    params.duo.gates = plain.c_str();
    const auto same = make_context(model, params);
    CHECK_EQ(duo_kv_size_of(asked.get()).recent, 48);
    CHECK(prefill(asked.get(), tokens, 64) == prefill(same.get(), tokens, 64));
}

std::string last_error;

void keep_errors(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        last_error += text;
    }
}

// Every refusal names its reason, and comes before anything is allocated.
void test_refusals() {
    const random_model_params p = model_params(shapes[2]);
    const auto model = make_random_model(p);
    const std::string gates = random_gates(model.get(), fresh_seed());

    auto refused = [&](const llama_model_ptr_t & m, const llama_context_params & params, const char * reason) {
        last_error.clear();
        const auto ctx = make_context(m, params);
        CHECK(ctx == nullptr);
        if (last_error.find(reason) == std::string::npos) {
            check::report(false, __FILE__, __LINE__, std::string("refused with \"") + reason + "\"", "found " + last_error);
        }
    };
    auto with = [&](auto && change) {
        llama_context_params params = duo(GGML_TYPE_F16, 0.5f, gates.c_str());
        change(params);
        return params;
    };
    using params = llama_context_params;

    refused(model, with([](params & x) { x.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED; }), "flash attention is off");
    refused(model, with([](params & x) { x.attention_type = LLAMA_ATTENTION_TYPE_NON_CAUSAL; }), "not causal");
    refused(model, with([](params & x) { x.ctx_type = LLAMA_CONTEXT_TYPE_MTP; }), "multi-token prediction");
    refused(model, with([](params & x) { x.type_k = GGML_TYPE_Q2_K; }), "K cache type q2_K");
    refused(model, with([](params & x) { x.duo.gates = nullptr; }), "sparsity 0.5 needs gates");
    refused(model, with([](params & x) { x.duo.gates = nullptr; x.duo.sparsity = -1; x.duo.threshold = 0.5f; }), "needs gates");
    refused(model, with([](params & x) { x.duo.gates = "auto"; }), "the model has none");
    refused(model, with([](params & x) { x.duo.gates = "no/such/file.tsv"; }), "no/such/file.tsv");
    refused(model, with([](params & x) { x.duo.gates = "{\"llamaDuoPattern\":1,\"layers\":1,\"kvHeads\":1,\"gates\":[[0.5]]}"; }), "1 layers x 1");
    refused(model, with([](params & x) { x.duo.threshold = 0.5f; }), "give one");
    refused(model, with([](params & x) { x.duo.chunk = 0; }), "duo chunk is 0");
    refused(model, with([](params & x) { x.duo.sparsity = 1.5f; }), "duo sparsity is 1.5");
    refused(model, with([](params & x) { x.duo.recent = 2000000000; }), "cells");

    random_model_params small = p;
    small.head_size = 48;
    refused(make_random_model(small), with([](params & x) { x.duo.gates = nullptr; x.duo.sparsity = 0; x.type_v = GGML_TYPE_Q8_0; }), "head size 48");

    // what a model is: the reasons of every kind that llama.cpp knows, on a model made to look like one
    const llama_context_params plain = with([](params & x) { x.duo.gates = nullptr; x.duo.sparsity = 0; });
    auto unsupported = [&](const char * reason) {
        const std::string found = duo_unsupported(model.get(), plain);
        check::report(found.find(reason) != std::string::npos, __FILE__, __LINE__, std::string("unsupported: ") + reason, "found " + found);
        last_error.clear();
        CHECK(make_context(model, plain) == nullptr);
        CHECK(last_error.find(reason) != std::string::npos);
    };
    auto looks_like = [&](const char * reason, auto && change) {
        const llama_hparams before = model->hparams;
        change(model->hparams);
        unsupported(reason);
        model->hparams = before;
    };
    looks_like("ALiBi",              [](llama_hparams & h) { h.use_alibi = true; });
    looks_like("ALiBi",              [](llama_hparams & h) { h.f_max_alibi_bias = 8.0f; });
    looks_like("look ahead",         [](llama_hparams & h) { h.swa_type = LLAMA_SWA_TYPE_SYMMETRIC; });
    looks_like("MLA",                [](llama_hparams & h) { h.n_embd_head_k_mla_impl = h.n_embd_head_v_mla_impl = 32; });
    looks_like("router layer",       [](llama_hparams & h) { h.router_layer = 0; });
    looks_like("not causal",         [](llama_hparams & h) { h.causal_attn = false; });
    looks_like("no layers",          [](llama_hparams & h) { h.n_layer_nextn = h.n_layer_all; });
    looks_like("vocabulary only",    [](llama_hparams & h) { h.vocab_only = true; });
    for (const auto & [arch, reason] : std::map<llm_arch, const char *> {
            { LLM_ARCH_MAMBA, "recurrent" }, { LLM_ARCH_GEMMA4_ASSISTANT, "draft model" }, { LLM_ARCH_LLADA, "diffusion" }, { LLM_ARCH_T5, "encoder" },
            { LLM_ARCH_GROK, "without flash attention" }, { LLM_ARCH_EAGLE3, "draft model" }, { LLM_ARCH_BERT, "without a KV cache" },
            { LLM_ARCH_DEEPSEEK32, "a cache of its own" } }) {
        const llm_arch before = model->arch;
        model->arch = arch;
        unsupported(reason);
        model->arch = before;
    }
    CHECK_EQ(duo_unsupported(model.get(), plain), "");

    // not causal at run time
    const auto ctx = make_context(model, with([](params &) {}));
    const auto tokens = random_tokens(4, p.n_vocab, 1);
    std::vector<float> logits;
    llama_set_causal_attn(ctx.get(), false);
    CHECK(decode(ctx.get(), tokens.data(), 4, 0, false, logits) != 0);
    llama_set_causal_attn(ctx.get(), true);
    CHECK_EQ(decode(ctx.get(), tokens.data(), 4, 0, false, logits), 0);
}

} // namespace

int main() {
    llama_log_set(keep_errors, nullptr);
    llama_backend_init();
    test_against_stock();
    test_shapes();
    test_cache_types();
    test_against_forgetful_stock();
    test_pieces();
    test_bytes();
    test_finer_layers();
    test_windows();
    test_refusals();
    return check::result();
}
