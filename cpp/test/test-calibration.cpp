// Calibration, on a model of which one knows which head retrieves.
#include "architectures.h"
#include "budget-selection.h"
#include "check.h"
#include "contexts.h"
#include "induction-model.h"
#include "random-model.h"

#include "calibration.h"
#include "calibration-bosch.h"
#include "calibration-ranks.h"
#include "calibration-regression.h"
#include "duo-config.h"
#include "duo-heads.h"
#include "duo-report.h"
#include "head-selection.h"
#include "llama-arch.h"
#include "llama-context.h"
#include "llama-model.h"
#include "mixed-attention.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <unistd.h>

namespace {

using duo::calibration_method;

// Tokens from 0 to 31 at random, and four lists of eight tokens from 32 to 63 among them: whoever has seen a list's first token in the context can go on with the
// others. The lists are what is asked for.
duo::calibration_sample make_sample(std::mt19937_64 & rng, size_t n_context) {
    std::vector<llama_token> special(32);
    std::iota(special.begin(), special.end(), 32);
    std::shuffle(special.begin(), special.end(), rng);

    duo::calibration_sample s;
    const size_t n_filler = n_context - special.size();
    for (size_t i = 0; i < n_filler; ++i) {
        if (i % (n_filler / 5) == 0 && i > 0 && i / (n_filler / 5) <= 4) {
            const size_t list = i / (n_filler / 5) - 1;
            s.tokens.insert(s.tokens.end(), special.begin() + 8 * list, special.begin() + 8 * (list + 1));
        }
        s.tokens.push_back(llama_token(rng() % 32));
    }
    s.n_context = s.tokens.size();
    for (size_t list = 0; list < 4; ++list) {
        s.answers.push_back({ s.tokens.size() + 1, s.tokens.size() + 8 });
        s.tokens.insert(s.tokens.end(), special.begin() + 8 * list, special.begin() + 8 * (list + 1));
    }
    return s;
}

duo::calibration_params make_params(calibration_method method, uint64_t seed) {
    std::mt19937_64 rng(seed);
    duo::calibration_params p;
    p.method    = method;
    p.sink      = 4;
    p.recent    = 32;
    p.n_threads = 2;
    p.seed      = seed;
    p.n_masks   = method == calibration_method::bosch ? 400 : 24; // of 8 heads, whose choices repeat and are measured once: a search of few may miss the head
    p.samples   = { make_sample(rng, 500), make_sample(rng, 420) };
    if (method == calibration_method::windows) {
        p.windows = { 8, 32 };
        p.types   = { GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 };
    }
    return p;
}

// The head that scores highest, as layer * heads + head.
size_t first(const duo::calibration_result & r) {
    return size_t(std::max_element(r.scores.begin(), r.scores.end()) - r.scores.begin());
}

// --- methods ---

void test_retrieval_head_ranks_first(uint64_t seed) {
    for (const int32_t head : { 0, 2, 3 }) {
        induction_model built;
        built.retrieval = head;
        built.seed      = seed + uint64_t(head);
        const auto model = make_induction_model(built);
        for (size_t m = 0; m < duo::calibration_method_names().size(); ++m) {
            const auto method = calibration_method(m);
            const char * name = duo::calibration_method_names()[m].c_str();
            const auto r = duo::calibrate(model.get(), make_params(method, seed));
            const size_t want = size_t(built.layer * built.n_head + head);
            printf("%-8s head %d: ", name, head);
            for (size_t i = 0; i < r.scores.size(); ++i) {
                printf("%s%.4g", i == size_t(built.n_head) ? " | " : " ", r.scores[i]);
            }
            printf("\n");
            CHECK_EQ(first(r), want);
            CHECK_EQ(r.pattern.gates[want], 1.0f);
            CHECK_EQ(r.pattern.n_layer, 2);
            CHECK_EQ(r.pattern.n_head_kv, 4);
            CHECK_EQ(r.pattern.sink, 4);
            CHECK_EQ(r.pattern.recent, 32);
            CHECK_EQ(r.n_answer, 2 * 4 * 7);
            CHECK_EQ(duo::select_by_sparsity(r.pattern, { 4, 4 }, 0.99).streaming[built.layer][head], 0); // the last one to stream
        }
        // the model does what it was built for
        const auto r = duo::calibrate(model.get(), make_params(calibration_method::ablation, seed));
        CHECK_EQ(r.correct, 1.0);
    }
}

// The head that looks things up loses most at each window and nothing where it sees everything; budgets take it last; and rows of fewer bits lose more.
void test_windows(uint64_t seed) {
    induction_model built;
    built.retrieval = 1;
    built.seed      = seed;
    const auto model = make_induction_model(built);
    auto p = make_params(calibration_method::windows, seed);
    p.windows = { 8, 32, 200 };
    int n_done = 0; // times that all was said to be done
    p.progress = [&](double x) { n_done += x >= 1.0; };
    const auto r = duo::calibrate(model.get(), p);
    CHECK_EQ(n_done, 1);
    p.progress = nullptr;
    const auto & g = r.pattern;
    CHECK(g.loss_windows == p.windows);
    CHECK_EQ(g.recent, 200);
    CHECK_EQ(r.correct, 1.0);
    for (int32_t il = 0; il < g.n_layer; ++il) {
        for (int32_t ih = 0; ih < g.n_head(il); ++ih) {
            const bool retrieval = il == built.layer && ih == built.retrieval;
            printf("layer %d head %d: losses %.3g %.3g %.3g\n", il, ih, g.loss(il, ih, 0), g.loss(il, ih, 1), g.loss(il, ih, 2));
            CHECK(g.loss(il, ih, 2) >= 0 && g.loss(il, ih, 1) >= g.loss(il, ih, 2) && g.loss(il, ih, 0) >= g.loss(il, ih, 1));
            CHECK(retrieval || g.loss(il, ih, 2) < 0.2 * g.loss(built.layer, built.retrieval, 2));
            for (size_t w = 0; w < 2; ++w) {
                CHECK(g.loss(il, ih, w) <= g.loss(built.layer, built.retrieval, w));
            }
        }
    }
    for (const auto * measured : { &g.k_types, &g.v_types }) {
        const auto & types = *measured;
        CHECK(&types == &g.v_types ? types.size() == 3 : types.size() >= 3); // and q4_0 again, beside finer layers, where it breaks this model
        CHECK_EQ(types[0].type, "f16");
        CHECK_EQ(types[0].loss, 0.0f);
        CHECK_EQ(types[0].correct, 1.0f);
        CHECK(types[1].type == "q8_0" && types[2].type == "q4_0" && types[1].loss < types[2].loss);
        printf("types: q8_0 %.3g, q4_0 %.3g, %.2f correct\n", types[1].loss, types[2].loss, types[2].correct);
    }
    CHECK(duo::parse_gate_pattern(duo::gate_pattern_to_json(g), "again").losses == g.losses);

    // a context takes what fits, and keeps the head
    const std::string gates = duo::gate_pattern_to_json(g);
    llama_context_params params = duo_params(GGML_TYPE_F16, 2048, -1.0f, gates.c_str());
    params.n_ubatch = 64;
    const uint64_t full = duo_kv_size_for(model.get(), stock_params(GGML_TYPE_F16, 2048)).total_bytes;
    for (const double budget : { 0.9, 0.5, 0.35, 0.2, 0.3 * double(full) }) {
        params.duo.budget = budget;
        const duo_kv_size plan = duo_kv_size_for(model.get(), params);
        CHECK(double(plan.total_bytes) <= (budget <= 1 ? budget * double(full) : budget));
        CHECK(plan.expected_loss >= 0);
        const auto ctx = make_context(model.get(), params);
        CHECK_EQ(duo_kv_size_of(ctx.get()).total_bytes, plan.total_bytes);
        CHECK_EQ(ctx->get_cparams().duo->heads.streaming[size_t(built.layer)][size_t(built.retrieval)], 0);
        printf("budget %g: %.0f%% of a full cache, K %s, V %s, %u heads keep everything, expected loss %.3g\n", budget, 100.0 * double(plan.total_bytes) / double(full),
                ggml_type_name(plan.type_k), ggml_type_name(plan.type_v), plan.n_retrieval, plan.expected_loss);
    }
    const auto refused = [&](double budget, float sparsity, const std::string & expected) {
        params.duo.budget   = budget;
        params.duo.sparsity = sparsity;
        CHECK_THROWS(duo_kv_size_for(model.get(), params), std::runtime_error, expected);
    };
    refused(0.001, -1, "is too small for this context");
    refused(0.5, 0.5f, "beside a sparsity");
    refused(NAN, -1, "duo budget is nan");
    refused(0, -1, "duo budget is 0");

    // a type that is asked for stays
    params.duo = duo_params(GGML_TYPE_F16, 2048, -1.0f, gates.c_str()).duo;
    params.duo.budget = 0.3;
    params.type_k = params.type_v = GGML_TYPE_Q8_0;
    CHECK(duo_kv_size_for(model.get(), params).type_k == GGML_TYPE_Q8_0);
}

// Keys so long that 4 bits tell none from another break a model by their layer alone: with that layer's rows in a finer type the others are right in 4 bits.
void test_finer_layers(uint64_t seed) {
    induction_model built;
    built.seed     = seed;
    built.key_bias = 30;
    const auto model = make_induction_model(built);
    const auto p = make_params(calibration_method::windows, seed);
    const auto r = duo::calibrate(model.get(), p);
    CHECK_EQ(r.correct, 1.0);
    const auto & types = r.pattern.k_types;
    for (const auto & t : types) {
        printf("%s%s: %.3g, %.2f correct\n", t.type.c_str(), t.finer_layers.empty() ? "" : " beside finer layers", t.loss, t.correct);
    }
    const duo::cache_type_loss & coarse = *duo::find_type(types, "q4_0"), & fine = *duo::find_type(types, "q8_0");
    CHECK(duo::breaks_model(types[0], coarse) && !duo::breaks_model(types[0], fine));
    CHECK_EQ(types.size(), size_t(4));
    const duo::cache_type_loss & mixed = types.back();
    CHECK_EQ(mixed.type, "q4_0");
    CHECK_EQ(mixed.finer, "q8_0");
    CHECK(mixed.finer_layers == std::vector<int32_t> { 0 });
    CHECK(!duo::breaks_model(types[0], mixed) && mixed.loss < coarse.loss);
    for (const auto & t : r.pattern.v_types) {
        CHECK(t.finer_layers.empty());
    }

    // where windows lose, a budget that 8-bit keys are too large for takes it, and says so
    duo::gate_pattern pattern = r.pattern;
    std::fill(pattern.losses.begin(), pattern.losses.end(), 1.0f);
    const std::string gates = duo::gate_pattern_to_json(pattern);
    llama_context_params params = duo_params(GGML_TYPE_F16, 2048, -1.0f, gates.c_str());
    params.n_ubatch   = 64;
    params.duo.budget = 0.36; // between 34% and 41%: all heads full with q4_0 but in one layer of two, and with q8_0, V being q4_0
    const duo_kv_size plan = duo_kv_size_for(model.get(), params);
    CHECK_EQ(std::string(ggml_type_name(plan.type_k)), "q4_0");
    CHECK(plan.finer_k == GGML_TYPE_Q8_0 && plan.finer_layers == std::vector<int32_t> { 0 });
    CHECK_EQ(plan.n_streaming, 0u);
    const auto ctx = make_context(model.get(), params);
    CHECK_EQ(duo_kv_size_of(ctx.get()).total_bytes, plan.total_bytes);
    CHECK(duo_kv_size_of(ctx.get()).finer_layers == plan.finer_layers);
}

void test_strict(uint64_t seed) {
    const auto model = make_induction_model({});
    auto p = make_params(calibration_method::ablation, seed);
    const auto once = duo::calibrate(model.get(), p);
    p.strict = true;
    const auto each = duo::calibrate(model.get(), p);
    CHECK_EQ(first(each), first(once));
    CHECK(each.scores != once.scores); // noise heads of the first layer change what the second keeps of the context
}

// Samples need not ask as much: what is read behind their contexts then comes in several ubatches, in an order of its own.
void test_unequal_samples(uint64_t seed) {
    const auto model = make_induction_model({});
    auto p = make_params(calibration_method::ablation, seed);
    p.samples[0].answers.resize(2);
    p.samples[0].tokens.resize(p.samples[0].answers.back().second);
    const auto both = duo::calibrate(model.get(), p);
    CHECK_EQ(both.correct, 1.0);

    // the means are those of the samples by themselves
    std::vector<double> sums(both.scores.size(), 0.0);
    for (const auto & sample : p.samples) {
        auto one = p;
        one.samples = { sample };
        const auto r = duo::calibrate(model.get(), one);
        for (size_t i = 0; i < sums.size(); ++i) {
            sums[i] += r.scores[i] * double(r.n_answer) / double(both.n_answer);
        }
    }
    for (size_t i = 0; i < sums.size(); ++i) {
        CHECK_NEAR(both.scores[i], sums[i], 1e-4 * std::fabs(sums[i]) + 1e-9);
    }
}

// --- every architecture ---

void test_architectures(uint64_t seed) {
    std::mt19937_64 rng(seed);
    int n = 0, n_mean_qk = 0, n_none = 0;
    for (const architecture & arch : architectures()) {
        const auto model = arch.load(rng());
        const int  n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model.get()));
        const auto n_gated = duo_gated_heads(*model);
        const int  n_heads = std::accumulate(n_gated.begin(), n_gated.end(), 0);

        duo::calibration_params p;
        p.sink      = 4;
        p.recent    = 16;
        p.n_threads = 2;
        p.samples.resize(1);
        for (int i = 0; i < 100; ++i) {
            p.samples[0].tokens.push_back(llama_token(rng() % uint64_t(n_vocab)));
        }
        p.samples[0].n_context = 80;
        p.samples[0].answers   = { { 90, 100 } };
        if (n_heads == 0) { // lfm2 with windows: they are on all that attends
            CHECK_THROWS(duo::calibrate(model.get(), p), duo::calibration_error, "none of the model's heads sees the whole context");
            n_none++;
            continue;
        }
        for (const calibration_method method : { calibration_method::windows, calibration_method::combined, calibration_method::kvzip, calibration_method::mean_qk }) {
            p.method  = method;
            p.windows = method == calibration_method::windows ? std::vector<int32_t> { 4, 16 } : std::vector<int32_t> {};
            p.types   = { GGML_TYPE_Q4_0 }; // whose blocks not every head is made of
            try {
                const auto r = duo::calibrate(model.get(), p);
                const auto [least, most] = std::minmax_element(r.scores.begin(), r.scores.end());
                for (int32_t il = 0; il < r.pattern.n_layer; ++il) {
                    CHECK_EQ(r.pattern.n_head(il), n_gated[il]);
                }
                CHECK_EQ(size_t(r.pattern.n_layer), n_gated.size());
                check::report(std::isfinite(*least) && std::isfinite(*most) && (*most > *least || n_heads == 1), __FILE__, __LINE__, arch.name + " is calibrated",
                        "scores from " + check::text(*least) + " to " + check::text(*most));
                n++;
                n_mean_qk += method == calibration_method::mean_qk;
            } catch (const duo::calibration_error & e) {
                check::report(method == calibration_method::mean_qk && e.kind == duo::calibration_error::unsupported, __FILE__, __LINE__, arch.name + " is calibrated", e.what());
            }
        }
    }
    printf("%zu architectures, %d calibrations, %d of them by mean query and mean key\n", architectures().size(), n, n_mean_qk);
    CHECK_EQ(n_none, 1);
    CHECK(n_mean_qk > 0 && size_t(n_mean_qk) < architectures().size()); // some keep the part that RoPE turns apart
}

// --- what is measured is what streaming does ---

std::vector<float> logits_after(llama_context * ctx, const std::vector<llama_token> & tokens) {
    std::vector<llama_token> copy = tokens;
    for (size_t i = 0; i < copy.size(); i += 64) {
        CHECK_EQ(llama_decode(ctx, llama_batch_get_one(copy.data() + i, int32_t(std::min<size_t>(64, copy.size() - i)))), 0);
    }
    const float * logits = llama_get_logits_ith(ctx, -1);
    return std::vector<float>(logits, logits + llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx))));
}

void test_windowed_is_streaming(uint64_t seed) {
    random_model_params shape;
    shape.seed = seed;
    const auto model = make_random_model(shape); // 3 layers of 2 KV heads
    std::vector<llama_token> tokens(700);
    std::mt19937_64 rng(seed);
    for (auto & t : tokens) {
        t = llama_token(rng() % 512);
    }
    constexpr int32_t all = GGML_MIXED_ATTN_ALL;
    const std::vector<std::vector<int32_t>> mask = { { 40, all }, { 40, 40 }, { all, 40 } }, unseen = { { all, all }, { all, all }, { all, all } };
    const char * gates = R"({"llamaDuoPattern": 1, "layers": 3, "kvHeads": 2, "sink": 8, "recent": 40, "gates": [[0, 1], [0, 0], [1, 0]]})";

    llama_context_params streaming = duo_params(GGML_TYPE_F16, 1024, -1.0f, gates);
    streaming.duo.threshold = 0.5f;
    streaming.n_ubatch = 64;
    const auto want = logits_after(make_context(model.get(), streaming).get(), tokens);

    llama_context_params full = duo_params(GGML_TYPE_F16, 1024, 0.0f);
    full.duo.sink   = 8;
    full.duo.recent = 40;
    full.n_ubatch   = 64;
    const auto ctx = make_context(model.get(), full);
    const auto none = logits_after(ctx.get(), tokens);
    llama_memory_clear(llama_get_memory(ctx.get()), false);
    duo_set_windows(ctx.get(), mask);
    CHECK(logits_after(ctx.get(), tokens) == want); // bit for bit
    CHECK(relative(none, want) > 1e-3);             // and that is not what all heads give

    // heads that see everything again, and a tail taken back
    llama_memory_clear(llama_get_memory(ctx.get()), false);
    duo_set_windows(ctx.get(), unseen);
    const std::vector<llama_token> context(tokens.begin(), tokens.begin() + 640), tail(tokens.begin() + 640, tokens.end());
    logits_after(ctx.get(), context);
    duo_set_windows(ctx.get(), mask);
    const auto windowed = logits_after(ctx.get(), tail);
    CHECK(windowed != none);
    duo_set_windows(ctx.get(), unseen);
    CHECK(llama_memory_seq_rm(llama_get_memory(ctx.get()), 0, 640, -1));
    CHECK(logits_after(ctx.get(), tail) == none);

    CHECK_THROWS(duo_set_windows(ctx.get(), std::vector<std::vector<int32_t>>(1)), std::runtime_error, "table of the model's shape");
    CHECK_THROWS(duo_set_windows(make_context(model.get(), streaming).get(), mask), std::runtime_error, "stored in full");
    CHECK_THROWS(duo_set_windows(make_context(model.get(), stock_params(GGML_TYPE_F16, 256)).get(), mask), std::runtime_error, "mixed heads");
}

// The same where the model has windows of its own, whose layers have no gates, or recurrent layers; and a tail is taken back there, too.
void test_windowed_is_streaming_in_other_models(uint64_t seed) {
    int n_models = 0;
    for (const architecture & arch : architectures()) {
        const auto model   = arch.load(seed);
        const auto n_gated = duo_gated_heads(*model);
        const bool hybrid  = llm_arch_is_hybrid(model->arch);
        if ((arch.name != "gemma3" || model->hparams.swa_type == LLAMA_SWA_TYPE_NONE) && arch.name != "granitehybrid") {
            continue;
        }
        n_models++;
        std::vector<llama_token> tokens(600);
        std::mt19937_64 rng(seed);
        for (auto & t : tokens) {
            t = llama_token(rng() % 128);
        }
        std::vector<std::vector<int32_t>> mask, none;
        for (const int32_t n : n_gated) {
            mask.emplace_back(size_t(n), 40);
            none.emplace_back(size_t(n), GGML_MIXED_ATTN_ALL);
        }
        llama_context_params streaming = duo_params(GGML_TYPE_F16, 1024, 1.0f);
        streaming.duo.sink   = 8;
        streaming.duo.recent = 40;
        streaming.n_ubatch   = 64;
        const auto want = logits_after(make_context(model.get(), streaming).get(), tokens);

        llama_context_params full = streaming;
        full.duo.sparsity = 0.0f;
        const auto ctx = make_context(model.get(), full);
        const auto all = logits_after(ctx.get(), tokens);
        llama_memory_clear(llama_get_memory(ctx.get()), true);
        duo_set_windows(ctx.get(), mask);
        CHECK(logits_after(ctx.get(), tokens) == want);
        CHECK(relative(all, want) > 1e-4);
        duo_set_windows(ctx.get(), none);
        CHECK_EQ(llama_memory_seq_rm(llama_get_memory(ctx.get()), 0, 590, -1), !hybrid); // no state of a recurrent layer was kept
        CHECK_THROWS(duo_set_windows(ctx.get(), std::vector<std::vector<int32_t>>(1)), std::runtime_error, "table of the model's shape");
    }
    CHECK_EQ(n_models, 2);
}

// --- interruptions ---

struct temporary_file {
    const std::string path = (std::filesystem::temp_directory_path() / ("llama-duo-calibration-" + std::to_string(getpid()))).string();
    ~temporary_file() { std::filesystem::remove(path); }

    std::string read() const {
        std::ifstream in(path, std::ios::binary);
        return std::string(std::istreambuf_iterator<char>(in), {});
    }
    void write(const std::string & text) const { std::ofstream(path, std::ios::binary) << text; }
};

std::vector<std::string> lines_of(const std::string & text) {
    std::vector<std::string> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) {
        lines.push_back(line);
    }
    return lines;
}

std::string join(const std::vector<std::string> & lines) {
    std::string text;
    for (const auto & line : lines) {
        text += line + "\n";
    }
    return text;
}

// What a record of other measurements is told by, and what makes it one.
const std::vector<std::pair<std::string, std::function<void(duo::calibration_params &)>>> other_parameters = {
    { "recent 32 there and 40 here)", [](auto & p) { p.recent = 40; } },
    { "sink 4 there and 5 here)",     [](auto & p) { p.sink = 5; } },
    { "strict 0 there and 1 here)",   [](auto & p) { p.strict = true; } },
    { "other samples)",               [](auto & p) { p.samples[0].tokens[7] ^= 1; } },
    { "other model)",                 [](auto & p) { p.model_id = "another"; } },
    { "method ",                      [](auto & p) { p.method = p.method == calibration_method::typical ? calibration_method::greedy : calibration_method::typical; } },
};

void test_resume(uint64_t seed) {
    const auto model = make_induction_model({});
    for (const calibration_method method : { calibration_method::windows, calibration_method::combined, calibration_method::ablation, calibration_method::greedy, calibration_method::masks, calibration_method::bosch, calibration_method::mass }) {
        const temporary_file file;
        auto p = make_params(method, seed);
        p.partial = file.path;
        p.model_id = "induction";
        const auto whole = duo::calibrate(model.get(), p);
        const std::string record = file.read();

        // it stops in the middle of a line
        file.write(record.substr(0, record.size() * 2 / 3));
        CHECK(duo::calibrate(model.get(), p).scores == whole.scores);

        // several runs that write at once: lines in any order, some twice, one cut short by the next
        std::vector<std::string> lines = lines_of(record);
        std::mt19937_64 rng(seed);
        std::shuffle(lines.begin() + 1, lines.end(), rng);
        lines.insert(lines.begin() + 1, lines.back());
        lines.insert(lines.begin() + 2, lines.back().substr(0, lines.back().size() / 2) + lines.back());
        file.write(join(lines));

        // nothing is left to do but the regression
        bool asked = false;
        p.cancelled = [&] { asked = true; return false; };
        CHECK(duo::calibrate(model.get(), p).scores == whole.scores);
        CHECK_EQ(asked, method == calibration_method::masks);
        p.cancelled = nullptr;

        // other parameters never discard what is there
        for (const auto & [wanted, spoil] : other_parameters) {
            auto other = p;
            spoil(other);
            CHECK_THROWS(duo::calibrate(model.get(), other), duo::calibration_error, file.path + ": it has measurements that were made with other options (" + wanted);
            CHECK_EQ(file.read(), join(lines));
        }

        // a file that was cut off in its first line, or before it, is begun anew
        for (const size_t n : { size_t(0), size_t(9), size_t(40) }) {
            file.write(record.substr(0, n));
            CHECK(duo::calibrate(model.get(), p).scores == whole.scores);
            CHECK_EQ(file.read(), record);
        }

        // a line that was changed is measured again
        std::string changed = record;
        changed[record.find('\n', record.find('\n') + 1) - 1] ^= 1; // the last digit of the first measurement
        file.write(changed);
        CHECK(duo::calibrate(model.get(), p).scores == whole.scores);
        CHECK(file.read().size() > record.size());

        // a file that is something else is left alone
        for (const std::string text : { "a shopping list\n1 2 3\n", "llama\n" }) {
            file.write(text);
            CHECK_THROWS(duo::calibrate(model.get(), p), duo::calibration_error, file.path + ": this is no file of partial results");
            CHECK_EQ(file.read(), text);
        }
    }
    auto p = make_params(calibration_method::ablation, seed);
    p.partial = "/no/such/folder/partial";
    CHECK_THROWS(duo::calibrate(model.get(), p), duo::calibration_error, "/no/such/folder/partial: cannot be written");
}

// Two runs that go on from one record at the same time, both interrupted: whoever goes on from it later gets what a single run would have got.
void test_shared_record(uint64_t seed) {
    const auto model = make_induction_model({});
    for (const calibration_method method : { calibration_method::ablation, calibration_method::greedy }) {
        const temporary_file file;
        auto p = make_params(method, seed);
        const auto whole = duo::calibrate(model.get(), p);
        p.partial  = file.path;
        p.model_id = "induction";

        const auto until = [&](duo::calibration_params run, double share, const std::function<void(double)> & progress) {
            bool enough = false;
            run.progress  = [&](double x) {
                progress(x);
                enough = x > share;
            };
            run.cancelled = [&] { return enough; };
            try {
                duo::calibrate(model.get(), run);
                CHECK(false);
            } catch (const duo::calibration_cancelled &) {
            }
        };
        until(p, 0.2, [](double) {});
        int n_started = 0;
        until(p, 0.6, [&](double x) {
            if (x > 0.3 && n_started++ == 0) {
                until(p, 0.8, [](double) {});
            }
        });
        CHECK(n_started > 0);
        CHECK(duo::calibrate(model.get(), p).scores == whole.scores);
    }
}

// Types that do not break the model lose in proportion to how much they disturb a typical token, at the rate that is nearest to what the answers' tokens were measured to
// lose. The record has both: the mean logarithm of a token's squared difference second, the lost probability last.
void test_type_losses(uint64_t seed) {
    const temporary_file file;
    induction_model built;
    built.seed = seed;
    const auto model = make_induction_model(built);
    auto p = make_params(calibration_method::windows, seed);
    p.types   = { GGML_TYPE_Q8_0, GGML_TYPE_Q5_0 };
    p.partial = file.path;
    const auto pattern = duo::calibrate(model.get(), p).pattern;

    struct type { double disturbance, lost; float loss; };
    std::vector<type> types;
    double product = 0, squares = 0;
    for (const std::string & line : lines_of(file.read())) {
        std::istringstream in(line);
        std::string checksum, key;
        double mse = 0, log_mse = 0, correct = 0, lost = 0;
        if (!(in >> checksum >> key >> mse >> log_mse >> correct >> lost) || key.rfind("types-", 0) != 0) {
            continue;
        }
        CHECK(correct >= 0.9); // q5_0 breaks this model nowhere
        const bool of_v = key.rfind("types-f16-", 0) == 0;
        const auto * found = duo::find_type(of_v ? pattern.v_types : pattern.k_types, key.substr(10, 4) == "q8_0" || key.substr(6, 4) == "q8_0" ? "q8_0" : "q5_0");
        types.push_back({ std::exp(log_mse / 2), lost, found ? found->loss : NAN });
        product += types.back().disturbance * lost;
        squares += types.back().disturbance * types.back().disturbance;
    }
    CHECK_EQ(types.size(), size_t(4));
    for (const type & t : types) {
        printf("disturbance %.3g: lost %.3g, loss %.3g\n", t.disturbance, t.lost, t.loss);
        CHECK(std::fabs(t.loss - product / squares * t.disturbance) <= 1e-5 * t.loss);
    }
    CHECK(product > 0);
}

void test_cancel(uint64_t seed) {
    const auto model = make_induction_model({});
    for (size_t m = 0; m < duo::calibration_method_names().size(); ++m) {
        const auto method = calibration_method(m);
        const char * name = duo::calibration_method_names()[m].c_str();
        auto p = make_params(method, seed);
        int n_progress = 0;
        double last = 0;
        p.progress  = [&](double x) {
            CHECK(x >= last && x <= 1);
            last = x;
            n_progress++;
        };
        p.cancelled = [&] { return n_progress >= 1; };
        bool cancelled = false;
        try {
            duo::calibrate(model.get(), p);
        } catch (const duo::calibration_cancelled &) {
            cancelled = true;
        }
        CHECK(cancelled);
        CHECK(n_progress <= 2); // no more than what was under way
        p.cancelled = nullptr;
        last = 0;
        duo::calibrate(model.get(), p);
        CHECK_EQ(last, 1.0);
    }

    // what follows the last measurement of many masks takes long, too
    auto p = make_params(calibration_method::masks, seed);
    bool measured = false, cancelled = false;
    p.progress  = [&](double x) { measured = x == 1; };
    p.cancelled = [&] { return measured; };
    try {
        duo::calibrate(model.get(), p);
    } catch (const duo::calibration_cancelled &) {
        cancelled = true;
    }
    CHECK(measured && cancelled);
}

// --- what cannot be ---

void test_errors(uint64_t seed) {
    const auto model = make_induction_model({});
    const auto fails = [&](const char * wanted, const std::function<void(duo::calibration_params &)> & spoil) {
        auto p = make_params(calibration_method::ablation, seed);
        spoil(p);
        CHECK_THROWS(duo::calibrate(model.get(), p), duo::calibration_error, wanted);
    };
    fails("no samples", [](auto & p) { p.samples.clear(); });
    fails("the model was trained for 4096", [](auto & p) { p.samples[1].tokens.resize(5000); });
    fails("sample 1 has a context of 420 tokens, all of which", [](auto & p) { p.recent = 450; });
    fails("no answers", [](auto & p) { p.samples[0].answers.clear(); });
    fails("not within its questions' tokens [501, 532)", [](auto & p) { p.samples[0].answers[0].first = 500; });
    fails("not within", [](auto & p) { p.samples[0].answers.back().second = 533; });
    fails("not within", [](auto & p) { std::swap(p.samples[0].answers[0], p.samples[0].answers[1]); });
    fails("not within", [](auto & p) { p.samples[0].answers[0].second = p.samples[0].answers[0].first; });
}

void test_model_of_nan(uint64_t seed) {
    const auto model = make_induction_model({});
    ggml_tensor * q = model->layers.back().wq;
    const std::vector<float> nan(size_t(q->ne[0]), NAN);
    ggml_backend_tensor_set(q, nan.data(), 0, nan.size() * sizeof(float));
    for (const calibration_method method : { calibration_method::typical, calibration_method::mass, calibration_method::mean_qk }) {
        CHECK_THROWS(duo::calibrate(model.get(), make_params(method, seed)), duo::calibration_error, "not finite: the model is damaged");
    }
}

// --- ranks ---

void test_ranks() {
    using list = std::vector<double>;
    CHECK((duo::ranks({ 3, 1, 2, 1, 5 }) == list { 0.75, 0.125, 0.5, 0.125, 1 }));
    CHECK((duo::ranks({ 7 }) == list { 1 }));

    // The second layer's noise is the first's, since nothing there loses less; the third has less of its own. Layers may differ in heads, or have none.
    CHECK((duo::beyond_rounding({ 9, 8, 10, 12, 4, 16 }, { 2, 1, 0, 3 }) == list { 1, 0, 2, 8, 0, 12 }));

    // By the larger rank; of two heads that have the same one, the other decides, and never outweighs it.
    const list x = duo::larger_ranks({ 0, 0.25, 0.5, 0.75, 1 }, { 1, 0.75, 0, 0.5, 0.25 });
    CHECK((duo::ranks(x) == list { 0.75, 0.25, 0, 0.5, 1 }));
}

// --- search ---

// Of 4 layers of 6 heads: a head's own loss, and pairs of heads that stand in for each other, of which a search may take one and not both. One by one, they look needless.
void test_bosch(uint64_t seed) {
    std::mt19937_64 rng(seed);
    for (int round = 0; round < 10; ++round) {
        std::vector<double> own(24);
        for (size_t i = 0; i < own.size(); ++i) {
            own[i] = 0.001 * double(rng() % 100);
        }
        std::vector<size_t> heads(own.size());
        std::iota(heads.begin(), heads.end(), 0);
        std::shuffle(heads.begin(), heads.end(), rng);
        const size_t needed = heads[0], a = heads[1], b = heads[2]; // a and b stand in for each other
        own[needed] = 10;
        own[a] = own[b] = 0;

        duo::bosch_params p;
        p.n_head_kv = { 6, 0, 6, 6, 6 };
        p.n_trials  = 400;
        p.seed      = seed;
        size_t n_losses = 0, n_settled = 0;
        duo::windowed_heads settled;
        p.settle = [&](const duo::windowed_heads & windowed) {
            for (size_t i = 0; i < settled.size(); ++i) {
                CHECK(windowed[i] >= settled[i]); // what has gone stays so
            }
            settled = windowed;
            CHECK_EQ(size_t(std::count(settled.begin(), settled.end(), 1)), (std::vector<size_t> { 0, 6, 12, 18, 21 })[n_settled++]);
        };
        const auto loss_of = [&](const duo::windowed_heads & windowed) {
            double sum = windowed[a] && windowed[b] ? 5 : 0;
            for (size_t i = 0; i < own.size(); ++i) {
                sum += windowed[i] ? own[i] : 0;
            }
            return sum;
        };
        p.loss = [&](const duo::windowed_heads & windowed) {
            n_losses++;
            return loss_of(windowed);
        };
        const auto order = duo::bosch_order(p);
        CHECK(n_losses <= duo::bosch_losses(p));
        CHECK_EQ(n_settled, size_t(5));
        CHECK_EQ(size_t(std::set<double>(order.begin(), order.end()).size()), own.size());
        CHECK_EQ(order[needed], 23.0);             // goes last of all
        CHECK(std::max(order[a], order[b]) >= 18); // not both before the last quarter
        n_settled = 0;
        settled.clear();
        CHECK(order == duo::bosch_order(p));       // the same seed, the same order
        // less is lost than by as many heads of any kind
        duo::windowed_heads found(own.size());
        double any = 0;
        for (size_t i = 0; i < own.size(); ++i) {
            found[i] = order[i] < 12;
        }
        for (int k = 0; k < 50; ++k) {
            std::shuffle(heads.begin(), heads.end(), rng);
            duo::windowed_heads random(own.size());
            for (size_t i = 0; i < 12; ++i) {
                random[heads[i]] = 1;
            }
            any += loss_of(random) / 50;
        }
        CHECK(loss_of(found) < 0.6 * any);
    }
}

// --- regression ---

void test_regression(uint64_t seed) {
    std::mt19937_64 rng(seed);
    std::normal_distribution<double> normal;
    std::vector<double> truth(30);
    for (auto & x : truth) {
        x = normal(rng);
    }
    // more rows than columns, little noise: the truth; as many as half the columns: something like it
    for (const size_t n_rows : { 300, 15 }) {
        std::vector<std::vector<double>> x(n_rows, std::vector<double>(truth.size()));
        std::vector<double> y;
        for (auto & row : x) {
            y.push_back(7.0 + 0.01 * normal(rng));
            for (size_t c = 0; c < truth.size(); ++c) {
                row[c] = rng() % 2 ? 1.0 : -1.0;
                y.back() += row[c] * truth[c];
            }
        }
        const auto found = duo::ridge_regression(x, y, [] {});
        double error = 0, product = 0;
        for (size_t c = 0; c < truth.size(); ++c) {
            error = std::max(error, std::fabs(found[c] - truth[c]));
            product += found[c] * truth[c];
        }
        CHECK(n_rows < truth.size() ? product > 0 : error < 0.05);
    }
}

} // namespace

int main() {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr); // being cancelled and refused is what it would report
    llama_backend_init();
    const uint64_t seed = check::seed();
    test_retrieval_head_ranks_first(seed);
    test_windows(seed);
    test_finer_layers(seed);
    test_type_losses(seed);
    test_strict(seed);
    test_unequal_samples(seed);
    test_architectures(seed);
    test_windowed_is_streaming(seed);
    test_windowed_is_streaming_in_other_models(seed);
    test_resume(seed);
    test_shared_record(seed);
    test_cancel(seed);
    test_errors(seed);
    test_model_of_nan(seed);
    test_ranks();
    test_bosch(seed);
    test_regression(seed);
    return check::result();
}
