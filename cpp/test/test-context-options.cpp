// Contexts of random options and of every architecture: what is planned is what is made, and what cannot be made is a typed error.
// The first argument is a small model with gates of its own.
#include "abi-calls.h"
#include "architectures.h"
#include "check.h"
#include "random-model.h"

#include "llama-cpp.h"

#include <algorithm>
#include <random>
#include <set>

static uint32_t load(const std::string & path, json more = json::object()) {
    more["path"] = path;
    return take_result(submit(llama_duo_model_load, dump(more))).at("model");
}

static json_call create(uint32_t model) {
    return [=](const void * j, int32_t n, uint32_t * job) { return llama_duo_context_create(model, j, n, job); };
}

static json_call plan(uint32_t model) {
    return [=](const void * j, int32_t n, uint32_t * job) { return llama_duo_context_plan(model, j, n, job); };
}

// How a job ended, in words that a plan and a creation share: "made" and its sizes, or the error's code.
struct outcome {
    std::string what;
    json        value; // the result, or the error
};

static outcome outcome_of(uint32_t job) {
    const bool    made   = wait_for(job) == LLAMA_DUO_JOB_DONE;
    const outcome result = { made ? "made" : "", made ? result_of(job) : error_of(job) };
    CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
    return made ? result : outcome { result.value.at("code"), result.value };
}

static outcome planned(uint32_t model, const json & options) {
    outcome o = outcome_of(submit(plan(model), dump(options)));
    if (o.what == "made" && o.value.at("supported") == false) {
        // with mixed heads it is they that cannot be had, without it is the context
        return { options.contains("duo") ? "unsupported" : "context", o.value };
    }
    return o;
}

// The outcome of making it; the context is used for a token, then freed.
static outcome made(uint32_t model, const json & options) {
    outcome o = outcome_of(submit(create(model), dump(options)));
    if (o.what == "made") {
        const uint32_t c = o.value.at("context");
        const int32_t  prompt[] = { 5, 6, 7 };
        const uint32_t job = submit([=](const void * j, int32_t n, uint32_t * job) { return llama_duo_generate(c, prompt, 3, nullptr, 0, j, n, job); },
                R"({"maxTokens":2,"temperature":0,"ignoreEos":true})");
        CHECK_EQ(drain_all(job).tokens.size(), size_t(2));
        take_result(job);
        give_back(llama_duo_context_free, c);
    }
    return o;
}

static const std::set<std::string> typed = { "made", "option", "gates", "unsupported", "context" };

// Plans and makes the same, and compares. Returns how it ended.
static std::string compare(uint32_t model, const json & options, const std::string & of = "") {
    const outcome p = planned(model, options);
    const outcome m = made(model, options);
    const bool agree = p.what == m.what && typed.count(m.what) && (m.what != "made" || (p.value.at("kv") == m.value.at("kv") && p.value.at("draftKv") == m.value.at("draftKv") && p.value.at("warnings") == m.value.at("warnings")));
    CHECK(agree);
    if (!agree) {
        fprintf(stderr, "    %s %s\n    planned: %s\n    made: %s\n", of.c_str(), dump(options).c_str(), dump(p.value).c_str(), dump(m.value).c_str());
    }
    return m.what;
}

// --- random options ---

class dice {
public:
    explicit dice(uint64_t seed) : rng(seed) {}

    template <class T> T one_of(const std::vector<T> & from) { return from[rng() % from.size()]; }
    bool chance(double p) { return std::uniform_real_distribution<>(0, 1)(rng) < p; }

private:
    std::mt19937_64 rng;
};

static json random_options(dice & d, uint32_t model) {
    json o = json::object();
    const auto maybe = [&](const char * key, double p, auto value) {
        if (d.chance(p)) {
            o[key] = value;
        }
    };
    maybe("contextSize",  0.95, d.one_of<int>({ 1, 2, 7, 63, 255, 256, 257, 300, 512, 1000, 2048, 4096 }));
    maybe("sequences",    0.6,  d.one_of<int>({ 1, 2, 3, 4, 7, 8, 16, 64, 255, 256 }));
    maybe("batchSize",    0.7,  d.one_of<int>({ 1, 2, 3, 5, 8, 31, 64, 255, 256, 300, 2048, 1 << 30 }));
    maybe("ubatchSize",   0.7,  d.one_of<int>({ 1, 2, 3, 7, 32, 64, 300, 512, 4096, 1 << 30 }));
    maybe("threads",      1,    d.one_of<int>({ 1, 2 }));
    maybe("typeK",        0.3,  d.one_of<std::string>({ "f32", "f16", "bf16", "q8_0", "q4_0", "iq4_nl", "q5_1" }));
    maybe("typeV",        0.3,  d.one_of<std::string>({ "f32", "f16", "bf16", "q8_0", "q4_0", "iq4_nl", "q5_1" }));
    maybe("flashAttention", 0.3, d.one_of<std::string>({ "auto", "on", "off" }));
    maybe("speculative",  0.3, d.one_of<json>({ { { "lookup", true } }, { { "lookup", true }, { "maxTokens", 300 } }, { { "draft", model } }, { { "draft", model }, { "typeK", "q8_0" } } }));
    if (d.chance(0.6)) {
        json duo = json::object();
        duo["sparsity"] = d.one_of<double>({ 0, 0.25, 0.5, 1 });
        if (d.chance(0.8)) {
            duo["gates"] = "auto";
        }
        const auto size = [&](const char * key, const std::vector<int> & from) {
            if (d.chance(0.5)) {
                duo[key] = d.one_of(from);
            }
        };
        size("sink",   { 0, 1, 16, 64, 5000, 1 << 30, INT32_MAX });
        size("recent", { 0, 1, 32, 256, 5000, 1 << 30, INT32_MAX });
        size("chunk",  { 1, 2, 512, 1 << 30, INT32_MAX });
        o["duo"] = duo;
    }
    return o;
}

static void test_random(uint32_t model, uint64_t seed, int n_rounds) {
    dice d(seed);
    std::map<std::string, int> ends;
    for (int i = 0; i < n_rounds; i++) {
        ends[compare(model, random_options(d, model))]++;
    }
    for (const auto & [what, n] : ends) {
        printf("random options: %d %s\n", n, what.c_str());
    }
    // all of them are met
    for (const char * what : { "made", "option", "gates", "unsupported", "context" }) {
        CHECK(ends[what] > 0);
    }
}

// --- sizes ---

static void test_sizes(uint32_t model) {
    for (const char * duo : { "", R"(,"duo":{"sparsity":1})" }) {
        const auto with = [&](const std::string & sizes) { return "{\"threads\":1," + sizes + duo + "}"; };
        for (const auto & call : { create(model), plan(model) }) {
            check_refused(call, with(R"("contextSize":4096,"sequences":2,"batchSize":1)"), "batchSize", "an integer of at least 2");
            check_refused(call, with(R"("contextSize":4096,"sequences":256,"batchSize":255)"), "batchSize", "an integer of at least 256");
        }
        // few tokens are rounded up before batches are cut to them
        for (const char * sizes : { R"("contextSize":1,"sequences":2)", R"("contextSize":1,"sequences":256,"batchSize":256)" }) {
            CHECK_EQ(compare(model, json::parse(with(sizes))), "made");
        }
        const json c = take_result(submit(create(model), with(R"("contextSize":300)")));
        CHECK_EQ(c.at("contextSize"), 512);
        CHECK_EQ(c.at("batchSize"), 512);
        give_back(llama_duo_context_free, c.at("context"));
    }
}

// llama.cpp's own tools have no check before llama_init_from_model: it has to refuse by itself.
static void test_tools(const char * path) {
    const llama_model_ptr model(llama_model_load_from_file(path, llama_model_default_params()));
    for (const bool duo : { false, true }) {
        llama_context_params p = llama_context_default_params();
        p.n_ctx        = 4096;
        p.n_seq_max    = 8;
        p.n_batch      = 4;
        p.duo.enabled  = duo;
        p.duo.sparsity = 1;
        CHECK(llama_context_ptr(llama_init_from_model(model.get(), p)) == nullptr);
        p.n_batch = 8;
        CHECK(llama_context_ptr(llama_init_from_model(model.get(), p)) != nullptr);
    }
}

// A model that was trained for fewer tokens than there are sequences.
static void test_small_model() {
    random_model_params params;
    params.n_ctx = 32;
    const random_model_file file(params);
    const uint32_t model = load(file.path());
    CHECK_EQ(compare(model, { { "sequences", 64 }, { "threads", 1 } }), "made");
    CHECK_EQ(compare(model, { { "sequences", 64 }, { "threads", 1 }, { "duo", { { "sparsity", 1 } } } }), "made");

    const auto warnings = [&](int size) { return take_result(submit(plan(model), dump({ { "contextSize", size } }))).at("warnings"); };
    CHECK(warnings(0).empty());
    CHECK(warnings(256).empty()); // as many as there can be at least
    CHECK_EQ(warnings(257).size(), size_t(1));
    CHECK_EQ(warnings(257).at(0).at("code"), "beyond-training");
    CHECK(contains(warnings(257).at(0).at("message"), "512 tokens, and the model was trained for 32"));
    give_back(llama_duo_model_free, model);
}

// --- architectures ---

// Without mixed heads a context of any kind can be planned, also of a model that has no weights.
static void check_architecture(const random_model_file & file, const std::string & name) {
    const uint32_t model      = load(file.path());
    const uint32_t weightless = load(file.path(), { { "weights", false } });
    for (const json & options : { json { { "contextSize", 1024 }, { "threads", 1 } }, json { { "contextSize", 1024 }, { "threads", 1 }, { "flashAttention", "off" } } }) {
        const std::string what = compare(model, options, name);
        const outcome     p    = planned(weightless, options);
        CHECK_EQ(p.what, what);
        if (what == "made") {
            CHECK_EQ(dump(p.value), dump(planned(model, options).value));
            CHECK(p.value.at("kv").at("totalBytes") > 0);
        } else {
            fprintf(stderr, "    %s: %s\n", name.c_str(), dump(p.value).c_str());
        }
    }
    CHECK_EQ(take_error(submit(create(weightless), "{}")).at("code"), "context");
    give_back(llama_duo_model_free, model);
    give_back(llama_duo_model_free, weightless);
}

static void test_architectures(uint64_t seed) {
    for (const auto & a : architectures()) {
        check_architecture(random_model_file(a.params(seed)), a.name);
    }
    // a cache with windows of the model's own
    for (const char * metadata : { "attention.sliding_window=64" }) {
        random_model_params params;
        params.seed     = seed;
        params.arch     = "gemma2";
        params.metadata = metadata;
        params.tensors  = "token_embd E V; output_norm E";
        params.block    = "attn_norm E; attn_q E HD; attn_k E GD; attn_v E GW; attn_output HW E; post_attention_norm E; ffn_norm E; ffn_gate E F; ffn_up E F; ffn_down F E; post_ffw_norm E";
        const random_model_file file(params);
        check_architecture(file, "gemma2 with sliding windows");

        const uint32_t model = load(file.path());
        const json mixed = { { "contextSize", 1024 }, { "duo", { { "sparsity", 1 } } } };
        CHECK_EQ(compare(model, mixed), "made");
        CHECK(planned(model, mixed).value.at("kv").at("windowedBytes") > 0);
        give_back(llama_duo_model_free, model);
    }
}

int main(int argc, char ** argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: test-context-options MODEL\n");
        return 2;
    }
    const uint64_t seed = check::seed();
    const char *   env  = getenv("LLAMA_DUO_TEST_ROUNDS");

    const uint32_t model = load(argv[1]);
    test_sizes(model);
    test_small_model();
    test_tools(argv[1]);
    test_random(model, seed, env ? atoi(env) : 150);
    test_architectures(seed);
    return check::result();
}
