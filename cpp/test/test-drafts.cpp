// Contexts with the option "speculative": whatever drafts, and whatever else is done, what is generated is what is generated without. On small random models,
// in F32.
#include "abi-calls.h"
#include "check.h"
#include "context-calls.h"
#include "draft-model.h"
#include "random-model.h"

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <thread>

// --- models ---

struct model_of {
    explicit model_of(const random_model_params & p) : file(p), handle(load(file.path())) {}
    ~model_of() { give_back(llama_duo_model_free, handle); }

    const random_model_file file;
    const uint32_t          handle;
};

// A model, and what may draft for it: one that is often right, and one that seldom is.
struct models {
    models(const std::string & arch, bool predicts, uint64_t seed)
        : params(draft_model_params(arch, predicts, false, seed)), target(params), noisy(noisy_model_params(plain(seed, true))), other(plain(seed + 1, false)) {}

    const random_model_params params;
    const model_of target, noisy, other;

private:
    // without recurrent layers, as a draft model has to be; of a transformer with the same seed it is the target
    random_model_params plain(uint64_t seed, bool same) const {
        return same && params.arch == "llama" ? params : draft_model_params("llama", false, false, seed);
    }
};

// Models this small are done sooner by one thread than by two that wait for each other.
static json sized(const json & options, int n_seq) {
    json result = with_sequences(options, n_seq);
    result["threads"] = 1;
    return result;
}

static json with(json options, const json & speculative) {
    options["speculative"] = speculative;
    return options;
}

// --- what is generated ---

struct outcome {
    tokens_t            tokens;
    std::string         text;
    json                result;
    std::vector<double> margins; // of greedy ones: by how much a token is likelier than the next, as logarithms
};

static outcome outcome_of(uint32_t job) {
    outcome o;
    const drained d = drain_all(job);
    o.tokens = d.tokens;
    o.text   = d.text;
    std::vector<double> numbers(5 * d.tokens.size() + 5);
    int32_t n = 0;
    CHECK_EQ(llama_duo_job_drain_log_probs(job, 0, numbers.data(), int32_t(numbers.size()), &n), LLAMA_DUO_OK);
    for (int32_t i = 0; i + 5 <= n; i += 5) {
        o.margins.push_back(numbers[size_t(i) + 2] - numbers[size_t(i) + 4]);
    }
    o.result = take_result(job);
    CHECK_EQ(o.result.at("generatedTokens"), d.tokens.size());
    CHECK(o.result.at("acceptedTokens") <= o.result.at("draftedTokens"));
    CHECK(o.result.at("acceptedTokens") <= o.result.at("generatedTokens"));
    return o;
}

static uint32_t begin(uint32_t context, const tokens_t & prompt, json options) {
    options["logProbs"] = 2;
    return submit(generate(context, prompt), dump(options));
}

static uint32_t begin_on(uint32_t s, const tokens_t & prompt, json options) {
    options["logProbs"] = 2;
    const std::string text = dump(options);
    return start([&](uint32_t * job) {
        return llama_duo_sequence_generate(s, prompt.data(), int32_t(prompt.size()), nullptr, 0, text.data(), int32_t(text.size()), job); });
}

// Tokens that are computed together are summed in another order: two that are as likely are a matter of rounding, and so is a draw that falls between two.
static int n_by_chance = 0;

static bool same(const outcome & found, const outcome & expected, bool greedy) {
    const auto differs = std::mismatch(expected.tokens.begin(), expected.tokens.end(), found.tokens.begin(), found.tokens.end()).first;
    if (differs == expected.tokens.end() && found.tokens.size() == expected.tokens.size()) {
        CHECK_EQ(found.text, expected.text);
        CHECK_EQ(found.result.at("stop"), expected.result.at("stop"));
        return true;
    }
    const auto i = size_t(differs - expected.tokens.begin());
    const bool by_chance = !greedy || (i < expected.margins.size() && expected.margins[i] < 1e-4);
    n_by_chance += by_chance;
    check::report(by_chance, __FILE__, __LINE__, "the tokens are those without drafts", "not token " + std::to_string(i) + " of " + std::to_string(expected.tokens.size()));
    return false;
}

static json sampled(int n, int seed) {
    return { { "maxTokens", n }, { "temperature", 1 }, { "topK", 20 }, { "repeatPenalty", 1.1 }, { "seed", seed }, { "ignoreEos", true } };
}

static bool is_greedy(const json & options) { return options.at("temperature") == 0; }

// Ways to generate.
static std::vector<json> ways(int n) {
    json grammar = sampled(n, 5), stop = greedy(n), biased = greedy(n);
    grammar["grammar"] = "root ::= [a-m]+ | [n-z]+";
    grammar["ignoreEos"] = false;
    stop["stop"] = { "e", "a" };
    biased["logitBias"] = { { 300, 2 }, { 301, false } };
    biased["frequencyPenalty"] = 0.5;
    json repeated = greedy(n); // what is looked up is mostly right
    repeated["grammar"] = "root ::= (\"over and over \")+";
    return { greedy(n), sampled(n, 3), sampled(n, 4), grammar, stop, biased, repeated };
}

// --- drafts of all kinds ---

struct drafting {
    const char * name;
    json         speculative;
};

static std::vector<drafting> all_kinds(const models & m) {
    return {
        { "the model itself", { { "draft", m.target.handle }, { "maxTokens", 5 }, { "typeK", "f32" }, { "typeV", "f32" } } },
        { "a noisy one",      { { "draft", m.noisy.handle }, { "maxTokens", 8 } } },
        { "an unsure one",    { { "draft", m.noisy.handle }, { "maxTokens", 8 }, { "minProbability", 0.2 } } },
        { "another one",      { { "draft", m.other.handle }, { "maxTokens", 2 } } },
        { "the text",         { { "lookup", true }, { "ngramSize", 2 }, { "maxTokens", 10 } } },
        { "both",             { { "lookup", true }, { "ngramSize", 3 }, { "maxTokens", 20 }, { "draft", m.noisy.handle } } },
    };
}

static void test_same(const models & m, const cache_kind & kind, const std::vector<drafting> & drafts, std::mt19937_64 & rng) {
    const tokens_t piece = random_tokens(rng, 30);
    const std::vector<tokens_t> prompts = { random_tokens(rng, 1), random_tokens(rng, 90), joined(joined(piece, piece), joined(random_tokens(rng, 20), piece)) };
    std::vector<outcome> plain;
    const uint32_t alone = make(m.target.handle, sized(kind.options, 1));
    for (const tokens_t & prompt : prompts) {
        for (const json & way : ways(50)) {
            plain.push_back(outcome_of(begin(alone, prompt, way)));
            CHECK_EQ(plain.back().result.at("draftedTokens"), 0);
        }
    }
    give_back(llama_duo_context_free, alone);

    for (const drafting & d : drafts) {
        const uint32_t c = make(m.target.handle, with(sized(kind.options, 1), d.speculative));
        size_t i = 0, n_same = 0, n_drafted = 0, n_accepted = 0;
        for (const tokens_t & prompt : prompts) {
            for (const json & way : ways(50)) {
                const outcome o = outcome_of(begin(c, prompt, way));
                n_same     += same(o, plain[i++], is_greedy(way));
                n_drafted  += o.result.at("draftedTokens").get<size_t>();
                n_accepted += o.result.at("acceptedTokens").get<size_t>();
            }
        }
        printf("%s, %s: %zu of %zu the same, %zu of %zu drafted tokens accepted (%.0f%%)\n", kind.name, d.name, n_same, plain.size(), n_accepted, n_drafted,
                100.0 * double(n_accepted) / double(std::max<size_t>(n_drafted, 1)));
        CHECK(n_same + 2 >= plain.size());
        CHECK(n_drafted > 0);
        CHECK(std::string(d.name) != "another one" || n_accepted < n_drafted / 2);
        give_back(llama_duo_context_free, c);
    }
}

// The model itself is always right, where both see the same and the likeliest is chosen.
static void test_itself(const models & m, const cache_kind & kind, std::mt19937_64 & rng) {
    json options = sized(kind.options, 2);
    options["flashAttention"] = "off";
    const uint32_t c = make(m.target.handle, with(options, { { "draft", m.target.handle }, { "maxTokens", 4 }, { "typeK", "f32" }, { "typeV", "f32" } }));
    const outcome  o = outcome_of(begin(c, random_tokens(rng, 50), greedy(101)));
    // the first comes of the prompt, then 5 a step, but where two are as likely
    CHECK(o.result.at("draftedTokens") >= 80 && o.result.at("draftedTokens") <= 90);
    CHECK(o.result.at("acceptedTokens") >= 75);

    // no more than is asked for, and nothing behind it
    CHECK_EQ(outcome_of(begin(c, random_tokens(rng, 50), greedy(1))).result.at("draftedTokens"), 0);
    CHECK_EQ(outcome_of(begin(c, random_tokens(rng, 50), greedy(2))).result.at("draftedTokens"), 0);
    const outcome three = outcome_of(begin(c, random_tokens(rng, 50), greedy(3)));
    CHECK_EQ(three.tokens.size(), size_t(3));
    CHECK_EQ(three.result.at("draftedTokens"), 1);
    give_back(llama_duo_context_free, c);
}

// --- the scheduler ---

// Several at once, in small batches, too, up to a full context, each several times; n texts of a prompt; readers that pause.
static void test_together(const models & m, const cache_kind & kind, const json & speculative, std::mt19937_64 & rng) {
    const uint32_t alone = make(m.target.handle, sized(kind.options, 1));
    struct request {
        tokens_t prompt;
        json     way;
        outcome  expected;
        uint32_t job = 0;
    };
    std::vector<request> requests(16);
    for (size_t i = 0; i < requests.size(); i++) {
        request & r = requests[i];
        r.way    = i % 4 == 3 ? greedy(-1) : ways(int(1 + rng() % 50))[i % 7];
        r.prompt = random_tokens(rng, i % 4 == 3 ? 440 + rng() % 73 : 1 + rng() % 120);
        r.expected = outcome_of(begin(alone, r.prompt, r.way));
        CHECK(i % 4 != 3 || r.expected.result.at("stop") == "full");
    }
    const tokens_t prompt = random_tokens(rng, 70);
    std::vector<tokens_t> of_seeds;
    for (int i = 0; i < 3; i++) {
        of_seeds.push_back(outcome_of(begin(alone, prompt, sampled(20, 9 + i))).tokens);
    }
    const tokens_t slow = outcome_of(begin(alone, prompt, greedy(30))).tokens;
    give_back(llama_duo_context_free, alone);

    for (const int n_batch : { 2048, 7, 4 }) {
        json options = sized(kind.options, 4);
        options["batchSize"] = n_batch;
        const uint32_t c = make(m.target.handle, with(options, speculative));
        size_t n_same = 0, n_drafted = 0;
        for (request & r : requests) {
            r.job = begin(c, r.prompt, r.way);
        }
        for (const request & r : requests) {
            const outcome o = outcome_of(r.job);
            n_same    += same(o, r.expected, is_greedy(r.way));
            n_drafted += o.result.at("draftedTokens").get<size_t>();
        }
        CHECK(n_same + 2 >= requests.size());
        CHECK(n_drafted > 0 || n_batch == 4 || !speculative.contains("draft")); // 4: which four sequences fill with their next tokens

        json three = sampled(20, 9);
        three["n"] = 3;
        const uint32_t job = submit(generate(c, prompt), dump(three));
        CHECK_EQ(wait_for(job), LLAMA_DUO_JOB_DONE);
        size_t n_choices = 0;
        for (int i = 0; i < 3; i++) {
            tokens_t some(64);
            std::string text(4096, '?');
            int32_t info[4];
            CHECK_EQ(llama_duo_job_drain_choice(job, i, some.data(), 64, text.data(), 4096, info), LLAMA_DUO_OK);
            some.resize(size_t(info[0]));
            n_choices += some == of_seeds[size_t(i)];
        }
        CHECK(n_choices >= 2);
        const json r = take_result(job);
        CHECK(r.at("choices").at(2).at("acceptedTokens") <= r.at("choices").at(2).at("draftedTokens"));

        json paused = greedy(30);
        paused["window"] = 4;
        const uint32_t reading = submit(generate(c, prompt), dump(paused));
        drained d;
        do {
            const size_t n = d.tokens.size();
            sleep_ms(2);
            drain(reading, d);
            CHECK(d.tokens.size() - n <= 4);
        } while (d.state < LLAMA_DUO_JOB_DONE || d.more);
        CHECK(d.tokens == slow);
        take_result(reading);
        give_back(llama_duo_context_free, c);
    }
}

// --- sequences ---

// Two sequences expect the same after one more token.
static void check_next(uint32_t a, uint32_t b, const tokens_t & token) {
    take_result(append(a, token));
    take_result(append(b, token));
    const auto of_a = logits(a), of_b = logits(b);
    double off = 0;
    for (size_t i = 0; i < of_a.size(); i++) {
        off = std::max(off, std::fabs(double(of_a[i]) - double(of_b[i])));
    }
    CHECK(off < 1e-3);
}

// Copies of sequences, made while what was wrong of a draft is still to be taken back from recurrent states, and what is saved and loaded then.
static void test_copies(const models & m, const cache_kind & kind, const json & speculative, std::mt19937_64 & rng) {
    const json     options = sized(kind.options, 3);
    const uint32_t plain = make(m.target.handle, options), drafts = make(m.target.handle, with(options, speculative));
    for (int i = 0; i < 10; i++) {
        const tokens_t prompt = random_tokens(rng, 30), next = random_tokens(rng, 1);
        json way = greedy(60); // which ends in the midst of a draft
        way["stop"] = { std::string(1, char('a' + i)) };
        const uint32_t a = create(plain), b = create(drafts);
        const outcome  expected = outcome_of(begin_on(a, prompt, way)), found = outcome_of(begin_on(b, prompt, way));
        const uint32_t a_copy = fork(a), b_copy = fork(b), b_loaded = create(drafts);
        take_result(load_state(b_loaded, take_data<char>(save(b))));
        if (same(found, expected, true)) {
            std::vector<uint32_t> of_b = { b, b_copy, b_loaded };
            std::shuffle(of_b.begin(), of_b.end(), rng);
            for (const uint32_t s : of_b) {
                const uint32_t again = fork(a_copy);
                check_next(again, s, next);
                CHECK_EQ(llama_duo_sequence_free(again), LLAMA_DUO_OK);
            }
        }
        for (const uint32_t s : { a, b, a_copy, b_copy, b_loaded }) {
            CHECK_EQ(llama_duo_sequence_free(s), LLAMA_DUO_OK);
        }
    }
    give_back(llama_duo_context_free, plain);
    give_back(llama_duo_context_free, drafts);
}

// Two contexts, with drafts and without, are asked for the same, at random: sequences are appended to, cut, copied, saved, loaded and generated on, and jobs are
// cancelled.
static void test_interleavings(const models & m, const cache_kind & kind, const json & speculative, bool goes_back, std::mt19937_64 & rng, int n_rounds) {
    constexpr int n_seq = 3;
    const json     options = sized(kind.options, n_seq + 1);
    const uint32_t plain = make(m.target.handle, options), drafts = make(m.target.handle, with(options, speculative));
    struct pair {
        uint32_t plain, drafts;
        bool     apart = false; // by chance
    };
    std::vector<pair> pairs;
    for (int i = 0; i < n_seq; i++) {
        pairs.push_back({ create(plain), create(drafts) });
    }
    std::vector<char> saved[2]; // of both
    int n_generated = 0, n_cut = 0, n_forked = 0, n_loaded = 0, n_cancelled = 0;
    for (int round = 0; round < n_rounds; round++) {
        pair & p = pairs[rng() % n_seq];
        const int32_t n = length(p.plain);
        CHECK(p.apart || length(p.drafts) == n);
        const auto clear = [&] {
            take_result(truncate(p.plain, 0));
            take_result(truncate(p.drafts, 0));
            p.apart = false;
        };
        if (p.apart || n > 400) {
            clear();
            continue;
        }
        switch (rng() % 8) {
            case 0: {
                const tokens_t more = random_tokens(rng, 1 + rng() % 60);
                take_result(append(p.plain, more));
                take_result(append(p.drafts, more));
                break;
            }
            case 1: { // as far back as both can
                int32_t from, from_drafts;
                length(p.plain, &from);
                length(p.drafts, &from_drafts);
                CHECK(from_drafts <= from + 64 || !goes_back);
                const int32_t first = std::max(from, from_drafts);
                const int32_t to    = goes_back ? first + int32_t(rng() % size_t(n - first + 1)) : n;
                take_result(truncate(p.plain, to));
                take_result(truncate(p.drafts, to));
                n_cut += to < n;
                break;
            }
            case 2: { // in place of another
                pair & q = pairs[rng() % n_seq];
                if (&q != &p) {
                    CHECK_EQ(llama_duo_sequence_free(q.plain), LLAMA_DUO_OK);
                    CHECK_EQ(llama_duo_sequence_free(q.drafts), LLAMA_DUO_OK);
                    q = { fork(p.plain), fork(p.drafts) };
                    n_forked++;
                }
                break;
            }
            case 3:
                saved[0] = take_data<char>(save(p.plain));
                saved[1] = take_data<char>(save(p.drafts));
                break;
            case 4:
                if (!saved[0].empty()) { // a state is the same with drafts and without
                    const int swapped = int(rng() % 2);
                    take_result(load_state(p.plain, saved[swapped]));
                    take_result(load_state(p.drafts, saved[1 - swapped]));
                    n_loaded++;
                }
                break;
            case 5: { // beside it: another generation, and a cancelled one
                const tokens_t prompt = random_tokens(rng, 20);
                const outcome  expected = outcome_of(begin(plain, prompt, greedy(10)));
                const uint32_t job = begin(drafts, prompt, greedy(10)), cancelled = begin_on(p.drafts, random_tokens(rng, 1 + rng() % 30), greedy(-1));
                sleep_ms(int(rng() % 8));
                CHECK_EQ(llama_duo_job_cancel(cancelled), LLAMA_DUO_OK);
                CHECK(wait_for(cancelled) >= LLAMA_DUO_JOB_DONE);
                CHECK_EQ(llama_duo_job_free(cancelled), LLAMA_DUO_OK);
                same(outcome_of(job), expected, true);
                clear();
                n_cancelled++;
                break;
            }
            default: {
                int32_t from, from_drafts;
                length(p.plain, &from);
                length(p.drafts, &from_drafts);
                const bool     must   = !goes_back || std::max(from, from_drafts) == n; // the last token's logits may have been used
                const json     way    = ways(int(1 + rng() % 40))[rng() % 7];
                const tokens_t prompt = random_tokens(rng, n == 0 ? 1 + rng() % 50 : rng() % 3 + must);
                const uint32_t job    = begin_on(p.drafts, prompt, way);
                const outcome  expected = outcome_of(begin_on(p.plain, prompt, way));
                p.apart = !same(outcome_of(job), expected, is_greedy(way));
                n_generated++;
                break;
            }
        }
        const pair & q = pairs[rng() % n_seq];
        if (!q.apart && rng() % 4 == 0) {
            check_next(q.plain, q.drafts, random_tokens(rng, 1));
        }
    }
    printf("%s: %d generated, %d cut, %d forked, %d loaded, %d cancelled\n", kind.name, n_generated, n_cut, n_forked, n_loaded, n_cancelled);
    for (const pair & p : pairs) {
        CHECK_EQ(llama_duo_sequence_free(p.plain), LLAMA_DUO_OK);
        CHECK_EQ(llama_duo_sequence_free(p.drafts), LLAMA_DUO_OK);
    }
    give_back(llama_duo_context_free, plain);
    give_back(llama_duo_context_free, drafts);
}

// --- refusals ---

static void test_refused(const models & m, std::mt19937_64 & rng) {
    const json_call creating = [&](const void * j, int32_t n, uint32_t * job) { return llama_duo_context_create(m.target.handle, j, n, job); };
    const json_call planning = [&](const void * j, int32_t n, uint32_t * job) { return llama_duo_context_plan(m.target.handle, j, n, job); };
    for (const json_call & call : { creating, planning }) {
        const auto option = [&](const json & speculative, const char * name, const char * expected) {
            check_refused(call, dump({ { "contextSize", 256 }, { "speculative", speculative } }), name, expected);
        };
        option(5, "speculative", "an object");
        option(json::object(), "speculative.draft", "\"lookup\": true");
        option({ { "lookup", false } }, "speculative.draft", "\"lookup\": true");
        for (const json & handle : { json(0), json(-1), json(4e9), json("model"), json() }) {
            option({ { "draft", handle } }, "speculative.draft", "a model's handle");
        }
        option({ { "lookup", true }, { "maxTokens", 0 } }, "speculative.maxTokens", "an integer from 1 to 1024");
        option({ { "lookup", true }, { "ngramSize", 1025 } }, "speculative.ngramSize", "an integer from 1 to 1024");
        option({ { "lookup", true }, { "minProbability", 1.1 } }, "speculative.minProbability", "a number from 0 to 1");
        option({ { "lookup", true }, { "typeK", "f15" } }, "speculative.typeK", "one of f32");
        option({ { "lookup", true }, { "nMax", 3 } }, "speculative.nMax", "known are draft, lookup");
    }
    const auto unsupported = [&](uint32_t target, const json & options, const std::string & why) {
        const json e = take_error(submit([&](const void * j, int32_t n, uint32_t * job) { return llama_duo_context_create(target, j, n, job); }, dump(options)));
        CHECK_EQ(e.value("code", ""), "unsupported");
        CHECK(contains(e.value("message", json()), why));
        for (const auto & ask : { llama_duo_context_plan, llama_duo_context_estimate }) {
            const json r = take_result(submit([&](const void * j, int32_t n, uint32_t * job) { return ask(target, j, n, job); }, dump(options)));
            CHECK_EQ(r.at("supported"), false);
            CHECK(contains(r.at("reason"), why));
        }
    };
    const auto by = [&](uint32_t draft) { return json { { "contextSize", 256 }, { "speculative", { { "draft", draft } } } }; };

    // other vocabularies
    random_model_params p = draft_model_params("llama", false, false, rng());
    p.n_vocab = 641;
    const model_of larger(p);
    unsupported(m.target.handle, by(larger.handle), "the number of tokens is 641 there and 512 here");
    p.n_vocab = 512;
    p.metadata += " .tokenizer.ggml.add_bos_token=false";
    const model_of unbegun(p);
    unsupported(m.target.handle, by(unbegun.handle), "what begins a text is none there and token 1 here");
    p.words = false;
    const model_of wordless(p);
    unsupported(m.target.handle, by(wordless.handle), "it has none");
    unsupported(wordless.handle, by(m.target.handle), "this model has none");
    give_back(llama_duo_context_free, make(wordless.handle, { { "contextSize", 256 }, { "speculative", { { "lookup", true } } } })); // which needs none

    // states that cannot go back
    const model_of hybrid(draft_model_params("lfm2", false, false, rng())), jamba(draft_model_params("jamba", false, false, rng()));
    unsupported(m.target.handle, by(hybrid.handle), "the draft model, lfm2, has recurrent layers");
    unsupported(jamba.handle, by(m.target.handle), "recurrent layers of jamba models");
    unsupported(hybrid.handle, { { "contextSize", 256 }, { "ubatchSize", 2 }, { "speculative", { { "lookup", true } } } }, "ubatchSize is 2");

    // without weights
    const uint32_t bare = take_result(submit(llama_duo_model_load, dump({ { "path", m.noisy.file.path() }, { "weights", false } }))).at("model");
    const json e = take_error(submit(creating, dump(by(bare))));
    CHECK(contains(e.at("message"), "draft with"));
    give_back(llama_duo_model_free, bare);
}

// A draft model with a few tokens more or less: what it does not know is not drafted, and what this one does not know neither.
static void test_other_sizes(std::mt19937_64 & rng) {
    random_model_params p = draft_model_params("llama", false, false, rng());
    std::unique_ptr<model_of> of[3];
    for (int i = 0; i < 3; i++) {
        random_model_params q = p;
        q.n_vocab = 450 + 50 * i;
        of[i] = std::make_unique<model_of>(q);
    }
    const json f32 = { { "contextSize", 512 }, { "threads", 1 }, { "typeK", "f32" }, { "typeV", "f32" } };
    const tokens_t prompt = { 5, 6, 449, 7, 8, 440 };
    const uint32_t plain  = make(of[1]->handle, f32);
    for (const int i : { 0, 2 }) {
        const uint32_t c = make(of[1]->handle, with(f32, { { "draft", of[i]->handle }, { "maxTokens", 6 } }));
        size_t n_drafted = 0;
        for (int seed = 0; seed < 5; seed++) {
            const outcome o = outcome_of(begin(c, prompt, sampled(20, seed)));
            same(o, outcome_of(begin(plain, prompt, sampled(20, seed))), false);
            n_drafted += o.result.at("draftedTokens").get<size_t>();
        }
        CHECK(n_drafted > 0);
        give_back(llama_duo_context_free, c);
    }
    give_back(llama_duo_context_free, plain);
}

int main() {
    std::mt19937_64 rng(check::seed());
    auto timed = [last = clk::now()](const char * what) mutable {
        printf("    %s: %.1f s\n", what, seconds_since(last));
        last = clk::now();
    };
    {
        const models m("llama", false, rng());
        test_refused(m, rng);
        test_other_sizes(rng);
        timed("refusals");
        const auto drafts = all_kinds(m);
        for (const cache_kind & kind : kinds(rng, m.params)) {
            test_same(m, kind, drafts, rng);
            timed("kinds of drafts");
            test_together(m, kind, drafts[1].speculative, rng);
            timed("together");
            test_copies(m, kind, drafts[3].speculative, rng);
            test_interleavings(m, kind, drafts[1].speculative, true, rng, 75);
            test_interleavings(m, kind, drafts[5].speculative, true, rng, 75);
            timed("interleavings");
        }
        test_itself(m, kinds(rng, m.params)[0], rng);
    }
    for (const char * arch : { "lfm2", "qwen35" }) { // recurrent layers
        const models m(arch, false, rng());
        const std::vector<drafting> some = { all_kinds(m)[3], all_kinds(m)[4] };
        for (cache_kind kind : kinds(rng, m.params)) {
            if (kind.options.contains("duo")) {
                kind.options["duo"]["sparsity"] = 1;
                kind.options["duo"].erase("gates");
            }
            printf("%s, ", arch);
            test_same(m, kind, some, rng);
            test_together(m, kind, some[1].speculative, rng);
            test_copies(m, kind, some[0].speculative, rng);
            test_interleavings(m, kind, some[1].speculative, false, rng, 60);
            timed(arch);
        }
    }
    printf("%d texts went another way by chance\n", n_by_chance);
    return check::result();
}
