#include "grammar.h"

#include "log.h"
#include "utf8.h"

#include "json-schema-to-grammar.h"
#include "llama-grammar.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <regex>

namespace duo::abi {

// llama.cpp parses groups and follows references by recursion: within these bounds its stack does for any grammar, and they are far from any that has a use
static constexpr int    max_grammar_depth = 256;
static constexpr size_t max_grammar_size  = 256 * 1024; // bytes

// A trigger is looked for in the last 1,024 bytes of a text, by a regular expression, which recurses over them: up to 40 KB of stack for each byte of the pattern.
static constexpr size_t max_trigger_word    = 1024; // bytes
static constexpr size_t max_trigger_pattern = 128;

// How many groups of a GBNF grammar are open at once, at most. Parentheses within literals, character classes, tokens and comments open none.
static int grammar_depth(const std::string & text) {
    int depth = 0, deepest = 0;
    for (size_t i = 0; i < text.size(); ++i) {
        const auto skip_to = [&](const char * ends, bool escapes) {
            while (++i < text.size() && !strchr(ends, text[i])) {
                i += escapes && text[i] == '\\';
            }
        };
        switch (text[i]) {
            case '(': deepest = std::max(deepest, ++depth); break;
            case ')': --depth;                break;
            case '"': skip_to("\"", true);    break;
            case '[': skip_to("]", true);     break;
            case '<': skip_to(">", false);    break;
            case '#': skip_to("\r\n", false); break;
        }
    }
    return deepest;
}

std::string grammar_of_schema(const json & schema, const std::string & name) {
    if (!schema.is_object()) {
        throw option_error(name, schema, "a JSON schema, which is an object");
    }
    try {
        return json_schema_to_grammar(common_json::parse(dump(schema)));
    } catch (const std::exception & e) {
        throw option_error(name, schema, std::string("a JSON schema that can be a grammar (") + e.what() + ")");
    }
}

// --- what a chat's template asks for ---

static std::vector<llama_token> tokens_of(const model & m, const std::string & text) {
    return tokenize(m, text.data(), int32_t(text.size()), /*add_special=*/ false, /*parse_special=*/ true);
}

static void check_trigger(const options & o, const common_grammar_trigger & trigger) {
    const bool   is_pattern = trigger.type == COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN || trigger.type == COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL;
    const size_t max        = is_pattern ? max_trigger_pattern : max_trigger_word;
    if (trigger.value.size() > max) {
        throw o.error("grammarTriggers", (is_pattern ? "patterns of at most " : "words of at most ") + std::to_string(max) + " bytes, found " + std::to_string(trigger.value.size()));
    }
    if (is_pattern) {
        try {
            std::regex pattern(trigger.value);
        } catch (const std::regex_error & e) {
            throw o.error("grammarTriggers", std::string("regular expressions (") + e.what() + ")");
        }
    }
}

// The "sampling" of llama_duo_chat_apply's result.
static void read_chat(options o, const model & m, common_params_sampling & s) {
    std::string grammar = o.string("grammar").value_or("");
    s.generation_prompt = o.string("generationPrompt").value_or("");
    s.grammar_lazy      = o.boolean("grammarLazy").value_or(false);
    if (!grammar.empty()) {
        s.grammar = { COMMON_GRAMMAR_TYPE_TOOL_CALLS, std::move(grammar) };
    }

    if (const json * triggers = o.value("grammarTriggers")) {
        for (const auto & t : triggers->is_array() ? *triggers : json::array({ json() })) {
            if (!t.is_object() || !t.value("type", json()).is_number_integer() || !t.value("value", json()).is_string() || t["type"] < 0 || t["type"] > COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL) {
                throw o.error("grammarTriggers", "what llama_duo_chat_apply gave");
            }
            common_grammar_trigger trigger = { common_grammar_trigger_type(t["type"].get<int>()), t["value"] };
            check_trigger(o, trigger);
            // as llama.cpp's server does: a word that is one token starts the grammar as that token
            const auto tokens = trigger.type == COMMON_GRAMMAR_TRIGGER_TYPE_WORD ? tokens_of(m, trigger.value) : std::vector<llama_token>();
            if (trigger.type == COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN) {
                const auto given = t.value("token", json(-1));
                trigger.token = given.is_number_integer() ? given.get<llama_token>() : -1;
                if (!m.is_token(trigger.token)) {
                    throw o.error("grammarTriggers", "what llama_duo_chat_apply gave");
                }
            } else if (tokens.size() == 1) {
                trigger.type  = COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN;
                trigger.token = tokens[0];
                s.preserved_tokens.insert(tokens[0]);
            }
            s.grammar_triggers.push_back(std::move(trigger));
        }
    }
    const auto texts = [&](const char * key) {
        std::vector<std::string> result;
        if (const json * given = o.value(key)) {
            for (const auto & text : given->is_array() ? *given : json::array({ json() })) {
                if (!text.is_string()) {
                    throw o.error(key, "an array of strings");
                }
                result.push_back(text);
            }
        }
        return result;
    };
    for (const std::string & text : texts("preservedTokens")) {
        const auto tokens = tokens_of(m, text);
        if (tokens.size() == 1) {
            s.preserved_tokens.insert(tokens[0]);
        }
    }
    const std::string thinking_start = o.string("thinkingStart").value_or("");
    const auto        thinking_ends  = texts("thinkingEnds");
    const auto        budget         = o.integer("reasoningBudget", -1, INT32_MAX);
    if (!thinking_start.empty() && !thinking_ends.empty()) {
        s.reasoning_budget_tokens = int32_t(budget.value_or(-1));
        s.reasoning_budget_start  = tokens_of(m, thinking_start);
        for (const std::string & end : thinking_ends) {
            s.reasoning_budget_end.push_back(tokens_of(m, end));
        }
        s.reasoning_budget_forced = s.reasoning_budget_end.front();
    }
    o.finish();
}

void read_grammar(options & o, const model & m, common_params_sampling & s) {
    const char * source = "grammar";
    if (const auto grammar = o.string("grammar"); grammar && !grammar->empty()) {
        s.grammar = { COMMON_GRAMMAR_TYPE_USER, *grammar };
    }
    if (const json * schema = o.value("jsonSchema")) {
        if (!s.grammar.empty()) {
            throw o.error("jsonSchema", "either this or \"grammar\"");
        }
        source    = "jsonSchema";
        s.grammar = { COMMON_GRAMMAR_TYPE_USER, grammar_of_schema(*schema, source) };
    }
    if (const auto chat = o.object("chat")) {
        if (!m.has_vocab()) {
            throw o.error("chat", "none: the model has no vocabulary");
        }
        common_params_sampling with_chat = s;
        with_chat.grammar = {};
        read_chat(*chat, m, with_chat);
        if (!with_chat.grammar.empty() && !s.grammar.empty()) {
            throw o.error(source, std::string("either this or a grammar in \"chat\""));
        }
        if (with_chat.grammar.empty()) {
            with_chat.grammar = s.grammar;
        } else {
            source = "chat.grammar";
        }
        s = std::move(with_chat);
    }
    if (s.grammar.empty()) {
        return;
    }

    const std::string & text = common_grammar_value(s.grammar);
    const auto refuse = [&](const std::string & expected) { return option_error(source, text, expected); };
    if (!m.has_vocab()) {
        throw refuse("no grammar: the model has no vocabulary");
    }
    // another grammar language, for which llama.cpp aborts the process where it was left out of the build
    if (text.rfind("%llguidance", 0) == 0) {
        throw refuse("a GBNF grammar");
    }
    if (text.size() > max_grammar_size) {
        throw refuse("at most " + std::to_string(max_grammar_size) + " bytes, found " + std::to_string(text.size()));
    }
    if (const int depth = grammar_depth(text); depth > max_grammar_depth) {
        throw refuse("at most " + std::to_string(max_grammar_depth) + " parentheses open at once, found " + std::to_string(depth));
    }
}

// --- checks ---

struct grammar_deleter {
    void operator()(llama_grammar * g) const { llama_grammar_free_impl(g); }
};
using grammar_ptr = std::unique_ptr<llama_grammar, grammar_deleter>;

static grammar_ptr parse_grammar(const model & m, const common_params_sampling & s) {
    log_capture errors;
    const std::string & text = common_grammar_value(s.grammar);
    grammar_ptr parsed(llama_grammar_init_impl(m.vocab, text.c_str(), "root", /*lazy=*/ false, nullptr, 0, nullptr, 0));
    if (!parsed) {
        throw option_error("grammar", text, "a GBNF grammar with a root rule (" + errors.reason("it does not parse") + ")");
    }
    return parsed;
}

void check_grammar(const model & m, const common_params_sampling & s) {
    parse_grammar(m, s);
}

bool is_complete(const model & m, const common_params_sampling & s, const std::vector<llama_token> & tokens) {
    if (s.grammar_lazy || common_grammar_needs_prefill(s.grammar)) {
        return true; // a chat's: where it begins is known to the sampler alone, and it allows an end wherever it allows nothing else
    }
    const grammar_ptr grammar = parse_grammar(m, s);
    for (const llama_token t : tokens) {
        llama_grammar_accept_impl(*grammar, t);
    }
    const auto & stacks = llama_grammar_get_stacks(grammar.get());
    return std::any_of(stacks.begin(), stacks.end(), [](const auto & stack) { return stack.empty(); });
}

} // namespace duo::abi
