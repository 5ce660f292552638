// Every reader of options against the table that TypeScript has of them: the same names, ranges, words and defaults.
// Arguments: options.json, a model.
#include "abi-calls.h"

#include "calibrate.h"
#include "context.h"
#include "generate.h"
#include "handle-table.h"

#include <cmath>
#include <fstream>
#include <map>
#include <set>

// One concept: how its options are submitted, and keys that only the library has.
struct concept_reader {
    std::function<uint32_t(const json &)> submit;
    std::set<std::string>                 more; // of the library alone
    std::string                           prefix;
};

static const char * no_such_option = "noSuchOption";

// Bounds that a table has no number for: a text's length, a context's sequences, a vocabulary.
static const std::set<std::string> bounded_elsewhere = { "from", "n", "logProbs", "contextSize" };

// What is said against these options; a null where nothing is.
static json refusal(const concept_reader & reader, const json & options) {
    const uint32_t job   = reader.submit(options);
    const json     error = wait_for(job) == LLAMA_DUO_JOB_FAILED ? error_of(job) : json();
    CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
    return error;
}

// An option that nobody knows is found last: where it is what is refused, the value was taken, and nothing is computed.
static void check_taken(const concept_reader & reader, const std::string & key, const json & value) {
    const json error = refusal(reader, { { key, value }, { no_such_option, 1 } });
    const bool taken = !error.is_null() && error.value("name", "") == reader.prefix + no_such_option;
    CHECK(taken);
    if (!taken) {
        fprintf(stderr, "    %s%s = %s: %s\n", reader.prefix.c_str(), key.c_str(), dump(value).c_str(), dump(error).c_str());
    }
}

static void check_refused(const concept_reader & reader, const std::string & key, const json & value, const json & form) {
    const json error   = refusal(reader, { { key, value }, { no_such_option, 1 } });
    const bool refused = !error.is_null() && error.value("code", "") == "option" && error.value("name", "") == reader.prefix + key &&
                         (bounded_elsewhere.count(key) || !form.contains("expected") || error.value("expected", "") == form.at("expected"));
    CHECK(refused);
    if (!refused) {
        fprintf(stderr, "    %s%s = %s: %s, expected %s\n", reader.prefix.c_str(), key.c_str(), dump(value).c_str(), dump(error).c_str(), dump(form).c_str());
    }
}

static void check_option(const concept_reader & reader, const std::string & key, const json & form) {
    const std::string type = form.at("type");
    for (const json & value : { json(), json::array({ json::object() }) }) { // of no type that an option has
        check_refused(reader, key, value, form);
    }
    if (type == "integer" || type == "number") {
        const double min = form.at("min");
        const double max = form.at("max");
        const double far = type == "integer" ? 1 : std::max(1e-6, std::abs(max) * 1e-6);
        check_taken(reader, key, min);
        if (!bounded_elsewhere.count(key)) {
            check_taken(reader, key, max);
        }
        check_refused(reader, key, min - (type == "integer" ? 1 : std::max(1e-6, std::abs(min) * 1e-6)), form);
        check_refused(reader, key, max + far, form);
        check_refused(reader, key, "1", form);
        if (type == "integer") {
            check_refused(reader, key, min + 0.5, form);
        }
    } else if (type == "boolean") {
        check_taken(reader, key, true);
        check_taken(reader, key, false);
        check_refused(reader, key, 1, form);
    } else if (type == "choice") {
        for (const json & value : form.at("choices")) {
            check_taken(reader, key, value);
        }
        check_refused(reader, key, "no such choice", form);
    } else if (type == "string") {
        check_taken(reader, key, "text");
        check_refused(reader, key, 1, form);
    } else if (type == "strings") {
        check_taken(reader, key, { "a", "b" });
        check_refused(reader, key, json::array({ "" }), form);
        check_refused(reader, key, "a", form);
    } else if (type == "object") {
        check_taken(reader, key, key == "speculative" ? json { { "lookup", true } } : json { { "sparsity", 1 } });
        check_refused(reader, key, 1, form);
    } else {
        CHECK_EQ(type, "any");
    }
}

static void check_names(const concept_reader & reader, const json & table) {
    std::set<std::string> expected = reader.more;
    for (const auto & [key, form] : table.items()) {
        expected.insert(key);
    }
    std::string known = refusal(reader, { { no_such_option, 1 } }).at("expected");
    const std::string before = "known are ";
    known = known.substr(known.find(before) + before.size());
    std::set<std::string> found;
    for (size_t begin = 0, end = 0; end != std::string::npos; begin = end + 2) {
        end = known.find(", ", begin);
        found.insert(known.substr(begin, end == std::string::npos ? end : end - begin));
    }
    CHECK(found == expected);
    if (found != expected) {
        fprintf(stderr, "    known: %s\n    table: %s\n", known.c_str(), dump(json(expected)).c_str());
    }
}

// --- defaults ---

// Every default of a table is what the reader makes of no options.
static void check_defaults(const json & table, const std::map<std::string, json> & found) {
    for (const auto & [key, form] : table.items()) {
        if (!form.contains("default")) {
            continue;
        }
        const auto it    = found.find(key);
        const json value = it == found.end() ? json() : it->second;
        const bool same  = value.is_number_float() ? std::abs(value.get<double>() - form.at("default").get<double>()) < 1e-6 : value == form.at("default");
        CHECK(same);
        if (!same) {
            fprintf(stderr, "    %s is %s by default, the table says %s\n", key.c_str(), dump(value).c_str(), dump(form.at("default")).c_str());
        }
    }
}

static std::map<std::string, json> generate_defaults(const duo::abi::model & m) {
    const auto   o = generate_options::read(options::parse("{}", 2), m, 1);
    const auto & s = o.sampling;
    return {
        { "maxTokens",        o.max_tokens },
        { "ignoreEos",        s.ignore_eos },
        { "specialTokens",    o.special_tokens },
        { "reuse",            o.reuse },
        { "window",           o.window },
        { "parseSpecial",     false },  // read with the prompt; test-abi has it
        { "temperature",      s.temp },
        { "topK",             s.top_k },
        { "topP",             s.top_p },
        { "minP",             s.min_p },
        { "typicalP",         s.typ_p },
        { "repeatPenalty",    s.penalty_repeat },
        { "repeatLastN",      s.penalty_last_n },
        { "frequencyPenalty", s.penalty_freq },
        { "presencePenalty",  s.penalty_present },
        { "topNSigma",        s.top_n_sigma },
        { "minKeep",          s.min_keep },
        { "xtcProbability",   s.xtc_probability },
        { "xtcThreshold",     s.xtc_threshold },
        { "dynamicTemperatureRange",    s.dynatemp_range },
        { "dynamicTemperatureExponent", s.dynatemp_exponent },
        { "dryMultiplier",    s.dry_multiplier },
        { "dryBase",          s.dry_base },
        { "dryAllowedLength", s.dry_allowed_length },
        { "dryLastN",         s.dry_penalty_last_n },
        { "mirostat",         s.mirostat },
        { "mirostatTau",      s.mirostat_tau },
        { "mirostatEta",      s.mirostat_eta },
        { "adaptiveTarget",   s.adaptive_target },
        { "adaptiveDecay",    s.adaptive_decay },
    };
}

static std::map<std::string, json> context_defaults() {
    const auto   o = context_options::read(options::parse("{}", 2));
    const auto & p = o.params;
    return {
        { "contextSize",    p.n_ctx },
        { "sequences",      p.n_seq_max },
        { "batchSize",      p.n_batch },
        { "ubatchSize",     p.n_ubatch },
        { "typeK",          ggml_type_name(p.type_k) },
        { "typeV",          ggml_type_name(p.type_v) },
        { "flashAttention", p.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_AUTO ? "auto" : "other" },
    };
}

static json one_sample() {
    return { { "samples", json::array({ { { "tokens", { 5, 6, 7 } }, { "context", 1 }, { "answers", json::array({ { 2, 3 } }) } } }) } };
}

static std::map<std::string, json> calibrate_defaults(const duo::abi::model & m) {
    const std::string text = dump(one_sample());
    const auto   o = calibrate_options::read(options::parse(text.data(), int32_t(text.size())), m);
    const auto & p = o.params;
    return {
        { "method", duo::calibration_method_names()[size_t(p.method)] },
        { "seed",   p.seed },
        { "sink",   p.sink },
        { "recent", p.recent },
        { "strict", p.strict },
    };
}

int main(int argc, char ** argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: test-options OPTIONS.json MODEL\n");
        return 2;
    }
    const std::string path = argv[2];
    const json        tables = json::parse(std::ifstream(argv[1]));

    const auto load = [](const json & o) { return submit(llama_duo_model_load, dump(o)); };
    const uint32_t model   = take_result(load({ { "path", path } })).at("model");
    const uint32_t context = take_result(submit(
            [=](const void * j, int32_t n, uint32_t * job) { return llama_duo_context_create(model, j, n, job); }, R"({"contextSize":256,"threads":1})")).at("context");

    const auto with = [](json base, const json & more) {
        base.update(more);
        return dump(base);
    };
    const auto plan = [=](const json & o) {
        return submit([=](const void * j, int32_t n, uint32_t * job) { return llama_duo_context_plan(model, j, n, job); }, with({ { "contextSize", 256 } }, o));
    };
    const int32_t tokens[] = { 5, 6, 7 };
    const std::map<std::string, concept_reader> readers = {
        { "model",    { [&](const json & o) { return load(json::parse(with({ { "path", path }, { "vocabOnly", true } }, o))); },
            { "path" }, "" } },
        { "context",  { plan, {}, "" } },
        { "duo",      { [&](const json & o) { return plan({ { "duo", o } }); }, {}, "duo." } },
        { "speculative", { [&](const json & o) { return plan({ { "speculative", json::parse(with({ { "draft", model } }, o)) } }); }, {}, "speculative." } },
        { "generate", { [&](const json & o) {
            return submit([&](const void * j, int32_t n, uint32_t * job) { return llama_duo_generate(context, tokens, 3, nullptr, 0, j, n, job); }, with({ { "maxTokens", 0 } }, o));
        }, { "jsonSchema", "chat" }, "" } },
        { "score",    { [&](const json & o) {
            return submit([&](const void * j, int32_t n, uint32_t * job) { return llama_duo_score(context, tokens, 3, nullptr, 0, j, n, job); }, dump(o));
        }, {}, "" } },
        { "chat",     { [&](const json & o) {
            const json messages = json::array({ { { "role", "user" }, { "content", "hello" } } });
            return submit([=](const void * j, int32_t n, uint32_t * job) { return llama_duo_chat_apply(model, j, n, job); }, with({ { "messages", messages } }, o));
        }, { "messages", "tools", "addAssistant", "continueLast", "jsonSchema", "reasoning", "now" }, "" } },
        { "embedder", { [&](const json & o) {
            return submit([=](const void * j, int32_t n, uint32_t * job) { return llama_duo_embedder_create(model, j, n, job); }, dump(o));
        }, {}, "" } },
        { "select",   { [&](const json & o) {
            const json pattern = { { "llamaDuoPattern", 1 }, { "layers", 1 }, { "kvHeads", 2 }, { "gates", { { 0.25, 0.75 } } } };
            return submit(llama_duo_gates_select, with({ { "pattern", pattern } }, o));
        }, { "pattern", "kvHeads" }, "" } },
        { "calibrate", { [&](const json & o) {
            return submit([=](const void * j, int32_t n, uint32_t * job) { return llama_duo_calibrate(model, j, n, job); }, with(one_sample(), o));
        }, { "samples", "modelId" }, "" } },
    };

    std::set<std::string> seen;
    for (const auto & [name, table] : tables.items()) {
        printf("%s: %zu options\n", name.c_str(), table.size());
        seen.insert(name);
        const concept_reader & reader = readers.at(name);
        check_names(reader, table);
        for (const auto & [key, form] : table.items()) {
            check_option(reader, key, form);
        }
    }
    CHECK_EQ(seen.size(), readers.size());

    const auto m = handles().get<duo::abi::model>(model);
    CHECK(m != nullptr);
    check_defaults(tables.at("generate"), generate_defaults(*m));
    check_defaults(tables.at("context"), context_defaults());
    check_defaults(tables.at("calibrate"), calibrate_defaults(*m));

    give_back(llama_duo_context_free, context);
    give_back(llama_duo_model_free, model);
    return check::result();
}
