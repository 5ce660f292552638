// Several sequences in one context: what runs together is what runs alone, and nothing of one shows in another. On small random models, in F32.
#include "abi-calls.h"
#include "check.h"
#include "context-calls.h"
#include "random-model.h"

#include "fnv1a.h"
#include "ggml.h"
#include "gguf.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <random>
#include <set>

// --- the scheduler ---

// 100 requests over 4 sequences, some cancelled: each result is its twin's that ran alone.
static void test_twins(uint32_t model, const cache_kind & kind, std::mt19937_64 & rng) {
    const tokens_t common = random_tokens(rng, 40);
    struct request {
        tokens_t prompt;
        int      n;
        bool     cancel;
        tokens_t alone;
        uint32_t job = 0;
        drained  d;
    };
    std::vector<request> requests(100);
    const uint32_t one = make(model, with_sequences(kind.options, 1));
    for (auto & r : requests) {
        const tokens_t own = random_tokens(rng, 1 + rng() % 150);
        r.prompt = rng() % 2 ? joined(common, own) : own;
        r.n      = 1 + int(rng() % 30);
        r.cancel = rng() % 4 == 0;
        json options = greedy(r.n);
        options["reuse"] = false;
        r.alone = generated(one, r.prompt, options);
        CHECK_EQ(r.alone.size(), size_t(r.n));
    }
    give_back(llama_duo_context_free, one);

    const uint32_t four = make(model, with_sequences(kind.options, 4));
    for (auto & r : requests) {
        r.job = submit(generate(four, r.prompt), dump(greedy(r.n)));
    }
    size_t n_left = requests.size(), n_together = 0, n_cancelled = 0;
    while (n_left > 0) {
        n_left = 0;
        size_t n_running = 0;
        for (auto & r : requests) {
            if (r.d.state < LLAMA_DUO_JOB_DONE || r.d.more) {
                const bool ran = r.d.state == LLAMA_DUO_JOB_RUNNING;
                n_left++;
                drain(r.job, r.d);
                n_running += ran && r.d.state == LLAMA_DUO_JOB_RUNNING; // and so at the moment between two rounds, when all of these did
                if (r.cancel && (rng() % 8 == 0 || r.d.tokens.size() > 3)) {
                    CHECK_EQ(llama_duo_job_cancel(r.job), LLAMA_DUO_OK);
                }
            }
        }
        n_together = std::max(n_together, n_running);
        sleep_ms(1);
    }
    CHECK_EQ(n_together, size_t(4));
    size_t n_reused = 0, n_equal = 0;
    for (auto & r : requests) {
        if (r.d.state == LLAMA_DUO_JOB_CANCELLED) {
            CHECK(r.cancel);
            n_cancelled++;
            CHECK(std::equal(r.d.tokens.begin(), r.d.tokens.end(), r.alone.begin())); // as far as it came
            CHECK_EQ(llama_duo_job_free(r.job), LLAMA_DUO_OK);
            continue;
        }
        n_reused += take_result(r.job).at("reusedTokens") > 0;
        n_equal  += r.d.tokens == r.alone;
        CHECK(r.d.tokens == r.alone);
    }
    printf("%s: %zu equal, %zu cancelled, %zu reused something\n", kind.name, n_equal, n_cancelled, n_reused);
    CHECK(n_cancelled > 0);
    CHECK(n_reused > 0 || std::string(kind.name) == "mixed");
    give_back(llama_duo_context_free, four);
}

// A reader that pauses keeps its own sequence only.
static void test_paused_reader(uint32_t model, const cache_kind & kind, std::mt19937_64 & rng) {
    const uint32_t c = make(model, with_sequences(kind.options, 2));
    json options = greedy(60);
    options["window"] = 4;
    const uint32_t slow = submit(generate(c, random_tokens(rng, 20)), dump(options));
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(generated(c, random_tokens(rng, 20), greedy(20)).size(), size_t(20));
    }
    CHECK_EQ(state_of(slow), LLAMA_DUO_JOB_RUNNING);
    drained d;
    drain(slow, d);
    CHECK_EQ(d.tokens.size(), size_t(4));

    // it goes on where others wait for a sequence
    const uint32_t a = submit(generate(c, random_tokens(rng, 20)), dump(options));
    const uint32_t b = submit(generate(c, random_tokens(rng, 20)), dump(greedy(10)));
    CHECK_EQ(wait_for(b), LLAMA_DUO_JOB_DONE);
    for (const uint32_t job : { slow, a, b }) {
        CHECK_EQ(drain_all(job).tokens.size(), size_t(job == slow ? 56 : job == a ? 60 : 10));
        const json r = take_result(job);
        CHECK(r.at("queuedSeconds") >= 0);
    }
    give_back(llama_duo_context_free, c);
}

// An error or a cancelled job ends that one alone.
static void test_isolation(uint32_t model, const cache_kind & kind, std::mt19937_64 & rng) {
    const uint32_t c = make(model, with_sequences(kind.options, 4));
    const tokens_t prompt = random_tokens(rng, 30);
    const tokens_t alone  = generated(c, prompt, greedy(40));

    std::vector<uint32_t> jobs;
    for (int i = 0; i < 3; i++) {
        jobs.push_back(submit(generate(c, prompt), dump(greedy(40))));
    }
    json impossible = greedy(40);
    impossible["grammar"] = "root ::= \"a\" \"\\x00\"";
    const uint32_t bad = submit(generate(c, prompt), dump(impossible));
    CHECK_EQ(take_error(bad).at("code"), "grammar");
    const uint32_t long_one = submit(generate(c, random_tokens(rng, 500)), dump(greedy(5)));
    sleep_ms(2);
    CHECK_EQ(llama_duo_job_cancel(long_one), LLAMA_DUO_OK);
    CHECK_EQ(wait_for(long_one), LLAMA_DUO_JOB_CANCELLED);
    CHECK_EQ(llama_duo_job_free(long_one), LLAMA_DUO_OK);
    for (const uint32_t job : jobs) {
        CHECK(drain_all(job).tokens == alone);
        take_result(job);
    }

    // full, and refused
    const json full = take_error(submit(generate(c, random_tokens(rng, 513)), "{}"));
    CHECK_EQ(full.at("code"), "full");
    CHECK(contains(full.at("message"), "513"));
    json r;
    CHECK_EQ(generated(c, random_tokens(rng, 510), greedy(-1), &r).size(), size_t(3)); // 2 of them computed
    CHECK_EQ(r.at("stop"), "full");
    check_refused(generate(c, prompt), R"({"n":5})", "n", "an integer from 1 to 4");
    give_back(llama_duo_context_free, c);
}

// The free sequence that holds most of a prompt is taken.
static void test_prefixes(uint32_t model, const cache_kind & kind, std::mt19937_64 & rng) {
    const uint32_t c = make(model, with_sequences(kind.options, 3));
    std::vector<tokens_t> prompts, answers;
    for (int i = 0; i < 3; i++) {
        prompts.push_back(random_tokens(rng, 60));
        answers.push_back(generated(c, prompts[i], greedy(6)));
    }
    for (const int i : { 1, 0, 2, 2, 0 }) {
        json r;
        CHECK(generated(c, prompts[i], greedy(6), &r) == answers[i]);
        CHECK_EQ(r.at("reusedTokens"), 59);
    }
    // a conversation goes on
    json r;
    generated(c, joined(joined(prompts[1], answers[1]), { 7, 8, 9 }), greedy(1), &r);
    CHECK_EQ(r.at("reusedTokens"), 65);
    // the one that was used longest ago is taken for what is new, the others stay
    generated(c, random_tokens(rng, 60), greedy(1), &r);
    CHECK_EQ(r.at("reusedTokens"), 0);
    generated(c, prompts[0], greedy(1), &r);
    CHECK_EQ(r.at("reusedTokens"), 59);
    give_back(llama_duo_context_free, c);
}

// --- sampling ---

static tokens_t drain_choice(uint32_t job, int32_t choice) {
    tokens_t all, some(64);
    std::string text(4096, '?');
    int32_t info[4] = { 0, 0, 0, 1 };
    while (info[3]) {
        CHECK_EQ(llama_duo_job_drain_choice(job, choice, some.data(), 64, text.data(), 4096, info), LLAMA_DUO_OK);
        all.insert(all.end(), some.begin(), some.begin() + info[0]);
    }
    return all;
}

static void test_choices(uint32_t model, const cache_kind & kind, std::mt19937_64 & rng) {
    const uint32_t c = make(model, with_sequences(kind.options, 3));
    const tokens_t prompt = random_tokens(rng, 70);
    const json     seeded = { { "maxTokens", 12 }, { "temperature", 1.5 }, { "topK", 0 }, { "seed", 5 }, { "ignoreEos", true }, { "repeatPenalty", 1.3 } };
    std::vector<tokens_t> alone;
    for (int i = 0; i < 3; i++) {
        json o = seeded;
        o["seed"] = 5 + i;
        alone.push_back(generated(c, prompt, o));
    }
    CHECK(alone[0] != alone[1] && alone[1] != alone[2]);

    json three = seeded;
    three["n"]     = 3;
    three["reuse"] = false;
    const uint32_t job = submit(generate(c, prompt), dump(three));
    CHECK_EQ(wait_for(job), LLAMA_DUO_JOB_DONE);
    // tokens that are computed together are summed in another order: where a draw falls between two tokens, one text may part from its twin
    int n_same = 0;
    for (int i = 0; i < 3; i++) {
        n_same += drain_choice(job, i) == alone[i];
    }
    CHECK(n_same >= 2);
    int32_t info[4];
    tokens_t none(16);
    std::string text(4096, '?');
    CHECK_EQ(llama_duo_job_drain_choice(job, 3, none.data(), 16, text.data(), 4096, info), LLAMA_DUO_E_ARGUMENT);
    const json r = take_result(job);
    CHECK_EQ(r.at("choices").size(), size_t(3));
    CHECK_EQ(r.at("choices")[2].at("generatedTokens"), 12);
    CHECK_EQ(r.at("promptTokens"), 70);
    give_back(llama_duo_context_free, c);
}

static void test_log_probs(uint32_t model, const cache_kind & kind, std::mt19937_64 & rng) {
    const uint32_t c = make(model, with_sequences(kind.options, 2));
    const tokens_t prompt = random_tokens(rng, 25);
    const uint32_t job = submit(generate(c, prompt), R"({"maxTokens":10,"temperature":2,"topK":0,"seed":3,"logProbs":4,"ignoreEos":true})");
    const tokens_t tokens = drain_all(job).tokens;
    std::vector<double> numbers(200);
    int32_t n = 0;
    CHECK_EQ(llama_duo_job_drain_log_probs(job, 0, numbers.data(), 8, &n), LLAMA_DUO_E_SPACE);
    CHECK_EQ(llama_duo_job_drain_log_probs(job, 0, numbers.data(), 200, &n), LLAMA_DUO_OK);
    CHECK_EQ(n, 90);
    take_result(job);

    const auto scores = take_data<double>(submit(score(c, joined(prompt, tokens)), dump({ { "from", prompt.size() } })));
    for (size_t i = 0; i < tokens.size(); i++) {
        const double * record = &numbers[i * 9];
        CHECK_NEAR(record[0], scores[i], 1e-4);
        for (size_t k = 0; k < 4; k++) {
            CHECK(record[2 + 2 * k] <= (k ? record[2 * k] : 0)); // likeliest first
            CHECK(record[1 + 2 * k] != tokens[i] || record[2 + 2 * k] == record[0]);
        }
        CHECK(record[2] >= record[0]);
    }
    give_back(llama_duo_context_free, c);
}

// Every sampler takes its options, holds what it promises where that can be told, and is refused what is out of range.
static void test_samplers(uint32_t model, const cache_kind & kind, std::mt19937_64 & rng) {
    const uint32_t c = make(model, with_sequences(kind.options, 1));
    const tokens_t prompt = random_tokens(rng, 25);
    const tokens_t likeliest = generated(c, prompt, greedy(8));
    const auto sampled = [&](json more) {
        json o = { { "maxTokens", 8 }, { "temperature", 1.2 }, { "seed", 11 }, { "ignoreEos", true } };
        o.update(more);
        return generated(c, prompt, o);
    };
    CHECK(sampled({ { "topK", 0 }, { "temperature", 5 }, { "minP", 0 }, { "topP", 1 } }) != likeliest);
    CHECK(sampled({ { "topK", 1 } }) == likeliest);
    CHECK(sampled({ { "topP", 1e-6 } }) == likeliest);
    CHECK(sampled({ { "minP", 1 } }) == likeliest);
    CHECK(sampled({ { "topNSigma", 1e-6 } }) == likeliest);
    CHECK(sampled({ { "samplers", { "top_k" } }, { "topK", 1 } }) == likeliest);
    CHECK(sampled({ { "temperature", 0 }, { "dynamicTemperatureRange", 0 } }) == likeliest);
    CHECK(sampled({ { "temperature", 0 }, { "frequencyPenalty", 100 } }) != likeliest || std::set<int32_t>(likeliest.begin(), likeliest.end()).size() == 8);
    for (const json & o : std::vector<json> { { { "typicalP", 0.5 } }, { { "xtcProbability", 1 }, { "xtcThreshold", 0.01 } }, { { "dryMultiplier", 0.8 }, { "dryLastN", -1 } },
            { { "dynamicTemperatureRange", 0.5 } }, { { "mirostat", 1 } }, { { "mirostat", 2 }, { "mirostatTau", 2 } }, { { "presencePenalty", 1 } },
            { { "samplers", { "adaptive_p" } }, { "adaptiveTarget", 0.3 } }, { { "minKeep", 5 }, { "topP", 0.01 } } }) {
        const tokens_t once = sampled(o);
        CHECK_EQ(once.size(), size_t(8));
        CHECK(sampled(o) == once); // seeded
    }
    CHECK(sampled({ { "minKeep", 5 }, { "topP", 0.01 } }) != sampled({ { "topP", 0.01 } }));

    // biases
    const tokens_t biased = sampled({ { "temperature", 0 }, { "logitBias", { { 77, 1000 } } } });
    CHECK(std::all_of(biased.begin(), biased.end(), [](int32_t t) { return t == 77; }));
    const tokens_t never = sampled({ { "temperature", 0 }, { "logitBias", { { likeliest[0], false } } } });
    CHECK(never[0] != likeliest[0]);

    check_refused(generate(c, prompt), R"({"logitBias":[[512,1]]})", "logitBias", "finite number or false");
    check_refused(generate(c, prompt), R"({"logitBias":[[5,true]]})", "logitBias", "finite number or false");
    check_refused(generate(c, prompt), R"({"samplers":["top_q"]})", "samplers", "penalties, dry");
    check_refused(generate(c, prompt), R"({"mirostat":3})", "mirostat", "from 0 to 2");
    check_refused(generate(c, prompt), R"({"logProbs":-1})", "logProbs", "an integer from 0 to 512");
    check_refused(generate(c, prompt), R"({"jsonSchema":5})", "jsonSchema", "a JSON schema");
    check_refused(generate(c, prompt), R"({"jsonSchema":{"type":"object"},"grammar":"root ::= \"a\""})", "jsonSchema", "either");

    // a schema: JSON comes out, or as much of it as there was room for
    json o = greedy(-1);
    o["jsonSchema"] = json::parse(R"({"type":"object","properties":{"ok":{"type":"boolean"},"kind":{"enum":["a","b"]}},"required":["ok","kind"],"additionalProperties":false})");
    o["ignoreEos"]  = false;
    const uint32_t job = submit(generate(c, prompt), dump(o));
    const drained  d   = drain_all(job);
    if (take_result(job).at("stop") == "eos") {
        const json value = json::parse(d.text);
        CHECK(value.at("ok").is_boolean());
        CHECK(value.at("kind") == "a" || value.at("kind") == "b");
    } else {
        CHECK(contains(d.text, "{"));
    }
    give_back(llama_duo_context_free, c);
}

// --- sequences ---

static double furthest(const std::vector<float> & a, const std::vector<float> & b) {
    double d = a.size() == b.size() ? 0 : INFINITY;
    for (size_t i = 0; i < a.size() && i < b.size(); i++) {
        d = std::max(d, double(std::fabs(a[i] - b[i])));
    }
    return d;
}

static void test_sequences(uint32_t model, const cache_kind & kind, std::mt19937_64 & rng) {
    const uint32_t c = make(model, with_sequences(kind.options, 3));
    const tokens_t text = random_tokens(rng, 50), more = random_tokens(rng, 5);
    const tokens_t answer = generated(c, text, greedy(10));

    const uint32_t s = create(c);
    CHECK_EQ(length(s), 0);
    const json empty = take_error(start([&](uint32_t * job) { return llama_duo_sequence_logits(s, job); }));
    CHECK_EQ(empty.at("code"), "state");
    CHECK_EQ(take_result(append(s, { text.begin(), text.begin() + 20 })).at("length"), 20);
    const json appended = take_result(append(s, { text.begin() + 20, text.end() }));
    CHECK_EQ(appended.at("appendedTokens"), 30);
    CHECK_EQ(length(s), 50);

    // what it expects next is what generating takes
    const auto next = logits(s);
    CHECK_EQ(next.size(), size_t(512));
    CHECK_EQ(int32_t(std::max_element(next.begin(), next.end()) - next.begin()), answer[0]);
    CHECK(furthest(logits(s), next) == 0); // kept
    const uint32_t copy = fork(s);
    CHECK(furthest(logits(copy), next) == 0);
    CHECK(generated_on(s, {}, greedy(10)) == answer);
    CHECK_EQ(length(s), 60);
    CHECK(generated_on(copy, {}, greedy(10)) == answer);

    // all are taken: a third waits, another generation, too, until one is free
    const uint32_t third = create(c);
    const uint32_t waits = submit(generate(c, text), dump(greedy(10)));
    const uint32_t fourth = start([&](uint32_t * job) { return llama_duo_sequence_fork(copy, job); });
    sleep_ms(50);
    CHECK_EQ(state_of(waits), LLAMA_DUO_JOB_QUEUED);
    CHECK_EQ(state_of(fourth), LLAMA_DUO_JOB_QUEUED);
    CHECK_EQ(llama_duo_job_free(fourth), LLAMA_DUO_OK);
    CHECK_EQ(llama_duo_sequence_free(third), LLAMA_DUO_OK);
    CHECK(drain_all(waits).tokens == answer);
    take_result(waits);
    CHECK_EQ(llama_duo_sequence_free(third), LLAMA_DUO_E_HANDLE);

    // back by a few tokens, exactly, and on from there
    CHECK_EQ(take_result(truncate(s, 55)).at("length"), 55);
    CHECK(generated_on(s, {}, greedy(5)) == tokens_t(answer.begin() + 5, answer.end()));
    const json beyond = take_error(truncate(s, 61));
    CHECK_EQ(beyond.at("name"), "length");

    // as far back as it says, and no further
    take_result(append(s, random_tokens(rng, 200)));
    int32_t from = -1;
    const int32_t n = length(s, &from);
    CHECK_EQ(n, 260);
    CHECK_EQ(from > 0, std::string(kind.name) == "mixed");
    if (from > 1) {
        const json refused = take_error(truncate(s, from - 1));
        CHECK_EQ(refused.at("code"), "state");
        CHECK_EQ(refused.at("resumableFrom"), from);
        CHECK(contains(refused.at("message"), std::to_string(from)));
        CHECK_EQ(length(s), 260);
    }
    CHECK_EQ(take_result(truncate(s, std::max(from, 100))).at("length"), std::max(from, 100));
    CHECK_EQ(take_result(truncate(s, 0)).at("length"), 0);

    // scores are those of one pass, in pieces, too
    const tokens_t all = joined(text, more);
    const auto expected = take_data<double>(submit(score(c, all), "{}"));
    auto found = scored(s, text);
    CHECK_EQ(found.size(), text.size() - 1);
    CHECK_EQ(length(s), 50);
    for (const double p : scored(s, more)) {
        found.push_back(p);
    }
    CHECK_EQ(found.size(), expected.size());
    double off = 0;
    for (size_t i = 0; i < std::min(found.size(), expected.size()); i++) {
        off = std::max(off, std::fabs(found[i] - expected[i]));
    }
    CHECK(off < 1e-4);

    // refusals
    CHECK_EQ(take_error(append(s, {})).at("name"), "text");
    CHECK_EQ(take_error(append(s, random_tokens(rng, 460))).at("code"), "full");
    CHECK_EQ(length(s), 55);
    CHECK_EQ(llama_duo_sequence_append(s, nullptr, -1, nullptr, 1, "{}", 2, nullptr), LLAMA_DUO_E_ARGUMENT);

    // freed while it works: what runs on it is cancelled, and it is free for others
    const uint32_t job = append(copy, random_tokens(rng, 400));
    CHECK_EQ(llama_duo_sequence_free(copy), LLAMA_DUO_OK);
    const int32_t state = wait_for(job);
    CHECK(state == LLAMA_DUO_JOB_CANCELLED || state == LLAMA_DUO_JOB_DONE);
    CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
    CHECK(generated(c, text, greedy(10)) == answer);

    // a cancelled append leaves what was computed
    const uint32_t t = create(c);
    const uint32_t cut = append(t, random_tokens(rng, 500));
    sleep_ms(3);
    CHECK_EQ(llama_duo_job_cancel(cut), LLAMA_DUO_OK);
    const int32_t end = wait_for(cut);
    CHECK_EQ(llama_duo_job_free(cut), LLAMA_DUO_OK);
    const int32_t held = take_result(append(t, { 5 })).at("length").get<int32_t>() - 1;
    CHECK(end == LLAMA_DUO_JOB_DONE ? held == 500 : held >= 0 && held < 500 && held % 32 == 0);

    // the context goes first
    give_back(llama_duo_context_free, c);
    uint32_t none = 0;
    CHECK_EQ(llama_duo_sequence_fork(s, &none), LLAMA_DUO_E_HANDLE);
    CHECK_EQ(llama_duo_sequence_free(s), LLAMA_DUO_OK);
    CHECK_EQ(llama_duo_sequence_free(t), LLAMA_DUO_OK);
}

// --- states ---

static void check_state_refused(uint32_t s, const std::vector<char> & bytes, const std::string & why) {
    const json e = take_error(load_state(s, bytes));
    CHECK_EQ(e.value("code", ""), "state");
    CHECK(contains(e.value("message", json()), why));
}

// A state of the standard cache whose number of cells is another one, with hashes that are right.
static void test_forged_cells(uint32_t s, const std::vector<char> & bytes) {
    struct { char magic[8]; uint32_t version, n_identity; uint64_t n_tokens, n_cached, n_state, payload, header; } f;
    memcpy(&f, bytes.data(), sizeof(f));
    const size_t tokens  = sizeof(f) + f.n_identity;
    const size_t n_cells = tokens + f.n_tokens * sizeof(int32_t) + sizeof(uint32_t); // behind the number of streams
    uint32_t found = 0;
    memcpy(&found, &bytes[n_cells], sizeof(found));
    CHECK_EQ(found, f.n_cached);
    for (const uint32_t n : { 0u, 1u, found - 1, found + 1, 1u << 31, UINT32_MAX }) {
        auto forged = bytes;
        memcpy(&forged[n_cells], &n, sizeof(n));
        f.payload = duo::fnv1a(&forged[tokens], forged.size() - tokens);
        f.header  = duo::fnv1a(&forged[sizeof(f)], f.n_identity, duo::fnv1a(&f, sizeof(f) - sizeof(f.header)));
        memcpy(forged.data(), &f, sizeof(f));
        check_state_refused(s, forged, "it says that it has " + std::to_string(n) + " cells");
        CHECK_EQ(length(s), 0);
        take_result(load_state(s, bytes));
        CHECK_EQ(length(s), int32_t(f.n_tokens));
    }
}

static void test_states(uint32_t model, const cache_kind & kind, const std::vector<cache_kind> & all, std::mt19937_64 & rng) {
    const uint32_t c = make(model, with_sequences(kind.options, 2));
    const tokens_t text = random_tokens(rng, 150);
    const uint32_t s = create(c), t = create(c);
    take_result(append(s, text));
    json r;
    const auto bytes = take_data<char>(save(s), &r);
    CHECK_EQ(r.at("bytes"), bytes.size());
    CHECK_EQ(r.at("length"), 150);
    const tokens_t answer = generated_on(s, {}, greedy(10));

    // into another sequence, again and again, over what it held
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(take_result(load_state(t, bytes)).at("length"), 150);
        CHECK(generated_on(t, {}, greedy(10)) == answer);
    }
    // a copy is saved as what it is a copy of, also before anything else was computed
    take_result(truncate(t, 0));
    CHECK_EQ(llama_duo_sequence_free(t), LLAMA_DUO_OK);
    const uint32_t u = fork(s);
    const auto copied = take_data<char>(save(u)), original = take_data<char>(save(s));
    CHECK_EQ(copied.size(), original.size());
    take_result(truncate(u, 0));
    CHECK_EQ(take_result(load_state(u, copied)).at("length"), 160);
    const tokens_t after = generated_on(s, {}, greedy(5));
    CHECK(generated_on(u, {}, greedy(5)) == after);
    CHECK_EQ(take_result(load_state(s, original)).at("length"), 160);

    // a copy stays what it was a copy of, where that is loaded over before anything was computed
    take_result(truncate(u, 0));
    take_result(append(u, random_tokens(rng, 150)));
    const auto foreign = take_data<char>(save(u));
    CHECK_EQ(llama_duo_sequence_free(u), LLAMA_DUO_OK);
    const uint32_t w = fork(s);
    CHECK_EQ(take_result(load_state(s, foreign)).at("length"), 150);
    CHECK(generated_on(w, {}, greedy(5)) == after);
    CHECK_EQ(take_result(load_state(s, original)).at("length"), 160);

    // by a file, into a context of another size and another batch
    const auto path = std::filesystem::temp_directory_path() / ("test-scheduler-" + std::to_string(getpid()));
    const std::string in_file = dump({ { "path", path.string() } });
    CHECK_EQ(take_result(save(s, in_file)).at("length"), 160);
    json other = with_sequences(kind.options, 3, 256);
    other["ubatchSize"] = 64;
    const uint32_t d = make(model, other);
    const uint32_t v1 = create(d), v = create(d);
    CHECK_EQ(llama_duo_sequence_free(v1), LLAMA_DUO_OK);
    r = take_result(load_state(v, {}, in_file));
    CHECK_EQ(r.at("length"), 160);
    CHECK_EQ(r.at("bytes"), std::filesystem::file_size(path));
    const json longer = greedy(5);
    CHECK(generated_on(v, {}, longer) == generated_on(s, {}, longer));
    std::filesystem::remove(path);
    const json missing = take_error(load_state(v, {}, in_file));
    CHECK_EQ(missing.at("code"), "state");
    CHECK(contains(missing.at("message"), path.string()));
    CHECK_EQ(take_error(save(s, R"({"path":"/nowhere/state"})")).at("code"), "output");

    // refused by name, and what the sequence held is there still
    const int32_t held = length(v);
    auto changed = bytes;
    changed[8]++;
    check_state_refused(v, changed, "version 2");
    changed = bytes;
    changed[0]++;
    check_state_refused(v, changed, "does not begin as one");
    check_state_refused(v, {}, "does not begin as one");
    for (int i = 0; i < 40; i++) {
        changed = bytes;
        if (i % 2) {
            changed.resize(rng() % bytes.size());
        } else {
            changed[rng() % bytes.size()] ^= char(1 << rng() % 8);
        }
        const json e = take_error(load_state(v, changed));
        CHECK(e.value("code", "") == "state");
    }
    auto with_tail = bytes;
    with_tail.push_back(0);
    check_state_refused(v, with_tail, "behind it");
    CHECK_EQ(length(v), held);
    if (kind.name == std::string("stock")) {
        test_forged_cells(v, bytes);
    }

    random_model_params p;
    p.words = true;
    p.seed  = rng();
    const random_model_file file(p);
    const uint32_t stranger = load(file.path());
    for (const cache_kind & k : all) {
        const uint32_t x = make(stranger, with_sequences(k.options, 2));
        const uint32_t y = create(x);
        check_state_refused(y, bytes, "model hash");
        CHECK_EQ(length(y), 0);
        give_back(llama_duo_context_free, x);
        CHECK_EQ(llama_duo_sequence_free(y), LLAMA_DUO_OK);
    }
    give_back(llama_duo_model_free, stranger);

    json types = with_sequences(kind.options, 2);
    types["typeK"] = types["typeV"] = "f16";
    std::vector<std::pair<json, const char *>> others = { { types, "cache typeK" } };
    for (const cache_kind & k : all) {
        if (k.name != kind.name) {
            others.push_back({ with_sequences(k.options, 2), "cache heads" });
        }
    }
    if (std::string(kind.name) == "mixed") {
        json window = with_sequences(kind.options, 1);
        window["duo"]["recent"] = 13;
        others.push_back({ window, "cache heads recent" });
        json heads = with_sequences(kind.options, 1);
        for (auto & row : heads["duo"]["gates"]["gates"]) {
            for (auto & gate : row) {
                gate = 1 - gate.get<double>();
            }
        }
        others.push_back({ heads, "cache heads pattern" });
    }
    for (const auto & [options, why] : others) {
        const uint32_t x = make(model, options);
        const uint32_t y = create(x);
        check_state_refused(y, bytes, why);
        give_back(llama_duo_context_free, x);
        CHECK_EQ(llama_duo_sequence_free(y), LLAMA_DUO_OK);
    }
    // too long for the sequence
    const uint32_t small = make(model, with_sequences(kind.options, 2, 256)), z = create(small);
    take_result(append(s, random_tokens(rng, 200)));
    CHECK_EQ(take_error(load_state(z, take_data<char>(save(s)))).at("code"), "full");
    for (const uint32_t x : { s, w, v, z }) {
        CHECK_EQ(llama_duo_sequence_free(x), LLAMA_DUO_OK);
    }
    for (const uint32_t x : { c, d, small }) {
        give_back(llama_duo_context_free, x);
    }
}

// --- adapters ---

// An adapter of rank 4 of the first layer's queries and values.
static void write_adapter(const random_model_params & p, const std::string & path, uint64_t seed, const std::function<void(gguf_context *)> & change = {}) {
    std::mt19937_64 rng(seed);
    std::normal_distribution<float> normal;
    gguf_context * gguf = gguf_init_empty();
    gguf_set_val_str(gguf, "general.type", "adapter");
    gguf_set_val_str(gguf, "general.architecture", "llama");
    gguf_set_val_str(gguf, "adapter.type", "lora");
    gguf_set_val_f32(gguf, "adapter.lora.alpha", 4);
    if (change) {
        change(gguf);
    }
    ggml_context * ctx = ggml_init({ 1 << 20, nullptr, false });
    const int64_t n_embd = p.n_head * p.head_size;
    for (const auto & [name, n_out] : std::map<std::string, int64_t> { { "attn_q", n_embd }, { "attn_v", p.n_head_kv * p.head_size } }) {
        for (const bool a : { true, false }) {
            ggml_tensor * t = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, a ? n_embd : 4, a ? 4 : n_out);
            ggml_set_name(t, ("blk.0." + name + ".weight.lora_" + (a ? "a" : "b")).c_str());
            for (int64_t i = 0; i < ggml_nelements(t); i++) {
                static_cast<float *>(t->data)[i] = normal(rng) * 0.3f;
            }
            gguf_add_tensor(gguf, t);
        }
    }
    gguf_write_to_file(gguf, path.c_str(), false);
    gguf_free(gguf);
    ggml_free(ctx);
}

static void test_loras(uint32_t model, const random_model_params & p, const cache_kind & kind, std::mt19937_64 & rng) {
    const auto path = (std::filesystem::temp_directory_path() / ("test-scheduler-lora-" + std::to_string(getpid()))).string();
    const json_call loading = [=](const void * j, int32_t n, uint32_t * job) { return llama_duo_lora_load(model, j, n, job); };
    check_refused(loading, "{}", "path", "GGUF");
    const auto refused = [&](const std::string & why, const std::function<void(gguf_context *)> & change) {
        write_adapter(p, path, rng(), change);
        const json e = take_error(submit(loading, dump({ { "path", path } })));
        CHECK_EQ(e.value("code", ""), "model");
        CHECK(contains(e.value("message", json()), why));
    };
    refused("arch", [](gguf_context * g) { gguf_set_val_str(g, "general.architecture", "qwen2"); });
    // metadata of other types
    for (const char * key : { "general.type", "general.architecture", "adapter.type" }) {
        const std::string of_key = "\"" + std::string(key) + "\" is of type ";
        refused(of_key + "u32, expected str",  [&](gguf_context * g) { gguf_set_val_u32(g, key, 1); });
        refused(of_key + "bool, expected str", [&](gguf_context * g) { gguf_set_val_bool(g, key, true); });
        refused(of_key + "arr, expected str",  [&](gguf_context * g) { const char * text = "lora"; gguf_set_arr_str(g, key, &text, 1); });
        refused("", [&](gguf_context * g) { gguf_remove_key(g, key); });
    }
    refused("\"adapter.lora.alpha\" is of type f64, expected f32", [](gguf_context * g) { gguf_set_val_f64(g, "adapter.lora.alpha", 4); });
    refused("\"adapter.lora.alpha\" is of type str, expected f32", [](gguf_context * g) { gguf_set_val_str(g, "adapter.lora.alpha", "4"); });
    refused("alora", [](gguf_context * g) { gguf_set_val_u32(g, "adapter.alora.invocation_tokens", 1); });
    refused("alora", [](gguf_context * g) { const char * text = "1"; gguf_set_arr_str(g, "adapter.alora.invocation_tokens", &text, 1); });
    write_adapter(p, path, rng());
    const json loaded = take_result(submit(loading, dump({ { "path", path } })));
    CHECK_EQ(loaded.at("tensors"), 2);
    CHECK_EQ(loaded.at("alpha"), 4);
    const uint32_t lora = loaded.at("lora");
    std::filesystem::remove(path);

    const tokens_t text = random_tokens(rng, 40);
    const auto expects = [&](uint32_t context) {
        const uint32_t s = create(context);
        take_result(append(s, text));
        const auto found = logits(s);
        CHECK_EQ(llama_duo_sequence_free(s), LLAMA_DUO_OK);
        return found;
    };
    const auto with_scale = [&](double scale) {
        json o = with_sequences(kind.options, 1);
        o["loras"] = { { { "lora", lora }, { "scale", scale } } };
        return make(model, o);
    };
    const uint32_t plain = make(model, with_sequences(kind.options, 1)), none = with_scale(0), half = with_scale(0.5), whole = with_scale(1);
    const auto base = expects(plain);
    CHECK(furthest(expects(none), base) < 1e-4);
    CHECK(furthest(expects(half), base) > 1e-3);
    CHECK(furthest(expects(whole), expects(half)) > 1e-3);
    CHECK(furthest(expects(plain), base) < 1e-4); // side by side

    // a state of one is none of the other
    const uint32_t s = create(whole), t = create(plain);
    take_result(append(s, text));
    take_result(append(s, text));
    const auto bytes = take_data<char>(save(s));
    check_state_refused(t, bytes, "loras");

    // given back while it is used
    CHECK_EQ(llama_duo_lora_free(lora), LLAMA_DUO_OK);
    CHECK_EQ(llama_duo_lora_free(lora), LLAMA_DUO_E_HANDLE);
    CHECK_EQ(take_result(load_state(s, bytes)).at("length"), 80);
    const json_call creating = [=](const void * j, int32_t n, uint32_t * job) { return llama_duo_context_create(model, j, n, job); };
    check_refused(creating, dump({ { "loras", { { { "lora", lora } } } } }), "loras", "handle");
    for (const uint32_t x : { s, t }) {
        CHECK_EQ(llama_duo_sequence_free(x), LLAMA_DUO_OK);
    }
    for (const uint32_t c : { plain, none, half, whole }) {
        give_back(llama_duo_context_free, c);
    }
}

// --- everything at once, from several threads ---

static void test_walks(uint32_t model, const cache_kind & kind, uint64_t seed, int n_rounds) {
    const uint32_t c = make(model, with_sequences(kind.options, 4, 256));
    std::vector<std::thread> threads;
    for (uint64_t i = 0; i < 3; i++) {
        threads.emplace_back([=] {
            std::mt19937_64 rng(seed + i);
            std::vector<uint32_t> jobs;
            uint32_t s = create(c);
            for (int round = 0; round < n_rounds; round++) {
                switch (rng() % 9) {
                    case 0:
                    case 1: jobs.push_back(submit(generate(c, random_tokens(rng, 1 + rng() % 60)), dump(greedy(int(rng() % 12))))); break;
                    case 2: jobs.push_back(append(s, random_tokens(rng, 1 + rng() % 40))); break;
                    case 3: jobs.push_back(truncate(s, int32_t(rng() % 40))); break;
                    case 4: jobs.push_back(submit(score(c, random_tokens(rng, 2 + rng() % 30)), "{}")); break;
                    case 5: jobs.push_back(start([&](uint32_t * job) { return llama_duo_sequence_logits(s, job); })); break;
                    case 6:
                        CHECK_EQ(llama_duo_sequence_free(s), LLAMA_DUO_OK);
                        s = create(c);
                        break;
                    case 7:
                        if (!jobs.empty()) {
                            drained d;
                            drain(jobs[rng() % jobs.size()], d);
                        }
                        break;
                    case 8:
                        while (jobs.size() > rng() % 4) {
                            CHECK_EQ(llama_duo_job_free(jobs.back()), LLAMA_DUO_OK);
                            jobs.pop_back();
                        }
                        break;
                }
                int32_t n, from;
                CHECK_EQ(llama_duo_sequence_size(s, &n, &from), LLAMA_DUO_OK);
            }
            for (const uint32_t job : jobs) {
                CHECK(wait_for(job) >= LLAMA_DUO_JOB_DONE);
                CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
            }
            CHECK_EQ(llama_duo_sequence_free(s), LLAMA_DUO_OK);
        });
    }
    for (auto & t : threads) {
        t.join();
    }
    // it is as good as new
    std::mt19937_64 rng(seed);
    const tokens_t prompt = random_tokens(rng, 30);
    const tokens_t first  = generated(c, prompt, greedy(8));
    json again = greedy(8);
    again["reuse"] = false;
    CHECK(generated(c, prompt, again) == first);
    give_back(llama_duo_context_free, c);
}

int main() {
    std::mt19937_64 rng(check::seed());
    random_model_params p;
    p.words = true;
    p.seed  = rng();
    const random_model_file file(p);
    const uint32_t model = load(file.path());

    const auto all = kinds(rng, p);
    for (const cache_kind & kind : all) {
        test_twins(model, kind, rng);
        test_paused_reader(model, kind, rng);
        test_isolation(model, kind, rng);
        test_prefixes(model, kind, rng);
        test_choices(model, kind, rng);
        test_log_probs(model, kind, rng);
        test_samplers(model, kind, rng);
        test_sequences(model, kind, rng);
        test_states(model, kind, all, rng);
        test_loras(model, p, kind, rng);
        test_walks(model, kind, rng(), 150);
    }
    give_back(llama_duo_model_free, model);
    return check::result();
}
