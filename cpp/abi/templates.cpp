#include "templates.h"

#include "grammar.h"

#include "chat.h"
#include "chat-peg-parser.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <regex>

namespace duo::abi {

namespace {

// --- texts that are not to become special tokens ---

// Marks places in the texts of a chat where the prompt is to be cut: its pieces are tokenized apart, so that no special token reaches across. A mark is a
// character that no text has (one of Unicode's 32 that are none), and templates hand it on like any other. Only texts that hold the name of a special token, or a
// part of one at an end, get marks: all others are rendered as they are.
class special_cuts {
public:
    special_cuts(const model & m, const json & texts) {
        for (llama_token t = 0; t < llama_vocab_n_tokens(m.vocab); t++) {
            if (llama_vocab_get_attr(m.vocab, t) & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN)) {
                const std::string name = llama_vocab_get_text(m.vocab, t);
                if (!name.empty()) {
                    names.push_back(name);
                }
            }
        }
        const std::string all = dump(texts);
        for (int i = 0; i < 32 && (mark.empty() || all.find(mark) != std::string::npos); i++) {
            mark = { '\xEF', '\xB7', char(0x90 + i) }; // U+FDD0 to U+FDEF
        }
    }

    // The same with marks in all its strings. n_marks counts them.
    json marked(const json & value) {
        if (value.is_string()) {
            return mark_text(value.get<std::string>());
        }
        if (!value.is_structured()) {
            return value;
        }
        json result = value.is_array() ? json::array() : json::object();
        for (const auto & [key, inner] : value.items()) {
            if (value.is_array()) {
                result.push_back(marked(inner));
            } else {
                result[key] = marked(inner);
            }
        }
        return result;
    }

    std::vector<std::string> pieces(const std::string & text) const {
        std::vector<std::string> result;
        size_t from = 0;
        for (size_t at; (at = text.find(mark, from)) != std::string::npos; from = at + mark.size()) {
            result.push_back(text.substr(from, at - from));
        }
        result.push_back(text.substr(from));
        return result;
    }

    size_t n_marks = 0;

private:
    std::vector<std::string> names;
    std::string              mark;

    std::string mark_text(const std::string & text) {
        std::vector<bool> cut(text.size() + 1, false); // before this byte
        for (const std::string & name : names) {
            size_t first = 1; // behind the name's first character
            while (first < name.size() && (name[first] & 0xC0) == 0x80) {
                first++;
            }
            for (size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
                cut[at + first] = true;
            }
            // a name that goes on behind the text, or began before it
            for (size_t n = std::min(name.size() - 1, text.size()); n > 0; n--) {
                cut[text.size()] = cut[text.size()] || text.compare(text.size() - n, n, name, 0, n) == 0;
                cut[0]           = cut[0] || text.compare(0, n, name, name.size() - n, n) == 0;
            }
        }
        std::string result;
        for (size_t i = 0; i <= text.size(); i++) {
            if (cut[i]) {
                result += mark;
                n_marks++;
            }
            if (i < text.size()) {
                result += text[i];
            }
        }
        return result;
    }
};

// --- options ---

// Calls f; what llama.cpp throws of an option's value becomes an error that names it.
template <class F> auto reading(const options & o, const char * key, const char * expected, F && f) {
    try {
        return f();
    } catch (const job_error &) {
        throw;
    } catch (const std::exception & e) {
        throw o.error(key, std::string(expected) + " (" + e.what() + ")");
    }
}

common_reasoning_format reasoning_of(options & o) {
    const auto name = o.one_of("reasoning", { "none", "auto", "deepseek", "deepseek-legacy" });
    return common_reasoning_format_from_name(name.value_or("auto"));
}

struct chat_options {
    common_chat_templates_inputs inputs;
    json                         messages;
    json                         tools;
    std::string                  override_template;
    int32_t                      reasoning_budget = -1;

    // Parses messages and tools, which may be marked ones, into a copy of the inputs.
    common_chat_templates_inputs with(const options & o, const json & messages, const json & tools) const {
        common_chat_templates_inputs result = inputs;
        result.messages = reading(o, "messages", "messages as OpenAI's chat completions have them", [&] {
            return common_chat_msgs_parse_oaicompat(common_json::parse(dump(messages)));
        });
        result.tools = reading(o, "tools", "tools as OpenAI's chat completions have them", [&] {
            return common_chat_tools_parse_oaicompat(common_json::parse(dump(tools)));
        });
        return result;
    }
};

chat_options read(options & o) {
    chat_options result;
    auto & inputs = result.inputs;

    const json * messages = o.value("messages");
    if (!messages || !messages->is_array() || messages->empty()) {
        throw o.error("messages", "an array of at least one message");
    }
    result.messages = *messages;
    if (const json * tools = o.value("tools")) {
        if (!tools->is_array()) {
            throw o.error("tools", "an array of tools");
        }
        result.tools = *tools;
    } else {
        result.tools = json::array();
    }
    if (const auto choice = o.one_of("toolChoice", { "auto", "none", "required" })) {
        inputs.tool_choice = common_chat_tool_choice_parse_oaicompat(*choice);
    }
    inputs.parallel_tool_calls   = o.boolean("parallelToolCalls").value_or(false);
    inputs.add_generation_prompt = o.boolean("addAssistant").value_or(true);
    inputs.enable_thinking       = o.boolean("thinking").value_or(true);
    inputs.reasoning_format      = reasoning_of(o);
    result.override_template     = o.string("template").value_or("");
    result.reasoning_budget      = int32_t(o.integer("reasoningBudget", -1, INT32_MAX).value_or(-1));
    if (const json * schema = o.value("jsonSchema")) {
        grammar_of_schema(*schema, "jsonSchema"); // for its error
        inputs.json_schema = dump(*schema);
    }
    if (const auto now = o.number("now", 0, 9.2e9)) {
        inputs.now = std::chrono::system_clock::time_point(std::chrono::seconds(int64_t(*now)));
    }
    if (const json * more = o.value("variables")) {
        if (!more->is_object()) {
            throw o.error("variables", "an object");
        }
        for (const auto & [key, value] : more->items()) {
            inputs.chat_template_kwargs[key] = dump(value);
        }
    }
    if (o.boolean("continueLast").value_or(false)) {
        if (inputs.add_generation_prompt && result.messages.back().value("role", json()) != "assistant") {
            throw o.error("continueLast", "false, or a last message of the assistant to be continued");
        }
        inputs.continue_final_message = COMMON_CHAT_CONTINUATION_AUTO;
        inputs.add_generation_prompt  = false;
    }
    o.finish();
    return result;
}

// --- the prompt's tokens ---

std::vector<llama_token> tokens_of(const job & j, const model & m, const std::vector<std::string> & pieces) {
    std::vector<llama_token> result;
    // as llama.cpp's server has it: what the tokenizer would add is not in the text
    if (llama_vocab_get_add_bos(m.vocab) && llama_vocab_bos(m.vocab) != LLAMA_TOKEN_NULL) {
        result.push_back(llama_vocab_bos(m.vocab));
    }
    for (const std::string & piece : pieces) {
        if (!piece.empty()) {
            const auto tokens = tokenize(m, piece.data(), int32_t(piece.size()), /*add_special=*/ false, /*parse_special=*/ true, &j);
            result.insert(result.end(), tokens.begin(), tokens.end());
        }
    }
    if (llama_vocab_get_add_eos(m.vocab) && llama_vocab_eos(m.vocab) != LLAMA_TOKEN_NULL) {
        result.push_back(llama_vocab_eos(m.vocab));
    }
    return result;
}

// llama.cpp's grammars let any text come before a call that is required, and small models never get to the call.
std::string begins_with_call(const std::string & grammar) {
    static const std::string root = "root ::= ";
    const size_t begin = grammar.rfind(root, 0) == 0 ? 0 : grammar.find("\n" + root);
    if (begin == std::string::npos) {
        return grammar;
    }
    const size_t end = grammar.find('\n', begin + 1);
    const std::string rule = grammar.substr(begin, end - begin);
    static const std::regex text_before_call("until-[0-9]+\\? (?=tool-call)");
    return grammar.substr(0, begin) + std::regex_replace(rule, text_before_call, "") + (end == std::string::npos ? "" : grammar.substr(end));
}

// --- what a model said ---

// Up to where a text tells something: the end of the last piece of content or reasoning, which may be empty where a call follows.
struct told {
    size_t end     = 0; // bytes
    size_t n_calls = 0; // before that
};

// Nothing where the text is no message, nor the beginning of one.
std::optional<told> read_text(const common_chat_parser_params & params, const std::string & text) {
    const size_t n_prompt = params.generation_prompt.size();
    common_peg_parse_context ctx(params.generation_prompt + text, COMMON_PEG_PARSE_FLAG_LENIENT);
    common_peg_parse_result  result;
    try {
        result = params.parser.parse(ctx);
    } catch (const std::exception &) { // it nests too deeply
        return {};
    }
    if (result.fail()) {
        return {};
    }
    told found;
    size_t n_calls = 0;
    ctx.ast.visit(result, [&](const common_peg_ast_node & node) {
        using tags = common_chat_peg_builder;
        n_calls += node.tag == tags::TOOL_NAME;
        if ((node.tag == tags::CONTENT || node.tag == tags::REASONING) && node.end >= n_prompt + found.end) {
            found = { node.end - n_prompt, n_calls };
        }
    });
    return found;
}

// Where content begins behind reasoning: behind the tag that ends it, from where on a letter would be content.
size_t behind_reasoning(const common_chat_parser_params & params, const std::string & text, size_t end, size_t readable) {
    constexpr size_t longest_tag = 64;
    for (size_t n = end; n <= std::min(readable, end + longest_tag); n++) {
        try {
            if (common_chat_parse(text.substr(0, n) + "x", /*is_partial=*/ false, params).content == "x") {
                return std::min(text.find_first_not_of(" \t\r\n", n), text.size());
            }
        } catch (const std::exception &) {
        }
    }
    return end;
}

// A model may say anything. Where a text ceases to be a message of the format, what it told until then stays, so that it is what a reader of its pieces got, and
// all behind that is content, as it stands.
common_chat_msg message_of_any(const common_chat_parser_params & params, const std::string & text) {
    // the longest beginning that can be read: what is wrong with one is so with all that are longer
    size_t readable = 0;
    told   last;
    for (size_t low = 0, high = text.size() + 1; low < high;) {
        const size_t middle = low + (high - low) / 2;
        size_t n = middle;
        while (n < text.size() && n > 0 && (text[n] & 0xC0) == 0x80) { // inside a character
            n--;
        }
        if (const auto found = read_text(params, text.substr(0, n))) {
            readable = n;
            last     = *found;
            low      = middle + 1;
        } else {
            high = middle;
        }
    }
    if (last.end == 0) {
        common_chat_msg message;
        message.content = text;
        return message;
    }
    common_chat_msg message = common_chat_parse(text.substr(0, readable), /*is_partial=*/ false, params);
    message.tool_calls.resize(std::min(message.tool_calls.size(), last.n_calls));
    const size_t begin = message.content.empty() ? behind_reasoning(params, text, last.end, readable) : last.end;
    message.content += text.substr(begin);
    return message;
}

// A text that goes on is read as one that does not, but that what has begun as a call may still become one.
common_chat_msg message_of(const common_chat_parser_params & params, const std::string & text, bool partial) {
    common_chat_msg message;
    try {
        message = common_chat_parse(text, /*is_partial=*/ false, params);
    } catch (const std::exception &) {
        return message_of_any(params, text);
    }
    const bool says_nothing = message.content.empty() && message.content_parts.empty() && message.tool_calls.empty();
    if (!partial && says_nothing) {
        const auto any = message_of_any(params, text);
        const bool is_blank = any.content.find_first_not_of(" \t\r\n") == std::string::npos;
        return is_blank ? message : any;
    }
    return message;
}

} // namespace

void apply_template(job & j, const model & m, options o) {
    if (!m.has_vocab()) {
        throw job_error("template", "the model has no vocabulary, so that it can have no chat");
    }
    const chat_options given = read(o);

    const auto rendering = [](auto && f) {
        try {
            return f();
        } catch (const std::exception & e) {
            throw job_error("template", std::string("the chat template cannot render this: ") + e.what());
        }
    };
    const auto templates = rendering([&] { return common_chat_templates_init(m.ptr.get(), given.override_template); });
    const auto inputs    = given.with(o, given.messages, given.tools);
    const auto apply = [&](const common_chat_templates_inputs & in) { return rendering([&] { return common_chat_templates_apply(templates.get(), in); }); };
    common_chat_params p = apply(inputs);
    if (!inputs.tools.empty() && inputs.tool_choice != COMMON_CHAT_TOOL_CHOICE_NONE) {
        auto without_tools = inputs;
        without_tools.tools.clear();
        if (apply(without_tools).prompt == p.prompt) {
            throw job_error("template", "the chat template says nothing of tools, so that the model would not know of them: take a model that was trained to call tools, or another template");
        }
        if (inputs.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED && p.grammar.empty()) {
            throw job_error("template", "the chat template does not show how tools are called, so that no call can be required: leave \"toolChoice\" at auto");
        }
        if (inputs.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED) {
            p.grammar = begins_with_call(p.grammar);
        }
    }

    // the same again with marks where there are any: what follows from the tools' names is as without
    std::vector<std::string> pieces = { p.prompt };
    special_cuts cuts(m, json::array({ given.messages, given.tools }));
    const json marked_messages = cuts.marked(given.messages);
    const json marked_tools    = cuts.marked(given.tools);
    if (cuts.n_marks > 0) {
        const auto marked = given.with(o, marked_messages, marked_tools);
        pieces = cuts.pieces(apply(marked).prompt);
    }
    const auto tokens = tokens_of(j, m, pieces);
    std::string prompt;
    for (const std::string & piece : pieces) {
        prompt += piece;
    }

    json triggers = json::array();
    for (const auto & t : p.grammar_triggers) {
        json trigger = { { "type", int(t.type) }, { "value", t.value } };
        if (t.type == COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN) {
            trigger["token"] = t.token;
        }
        triggers.push_back(trigger);
    }
    j.set_data(tokens);
    j.finish([&] {
        return json {
            { "prompt", prompt },
            { "tokens", tokens.size() },
            { "cuts",   pieces.size() - 1 },
            { "stop",   p.additional_stops },
            { "supportsThinking", p.supports_thinking },
            { "sampling", {
                { "grammar",          p.grammar },
                { "grammarLazy",      p.grammar_lazy },
                { "grammarTriggers",  triggers },
                { "generationPrompt", p.generation_prompt },
                { "preservedTokens",  p.preserved_tokens },
                { "thinkingStart",    p.thinking_start_tag },
                { "thinkingEnds",     p.thinking_end_tags },
                { "reasoningBudget",  given.reasoning_budget },
            } },
            { "parser", {
                { "format",           common_chat_format_name(p.format) },
                { "reasoning",        common_reasoning_format_name(inputs.reasoning_format) },
                { "generationPrompt", p.generation_prompt },
                { "toolCalls",        !inputs.tools.empty() && inputs.tool_choice != COMMON_CHAT_TOOL_CHOICE_NONE },
                { "continues",        inputs.continue_final_message != COMMON_CHAT_CONTINUATION_NONE },
                { "rules",            p.parser },
            } },
        };
    });
}

void parse_message(job & j, options o) {
    common_chat_parser_params params;
    const auto text    = o.string("text");
    const bool partial = o.boolean("partial").value_or(false);
    auto parser = o.object("parser");
    if (!text || !parser) {
        throw o.error(text ? "parser" : "text", text ? "what llama_duo_chat_apply gave" : "a string");
    }
    o.finish();

    std::vector<std::string> formats;
    for (int i = 0; i < COMMON_CHAT_FORMAT_COUNT; i++) {
        formats.push_back(common_chat_format_name(common_chat_format(i)));
    }
    const auto format = parser->one_of("format", formats).value_or(formats[0]);
    params.format            = common_chat_format(std::find(formats.begin(), formats.end(), format) - formats.begin());
    params.reasoning_format  = reasoning_of(*parser);
    params.generation_prompt = parser->string("generationPrompt").value_or("");
    params.parse_tool_calls  = parser->boolean("toolCalls").value_or(true);
    params.is_continuation   = parser->boolean("continues").value_or(false);
    const auto rules         = parser->string("rules").value_or("");
    parser->finish();
    if (!rules.empty()) {
        reading(*parser, "rules", "what llama_duo_chat_apply gave", [&] { params.parser.load(rules); });
    }

    const common_chat_msg message = message_of(params, *text, partial);
    json calls = json::array();
    for (const auto & call : message.tool_calls) {
        calls.push_back({ { "id", call.id }, { "name", call.name }, { "arguments", call.arguments } });
    }
    std::string content = message.content;
    for (const auto & part : message.content_parts) {
        content += part.text;
    }
    j.finish([&] { return json { { "content", content }, { "reasoning", message.reasoning_content }, { "toolCalls", calls } }; });
}

void convert_schema(job & j, options o) {
    const json * schema = o.value("schema");
    if (!schema) {
        throw o.error("schema", "a JSON schema");
    }
    const std::string grammar = grammar_of_schema(*schema, "schema");
    o.finish();
    j.finish([&] { return json { { "grammar", grammar } }; });
}

} // namespace duo::abi
