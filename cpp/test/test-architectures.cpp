// Mixed heads on every architecture that llama.cpp gives its standard cache: against stock, and against themselves when the prompt is cut differently.
#include "architectures.h"
#include "check.h"
#include "contexts.h"
#include "decode.h"
#include "random-model.h"

#include "duo-report.h"
#include "llama-arch.h"
#include "llama-model.h"
#include "llama.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <set>
#include <string>
#include <vector>

namespace {

constexpr int n_ctx    = 768;
constexpr int n_prompt = 280;
constexpr int n_single = 20; // then one by one

// Models this small are done sooner by one thread than by two that wait for each other.
llama_context_params one_thread(llama_context_params p) {
    p.n_threads = p.n_threads_batch = 1;
    return p;
}

llama_context_params stock(ggml_type type_kv) { return one_thread(stock_params(type_kv, n_ctx)); }

llama_context_params duo(ggml_type type_kv, float sparsity, const char * gates = nullptr) {
    llama_context_params p = one_thread(duo_params(type_kv, n_ctx, sparsity, gates));
    p.duo.sink   = 16;
    p.duo.recent = 48;
    return p;
}

std::string errors; // what llama.cpp logged

// A model suppresses the logits of tokens that it must not answer with (chameleon: those of a ubatch's first token).
bool suppressed(float logit) { return logit < -1e30f; }

std::vector<float> logits_of(llama_model * model, const llama_context_params & params, const std::vector<llama_token> & tokens) {
    std::vector<float> logits;
    const auto ctx = make_context(model, params);
    CHECK(ctx != nullptr);
    if (ctx) {
        CHECK_EQ(decode(ctx.get(), tokens.data(), n_prompt, 0, true, logits), 0);
        for (int i = n_prompt; i < n_prompt + n_single; ++i) {
            CHECK_EQ(decode(ctx.get(), tokens.data() + i, 1, i, true, logits), 0);
        }
    }
    std::replace_if(logits.begin(), logits.end(), suppressed, 0.0f);
    return logits;
}

struct result {
    double full = 0, wide = 0;         // worst token, f32 cache: no head streaming; all streaming, window over everything
    double full_16 = 0, wide_16 = 0;   // all tokens, f16 cache
    double worst_16 = 0;               // worst token
    double forgetful = 0;              // one layer: all streaming, stock without what they do not see
};

// No head streaming is stock, and windows as wide as the context change nothing either.
void test_against_stock(const architecture & a, llama_model * model, uint64_t seed, result & r) {
    const int  n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    const auto tokens  = random_tokens(n_prompt + n_single, n_vocab, seed);
    for (const ggml_type type : { GGML_TYPE_F32, GGML_TYPE_F16 }) {
        llama_context_params wide = duo(type, 1.0f);
        wide.duo.recent = n_ctx;
        const auto want  = logits_of(model, stock(type), tokens);
        const auto full  = logits_of(model, duo(type, 0.0f), tokens);
        const auto whole = logits_of(model, wide, tokens);
        if (type == GGML_TYPE_F32) {
            r.full = worst_relative(full,  want, n_vocab);
            r.wide = worst_relative(whole, want, n_vocab);
        } else {
            r.full_16  = relative(full,  want);
            r.wide_16  = relative(whole, want);
            r.worst_16 = std::max(worst_relative(full, want, n_vocab), worst_relative(whole, want, n_vocab));
        }
    }
    const double bar = a.gelu ? 1e-3 : 1e-5;
    CHECK(r.full <= bar && r.wide <= bar);
    // with an f16 cache stock rounds queries and weights to f16 too; over 300 tokens of fresh random models one may stand out
    const double bar_16 = 1e-3 * std::max(1, llama_model_n_layer(model) / 8); // each layer rounds again
    CHECK(r.full_16 <= bar_16 && r.wide_16 <= bar_16 && r.worst_16 <= 3 * bar_16);
}

// How a prompt is cut does not matter: the logits of all tokens are the same to the bit.
void test_pieces(llama_model * model, uint64_t seed) {
    const auto tokens = random_tokens(600, llama_vocab_n_tokens(llama_model_get_vocab(model)), seed);
    const auto gates  = random_gates(model, seed);
    const auto ctx    = make_context(model, duo(GGML_TYPE_F16, 0.5f, gates.c_str()));
    CHECK(ctx != nullptr);
    if (!ctx) {
        return;
    }
    std::vector<float> want;
    for (const size_t piece : { 512, 7, 64, 600 }) {
        std::vector<float> found;
        llama_memory_clear(llama_get_memory(ctx.get()), true);
        for (size_t i = 0; i < tokens.size(); i += piece) {
            CHECK_EQ(decode(ctx.get(), tokens.data() + i, int(std::min(piece, tokens.size() - i)), int(i), true, found), 0);
        }
        if (want.empty()) {
            want = found;
        }
        CHECK(std::equal(found.begin(), found.end(), want.begin(), want.end(),
                [](float x, float y) { return memcmp(&x, &y, sizeof(x)) == 0 || suppressed(x) || suppressed(y); }));
    }
}

// In a model of one layer a key depends on its token and position alone, so a streaming head is stock that has forgotten all but sinks and window.
void test_against_forgetful_stock(const architecture & a, uint64_t seed, result & r) {
    random_model_params p = a.params(seed);
    p.n_layer = 1;
    p.n_head_layer.resize(std::min<size_t>(1, p.n_head_layer.size()));
    p.n_head_kv_layer.resize(p.n_head_layer.size());
    const auto model  = make_random_model(p);
    const auto tokens = random_tokens(500, int(p.n_vocab), seed);
    llama_context_params params = duo(GGML_TYPE_F32, 1.0f);
    params.n_ubatch = 64; // a ring of 240 cells: it goes round twice
    const auto ctx = make_context(model.get(), params);
    const auto ref = make_context(model.get(), stock(GGML_TYPE_F32));

    int decoded = 0;
    for (const int at : { 65, 66, 257, 499 }) {
        std::vector<float> want, found;
        llama_memory_t mem = llama_get_memory(ref.get());
        prefill(ref.get(), std::vector<llama_token>(tokens.begin(), tokens.begin() + at), 512);
        CHECK(llama_memory_seq_rm(mem, 0, params.duo.sink, at - params.duo.recent));
        CHECK_EQ(decode(ref.get(), tokens.data() + at, 1, at, false, want), 0);
        if (at > decoded) {
            CHECK_EQ(decode(ctx.get(), tokens.data() + decoded, at - decoded, decoded, false, found), 0);
            found.clear();
        }
        CHECK_EQ(decode(ctx.get(), tokens.data() + at, 1, at, false, found), 0);
        decoded = at + 1;
        const double e = relative(found, want);
        r.forgetful = e <= r.forgetful ? r.forgetful : e;
    }
    CHECK(r.forgetful <= (a.gelu ? 1e-3 : 1e-5));
}

// Every architecture that llama.cpp knows is tested above, refused by its name, or refused for what its models are like.
void test_refused() {
    const auto model = make_random_model(architectures()[0].params(1));
    const llama_context_params params = duo(GGML_TYPE_F16, 0.0f);
    std::set<llm_arch> tested, refused, none = { LLM_ARCH_CLIP, LLM_ARCH_GPTJ }; // llama.cpp itself makes no contexts of these
    for (const architecture & a : architectures()) {
        tested.insert(llm_arch_from_string(a.name));
    }
    for (const refused_architecture & a : refused_architectures()) {
        refused.insert(llm_arch_from_string(a.name));
        random_model_params p;
        p.arch      = a.name;
        p.metadata  = a.metadata;
        p.n_layer   = 2;
        p.head_size = 32;
        p.n_vocab   = 128;
        try {
            const auto hollow = make_hollow_model(p);
            const std::string reason = duo_unsupported(hollow.get(), params);
            check::report(reason.find(a.reason) != std::string::npos, __FILE__, __LINE__, a.name + " is refused for " + a.reason, "found " + reason);
            errors.clear();
            CHECK(make_context(hollow.get(), params) == nullptr);
            CHECK(errors.find(a.reason) != std::string::npos);
        } catch (const std::exception & e) {
            check::report(false, __FILE__, __LINE__, a.name, e.what() + ("\n" + errors));
        }
    }
    for (int i = 0; i < LLM_ARCH_UNKNOWN; ++i) {
        const llm_arch before = model->arch;
        model->arch = llm_arch(i);
        const std::string reason = duo_unsupported(model.get(), params);
        model->arch = before;
        const std::string name = llm_arch_name(llm_arch(i));
        if (tested.count(llm_arch(i))) {
            check::report(reason.empty(), __FILE__, __LINE__, name + " is supported", reason);
        } else {
            check::report(!reason.empty() || refused.count(llm_arch(i)) || none.count(llm_arch(i)), __FILE__, __LINE__, name + " is neither tested nor refused");
        }
    }
}

} // namespace

// Without arguments all of them, else those named.
int main(int argc, char ** argv) {
    llama_log_set([](ggml_log_level level, const char * text, void *) { if (level == GGML_LOG_LEVEL_ERROR) { errors += text; } }, nullptr);
    llama_backend_init();
    if (argc == 1) {
        test_refused();
    }
    printf("relative L2 from stock: f32 cache worst token (no head streaming, all with a wide window), f16 cache all tokens (the same), one layer streaming\n");
    for (const architecture & a : architectures()) {
        if (argc > 1 && std::find(argv + 1, argv + argc, a.name) == argv + argc) {
            continue;
        }
        result r;
        const int n_failed = check::n_failed;
        try {
            const auto model = make_random_model(a.params(fresh_seed()));
            test_against_stock(a, model.get(), fresh_seed(), r);
            test_pieces(model.get(), fresh_seed());
            if (a.one_layer) {
                test_against_forgetful_stock(a, fresh_seed(), r);
            }
        } catch (const std::exception & e) {
            check::report(false, __FILE__, __LINE__, a.name, e.what() + ("\n" + errors));
        }
        printf("%-15s %.1e %.1e   %.1e %.1e   %.1e%s\n", a.name.c_str(), r.full, r.wide, r.full_16, r.wide_16, r.forgetful, check::n_failed > n_failed ? "   FAILED" : "");
        fflush(stdout);
    }
    return check::result();
}
