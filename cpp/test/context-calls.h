// What tests of contexts do with the C ABI: contexts in F32, generations, sequences.
#pragma once

#include "abi-calls.h"
#include "check.h"
#include "random-model.h"

#include <random>
#include <string>
#include <vector>

using tokens_t = std::vector<int32_t>;

[[maybe_unused]] static uint32_t load(const std::string & path) {
    return take_result(submit(llama_duo_model_load, dump({ { "path", path } }))).at("model");
}

// --- contexts ---

struct cache_kind {
    const char * name;
    json         options; // of a context of one sequence
};

[[maybe_unused]] static json with_sequences(json options, int n, int n_ctx_seq = 512) {
    options["contextSize"] = n * n_ctx_seq;
    options["sequences"]   = n;
    options["threads"]     = 2;
    return options;
}

[[maybe_unused]] static uint32_t make(uint32_t model, const json & options) {
    return take_result(submit([=](const void * j, int32_t n, uint32_t * job) { return llama_duo_context_create(model, j, n, job); }, dump(options))).at("context");
}

// Half of the heads stream, with rings of 64 cells at most, which prompts here exceed.
[[maybe_unused]] static std::vector<cache_kind> kinds(std::mt19937_64 & rng, const random_model_params & p) {
    json gates = json::array();
    for (int64_t il = 0; il < p.n_layer; il++) {
        json row = json::array();
        for (int64_t h = 0; h < p.n_head_kv; h++) {
            row.push_back(double(rng() % 1000) / 1000);
        }
        gates.push_back(row);
    }
    const json pattern = { { "llamaDuoPattern", 1 }, { "layers", p.n_layer }, { "kvHeads", p.n_head_kv }, { "gates", gates } };
    const json f32     = { { "typeK", "f32" }, { "typeV", "f32" }, { "ubatchSize", 32 } };
    json stock = f32, mixed = f32;
    stock["flashAttention"] = "off";
    mixed["duo"] = { { "gates", pattern }, { "sparsity", 0.5 }, { "sink", 4 }, { "recent", 12 } };
    return { { "stock", stock }, { "mixed", mixed } };
}

// --- calls ---

[[maybe_unused]] static json_call generate(uint32_t context, const tokens_t & prompt) {
    return [=](const void * j, int32_t n, uint32_t * job) { return llama_duo_generate(context, prompt.data(), int32_t(prompt.size()), nullptr, 0, j, n, job); };
}

[[maybe_unused]] static json_call score(uint32_t context, const tokens_t & tokens) {
    return [=](const void * j, int32_t n, uint32_t * job) { return llama_duo_score(context, tokens.data(), int32_t(tokens.size()), nullptr, 0, j, n, job); };
}

[[maybe_unused]] static json greedy(int n) {
    return { { "maxTokens", n }, { "temperature", 0 }, { "ignoreEos", true } };
}

[[maybe_unused]] static tokens_t generated(uint32_t context, const tokens_t & prompt, const json & options, json * result = nullptr) {
    const uint32_t job = submit(generate(context, prompt), dump(options));
    const tokens_t tokens = drain_all(job).tokens;
    const json r = take_result(job);
    if (result) {
        *result = r;
    }
    return tokens;
}

[[maybe_unused]] static tokens_t random_tokens(std::mt19937_64 & rng, size_t n) {
    tokens_t t(n);
    for (auto & x : t) {
        x = int32_t(3 + rng() % 500);
    }
    return t;
}

[[maybe_unused]] static tokens_t joined(tokens_t a, const tokens_t & b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

// --- sequences ---

[[maybe_unused]] static uint32_t start(const std::function<int32_t(uint32_t *)> & call) {
    uint32_t job = 0;
    CHECK_EQ(call(&job), LLAMA_DUO_OK);
    return job;
}

[[maybe_unused]] static uint32_t create(uint32_t context) {
    return take_result(start([&](uint32_t * job) { return llama_duo_sequence_create(context, job); })).at("sequence");
}

[[maybe_unused]] static uint32_t append(uint32_t s, const tokens_t & tokens) {
    return start([&](uint32_t * job) { return llama_duo_sequence_append(s, tokens.data(), int32_t(tokens.size()), nullptr, 0, "{}", 2, job); });
}

[[maybe_unused]] static uint32_t fork(uint32_t s) {
    return take_result(start([&](uint32_t * job) { return llama_duo_sequence_fork(s, job); })).at("sequence");
}

[[maybe_unused]] static uint32_t truncate(uint32_t s, int32_t n) {
    return start([&](uint32_t * job) { return llama_duo_sequence_truncate(s, n, job); });
}

[[maybe_unused]] static std::vector<float> logits(uint32_t s) {
    return take_data<float>(start([&](uint32_t * job) { return llama_duo_sequence_logits(s, job); }));
}

[[maybe_unused]] static std::vector<double> scored(uint32_t s, const tokens_t & tokens) {
    return take_data<double>(start([&](uint32_t * job) { return llama_duo_sequence_score(s, tokens.data(), int32_t(tokens.size()), nullptr, 0, "{}", 2, job); }));
}

[[maybe_unused]] static tokens_t generated_on(uint32_t s, const tokens_t & prompt, const json & options) {
    const std::string text = dump(options);
    const uint32_t job = start([&](uint32_t * job) {
        return llama_duo_sequence_generate(s, prompt.data(), int32_t(prompt.size()), nullptr, 0, text.data(), int32_t(text.size()), job); });
    const tokens_t tokens = drain_all(job).tokens;
    take_result(job);
    return tokens;
}

[[maybe_unused]] static int32_t length(uint32_t s, int32_t * resumable_from = nullptr) {
    int32_t n = -1, from = -1;
    CHECK_EQ(llama_duo_sequence_size(s, &n, &from), LLAMA_DUO_OK);
    CHECK(from >= 0 && from <= n);
    if (resumable_from) {
        *resumable_from = from;
    }
    return n;
}

[[maybe_unused]] static uint32_t save(uint32_t s, const std::string & options = "{}") {
    return start([&](uint32_t * job) { return llama_duo_sequence_save(s, options.data(), int32_t(options.size()), job); });
}

[[maybe_unused]] static uint32_t load_state(uint32_t s, const std::vector<char> & bytes, const std::string & options = "{}") {
    return start([&](uint32_t * job) { return llama_duo_sequence_load(s, bytes.data(), int32_t(bytes.size()), options.data(), int32_t(options.size()), job); });
}
