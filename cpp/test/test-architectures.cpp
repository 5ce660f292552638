// Mixed heads on every architecture that llama.cpp gives its standard cache, alone, with sliding windows or beside recurrent layers: against stock, and against
// themselves when the prompt is cut differently.
#include "architectures.h"
#include "check.h"
#include "contexts.h"
#include "decode.h"
#include "models-page.h"
#include "random-model.h"

#include "duo-report.h"
#include "llama-arch.h"
#include "llama-context.h"
#include "llama-memory.h"
#include "llama-model.h"
#include "llama.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <numeric>
#include <set>
#include <stdexcept>
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

std::vector<float> logits_of(llama_model * model, const llama_context_params & params, const std::vector<llama_token> & tokens, int n_together = n_prompt) {
    std::vector<float> logits;
    const auto ctx = make_context(model, params);
    CHECK(ctx != nullptr);
    if (ctx) {
        CHECK_EQ(decode(ctx.get(), tokens.data(), n_together, 0, true, logits), 0);
        for (int i = n_together; i < n_prompt + n_single; ++i) {
            CHECK_EQ(decode(ctx.get(), tokens.data() + i, 1, i, true, logits), 0);
        }
    }
    std::replace_if(logits.begin(), logits.end(), suppressed, 0.0f);
    return logits;
}

// Bytes as planned, as reported and as allocated: rows and recurrent states, apart.
void test_bytes(llama_model * model, uint32_t n_seq) {
    for (llama_context_params params : { duo(GGML_TYPE_F16, 1.0f), stock(GGML_TYPE_F16) }) {
        params.n_seq_max = n_seq;
        const auto ctx = make_context(model, params);
        CHECK(ctx != nullptr);
        if (!ctx) {
            continue;
        }
        const duo_kv_size plan = duo_kv_size_for(model, params), size = duo_kv_size_of(ctx.get());
        CHECK_EQ(plan.recurrent_bytes, size.recurrent_bytes);
        CHECK_EQ(size.recurrent_bytes > 0, llm_arch_is_hybrid(model->arch));
        if (params.duo.enabled) {
            CHECK_EQ(plan.total_bytes, size.total_bytes);
            CHECK_EQ(size.total_bytes, size.retrieval_bytes + size.streaming_bytes + size.windowed_bytes);
        }
        uint64_t allocated = 0;
        for (const auto & [_, bytes] : ctx->get_memory()->memory_breakdown()) {
            allocated += bytes;
        }
        // head maps and what tensors are padded to
        CHECK(allocated >= size.total_bytes + size.recurrent_bytes && allocated <= size.total_bytes + size.recurrent_bytes + 512 * model->hparams.n_layer());
    }
}

// The larger, or what is not a number.
double worse(double a, double b) { return b <= a ? a : b; }

struct result {
    double full = 0, wide = 0;         // worst token, f32 cache: no head streaming; all streaming, window over everything
    double full_16 = 0, wide_16 = 0;   // all tokens, f16 cache
    double worst_16 = 0;               // worst token
    double forgetful = 0;              // one layer: all streaming, stock without what they do not see
    double pieces = 0, pieces_stock = 0; // recurrent layers: what pieces of a prompt differ by
};

// No head streaming is stock, and windows as wide as the context change nothing either.
void test_against_stock(const architecture & a, llama_model * model, uint64_t seed, result & r) {
    const int  n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    const auto tokens  = random_tokens(n_prompt + n_single, n_vocab, seed);
    double own = 0, own_16 = 0, own_worst_16 = 0; // what stock differs by from itself: tokens one by one, and an f16 cache
    std::vector<float> exact;
    for (const ggml_type type : { GGML_TYPE_F32, GGML_TYPE_F16 }) {
        llama_context_params wide = duo(type, 1.0f);
        wide.duo.recent = n_ctx;
        const auto want  = logits_of(model, stock(type), tokens);
        const auto full  = logits_of(model, duo(type, 0.0f), tokens);
        const auto whole = logits_of(model, wide, tokens);
        if (type == GGML_TYPE_F32) {
            r.full = worst_relative(full,  want, n_vocab);
            r.wide = worst_relative(whole, want, n_vocab);
            // K rows that every layer has in a finer type are all of that type, whichever layers store rows, share them or have none
            llama_context_params finer = duo(type, 0.0f);
            std::vector<int32_t> layers(model->hparams.n_layer());
            std::iota(layers.begin(), layers.end(), 0);
            finer.type_k             = GGML_TYPE_F16;
            finer.duo.finer_k        = type;
            finer.duo.finer_layers   = layers.data();
            finer.duo.n_finer_layers = layers.size();
            CHECK(logits_of(model, finer, tokens) == full);
            own    = a.gelu ? worst_relative(logits_of(model, stock(type), tokens, 1), want, n_vocab) : 0.0;
            exact  = want;
        } else {
            r.full_16  = relative(full,  want);
            r.wide_16  = relative(whole, want);
            r.worst_16 = worse(worst_relative(full, want, n_vocab), worst_relative(whole, want, n_vocab));
            own_16       = a.gelu ? relative(want, exact) : 0.0;
            own_worst_16 = a.gelu ? worst_relative(want, exact, n_vocab) : 0.0;
        }
    }
    // a table of GELU makes the more of a last bit the more layers follow (gemma3n: 25); how far the worst token is off is chance, in stock's own too
    const double bar = a.gelu ? std::max(1e-3, 4 * own) : 1e-5;
    CHECK(r.full <= bar && r.wide <= bar);
    // with an f16 cache stock rounds queries and weights to f16 too; over 300 tokens of fresh random models one may stand out
    const double bar_16 = std::max(1e-3 * std::max(1, llama_model_n_layer(model) / 8), 2 * own_16); // each layer rounds again
    CHECK(r.full_16 <= bar_16 && r.wide_16 <= bar_16 && r.worst_16 <= std::max(3 * bar_16, 4 * own_worst_16));
}

// The logits of all tokens of a prompt in pieces of these sizes, from one context.
std::vector<std::vector<float>> logits_of_pieces(llama_model * model, const llama_context_params & params, const std::vector<llama_token> & tokens) {
    std::vector<std::vector<float>> all;
    const auto ctx = make_context(model, params);
    CHECK(ctx != nullptr);
    for (const int piece : { 512, 7, 64, 600 }) {
        all.push_back(ctx ? prefill(ctx.get(), tokens, piece, true) : std::vector<float>());
    }
    return all;
}

// How a prompt is cut does not matter: the logits of all tokens are the same to the bit. Recurrent layers compute a state in other steps in other pieces, in
// stock too: there they differ from each other by no more than half as much again as stock's do.
void test_pieces(llama_model * model, uint64_t seed, result & r) {
    const auto tokens = random_tokens(600, llama_vocab_n_tokens(llama_model_get_vocab(model)), seed);
    const auto gates  = random_gates(model, seed);
    const auto found  = logits_of_pieces(model, duo(GGML_TYPE_F16, 0.5f, gates.c_str()), tokens);
    const bool exact  = !llm_arch_is_hybrid(model->arch);
    const auto want   = exact ? found : logits_of_pieces(model, stock(GGML_TYPE_F16), tokens);
    for (size_t i = 1; i < found.size(); ++i) {
        CHECK(found[i].size() == found[0].size());
        if (exact) {
            CHECK(std::equal(found[i].begin(), found[i].end(), found[0].begin(), found[0].end(),
                    [](float x, float y) { return memcmp(&x, &y, sizeof(x)) == 0 || suppressed(x) || suppressed(y); }));
        } else {
            r.pieces       = worse(r.pieces,       relative(found[i], found[0]));
            r.pieces_stock = worse(r.pieces_stock, relative(want[i],  want[0]));
        }
    }
    CHECK(r.pieces <= 1.5 * r.pieces_stock);
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
        r.forgetful = worse(r.forgetful, relative(found, want));
    }
    CHECK(r.forgetful <= (a.gelu ? 1e-3 : 1e-5));
}

// A small model of an architecture with, or without, sliding windows.
llama_model_ptr_t load(const std::string & name, bool has_windows) {
    for (const architecture & a : architectures()) {
        if (a.name == name) {
            const auto model = a.load(fresh_seed());
            if ((model->hparams.swa_type != LLAMA_SWA_TYPE_NONE) == has_windows) {
                return model;
            }
        }
    }
    throw std::runtime_error("there is no such " + name);
}

bool refused(llama_model * model, const llama_context_params & params, const std::string & reason) {
    errors.clear();
    const bool none = make_context(model, params) == nullptr;
    check::report(none && errors.find(reason) != std::string::npos, __FILE__, __LINE__, "refused with " + reason, "found " + errors);
    return none;
}

// A pattern is of the heads that see the whole context: rows of other layers are accepted where a published pattern has them, and say nothing.
void test_patterns() {
    const auto json = [](const std::string & gates, int n_layer = 2, int n_head_kv = 2) {
        return "{\"llamaDuoPattern\":1,\"layers\":" + std::to_string(n_layer) + ",\"kvHeads\":" + std::to_string(n_head_kv) + ",\"gates\":[" + gates + "]}";
    };
    const auto windowed = load("gemma3", true); // the first layer's heads have windows
    const auto tokens   = random_tokens(n_prompt + n_single, 128, fresh_seed());
    std::vector<std::vector<float>> found;
    for (const char * gates : { "[],[0.2,0.8]", "[0.9,0.1],[0.2,0.8]", "[0,0],[0.2,0.8]", "[],[0.8,0.2]" }) {
        const std::string pattern = json(gates);
        const auto params = duo(GGML_TYPE_F16, 0.5f, pattern.c_str());
        found.push_back(logits_of(windowed.get(), params, tokens));
        const auto ctx = make_context(windowed.get(), params);
        const duo_kv_size size = duo_kv_size_of(ctx.get()), plan = duo_kv_size_for(windowed.get(), params);
        CHECK_EQ(size.n_streaming, 1u); // of two
        CHECK_EQ(size.n_retrieval, 1u);
        CHECK_EQ(size.n_windowed, 2u);
        CHECK_EQ(size.n_cells_windowed, 640u); // 31 before the query, its own, a ubatch of 512 and a rollback of 64: a multiple of 64
        const uint64_t row = 2 * 32 * sizeof(ggml_fp16_t);
        CHECK_EQ(size.windowed_bytes, 2 * 640 * row);
        CHECK_EQ(size.total_bytes, (n_ctx + size.n_cells_streaming + 2 * 640) * row);
        CHECK_EQ(plan.total_bytes, size.total_bytes);
        CHECK_EQ(plan.full_bytes, size.full_bytes);
    }
    CHECK(found[0] == found[1] && found[0] == found[2] && found[0] != found[3]);

    for (const auto & [gates, reason] : std::map<std::string, std::string> {
            { json("[],[0.1]", 2, 1),                      "layer 1 has 1 in the pattern and 2 in the model" },
            { json("[0.1],[0.1,0.2]"),                     "layer 0 has 1 in the pattern and 0 in the model" },
            { json("[0.1,0.2],[0.1,0.2],[0.1,0.2]", 3, 2), "the pattern has 3 layers x 2 KV heads, the model 2 x 0 to 2" } }) {
        CHECK(refused(windowed.get(), duo(GGML_TYPE_F16, 0.5f, gates.c_str()), reason));
    }

    // heads that stream are counted among those with gates; where there are none, none is
    const auto recurrent = load("qwen35", false);
    const std::string rows = json("[0,0],[0.1,0.2],[0,0],[0.3,0.4]", 4), only = json("[],[0.1,0.2],[],[0.3,0.4]", 4);
    CHECK(logits_of(recurrent.get(), duo(GGML_TYPE_F16, 0.5f, rows.c_str()), tokens) == logits_of(recurrent.get(), duo(GGML_TYPE_F16, 0.5f, only.c_str()), tokens));
    CHECK_EQ(duo_kv_size_for(recurrent.get(), duo(GGML_TYPE_F16, 0.5f, rows.c_str())).n_streaming, 2u);
    CHECK_EQ(duo_kv_size_for(recurrent.get(), stock(GGML_TYPE_F16)).n_retrieval, 4u);
    const auto no_gates = load("lfm2", true);
    CHECK_EQ(duo_kv_size_for(no_gates.get(), duo(GGML_TYPE_F16, 1.0f)).n_streaming, 0u);
    CHECK_EQ(duo_kv_size_for(no_gates.get(), duo(GGML_TYPE_F16, 1.0f)).n_windowed, 2u);

    // a window beyond the context is none
    windowed->hparams.n_swa = 100000;
    const auto want = logits_of(windowed.get(), stock(GGML_TYPE_F32), tokens);
    for (const uint32_t n_swa : { 100000u, 3000000000u }) {
        windowed->hparams.n_swa = n_swa;
        CHECK(worst_relative(logits_of(windowed.get(), duo(GGML_TYPE_F32, 0.0f), tokens), want, 128) <= 1e-3);
        CHECK_EQ(duo_kv_size_for(windowed.get(), duo(GGML_TYPE_F32, 0.0f)).n_cells_windowed, uint32_t(n_ctx));
    }
}

// Every architecture that llama.cpp knows is tested above, refused by its name, or refused for what its models are like.
void test_refused() {
    const auto model = make_random_model(architectures()[0].params(1));
    const llama_context_params params = duo(GGML_TYPE_F16, 0.0f);
    std::set<llm_arch> tested, refused;
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
            check::report(!reason.empty() || refused.count(llm_arch(i)) || has_no_contexts(name), __FILE__, __LINE__, name + " is neither tested nor refused");
        }
    }
}

// Whether docs/models.md is what is known here.
int check_page(const std::string & path) {
    std::ifstream file(path, std::ios::binary);
    const std::string found(std::istreambuf_iterator<char>(file), {});
    check::report(found == models_page(), __FILE__, __LINE__, path + " is what `test-architectures --page` prints", "write it anew: build/test-architectures --page > docs/models.md");
    return check::result();
}

} // namespace

// Without arguments all of them, else those named. --page: prints docs/models.md; --page FILE: compares it.
int main(int argc, char ** argv) {
    llama_log_set([](ggml_log_level level, const char * text, void *) { if (level == GGML_LOG_LEVEL_ERROR) { errors += text; } }, nullptr);
    llama_backend_init();
    if (argc > 1 && std::string(argv[1]) == "--page") {
        if (argc > 2) {
            return check_page(argv[2]);
        }
        fputs(models_page().c_str(), stdout);
        return 0;
    }
    if (argc == 1) {
        test_refused();
        test_patterns();
    }
    printf("relative L2 from stock: f32 cache worst token (no head streaming, all with a wide window), f16 cache all tokens (the same), one layer streaming; "
            "recurrent layers: pieces of a prompt from each other, and stock's\n");
    for (const architecture & a : architectures()) {
        if (argc > 1 && std::find(argv + 1, argv + argc, a.name) == argv + argc) {
            continue;
        }
        result r;
        const int n_failed = check::n_failed;
        try {
            const auto model = a.load(fresh_seed());
            test_bytes(model.get(), 1);
            if (a.name == "llama" || a.name == "qwen35" || a.name == "jamba") {
                test_bytes(model.get(), 3); // a state each; not every recurrent model's graph can be had for several
            }
            test_against_stock(a, model.get(), fresh_seed(), r);
            test_pieces(model.get(), fresh_seed(), r);
            // stock cannot forget the middle of a recurrent state, and of one layer none would be windowed
            if (a.one_layer && !llm_arch_is_hybrid(model->arch) && model->hparams.swa_type == LLAMA_SWA_TYPE_NONE) {
                test_against_forgetful_stock(a, fresh_seed(), r);
            }
        } catch (const std::exception & e) {
            check::report(false, __FILE__, __LINE__, a.name, e.what() + ("\n" + errors));
        }
        printf("%-15s %.1e %.1e   %.1e %.1e   %.1e   %.1e %.1e%s\n", a.name.c_str(), r.full, r.wide, r.full_16, r.wide_16, r.forgetful, r.pieces, r.pieces_stock,
                check::n_failed > n_failed ? "   FAILED" : "");
        fflush(stdout);
    }
    return check::result();
}
