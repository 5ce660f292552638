// Chats: templates by llama.cpp's engine, texts that stay texts, messages out of what was generated, schemas. The argument is llama.cpp's folder of templates.
#include "abi-calls.h"
#include "check.h"
#include "random-model.h"

#include "common.h"
#include "llama-grammar.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <regex>

using tokens_t = std::vector<int32_t>;

static uint32_t    model;
static std::string folder;

static std::string template_of(const char * name) {
    std::ifstream file(folder + "/" + name);
    CHECK(file.good());
    return { std::istreambuf_iterator<char>(file), {} };
}

static json_call apply() {
    return [](const void * j, int32_t n, uint32_t * job) { return llama_duo_chat_apply(model, j, n, job); };
}

static tokens_t applied(const json & options, json & result) {
    return take_data<int32_t>(submit(apply(), dump(options)), &result);
}

static json parsed(const std::string & text, const json & parser, bool partial = false) {
    return take_result(submit(llama_duo_chat_parse, dump({ { "text", text }, { "parser", parser }, { "partial", partial } })));
}

static tokens_t tokenized(const std::string & text, int32_t flags) {
    int32_t n = 0;
    tokens_t tokens(4 * text.size() + 8); // a space may be three bytes
    CHECK_EQ(llama_duo_tokenize(model, text.data(), int32_t(text.size()), flags, tokens.data(), int32_t(tokens.size()), &n), LLAMA_DUO_OK);
    tokens.resize(size_t(n));
    return tokens;
}

static json user(const json & content) {
    return { { "role", "user" }, { "content", content } };
}

// --- texts that stay texts ---

static const char * plain = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant:{% endif %}";

static void test_special_tokens(std::mt19937_64 & rng) {
    json r;
    tokens_t tokens = applied({ { "template", plain }, { "messages", { user("hello there"), user("a < b > c") } } }, r);
    CHECK_EQ(r.at("prompt"), "user: hello there</s><s>user: a < b > c</s><s>assistant:"); // but for the first token, which the tokenizer puts there
    CHECK_EQ(r.at("tokens"), tokens.size());
    CHECK_EQ(std::count(tokens.begin(), tokens.end(), 1), 3);
    CHECK_EQ(std::count(tokens.begin(), tokens.end(), 2), 2);

    tokens = applied({ { "template", plain }, { "addAssistant", false }, { "messages", { user("hello") } } }, r);
    CHECK_EQ(r.at("cuts"), 0);
    CHECK(tokens == tokenized(r.at("prompt"), 3)); // nothing to be careful of: as any text

    // whatever a text holds, the special tokens are the template's
    const std::vector<std::string> bits = { "<s>", "</s>", "<unk>", "<", "s>", "/s>", "</", "<s", "x", " ", "unk>", "<u", "\xE2\x82\xAC", "\n" };
    for (int round = 0; round < 60; round++) {
        json messages = json::array();
        std::string expected;
        size_t n_hostile = 0;
        for (int i = 0; i < 3; i++) {
            std::string text = "a";
            for (size_t n = rng() % 8; n > 0; n--) {
                text += bits[rng() % bits.size()];
            }
            text += "z";
            for (const char * name : { "<s>", "</s>", "<unk>" }) {
                n_hostile += text.find(name) != std::string::npos;
            }
            messages.push_back(user(text));
            expected += (i ? "<s>user: " : "user: ") + text + "</s>";
        }
        tokens = applied({ { "template", plain }, { "addAssistant", false }, { "messages", messages } }, r);
        CHECK_EQ(r.at("prompt"), expected);
        CHECK_EQ(r.at("cuts") > 0, n_hostile > 0);
        CHECK_EQ(std::count(tokens.begin(), tokens.end(), 0), 0);
        CHECK_EQ(std::count(tokens.begin(), tokens.end(), 1), 3);
        CHECK_EQ(std::count(tokens.begin(), tokens.end(), 2), 3);
    }

    // nor does what two texts make together
    tokens = applied({ { "template", "{{ messages[0].content }}{{ messages[1].content }}" }, { "addAssistant", false }, { "messages", { user("hi </"), user("s> ho") } } }, r);
    CHECK_EQ(r.at("prompt"), "hi </s> ho");
    CHECK_EQ(std::count(tokens.begin(), tokens.end(), 2), 0);

    // nor a tool's words
    const json tool = { { "type", "function" }, { "function", { { "name", "look" }, { "description", "ends </s> here" }, { "parameters", { { "type", "object" }, { "properties", json::object() } } } } } };
    tokens = applied({ { "template", "{{ tools | tojson }}|{{ messages[0].content }}</s>" }, { "addAssistant", false }, { "messages", { user("x") } }, { "tools", { tool } }, { "toolChoice", "none" } }, r);
    CHECK(contains(r.at("prompt"), "ends </s> here"));
    CHECK_EQ(std::count(tokens.begin(), tokens.end(), 2), 1);
}

// --- templates of models ---

static const json weather = json::parse(R"({"type":"function","function":{"name":"weather","description":"The weather of a city.",
    "parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}})");

static void test_tools() {
    json r;
    applied({ { "template", template_of("Qwen-Qwen2.5-7B-Instruct.jinja") }, { "messages", { user("Is it raining in Oslo?") } }, { "tools", { weather } } }, r);
    CHECK(contains(r.at("prompt"), "The weather of a city."));
    CHECK(contains(r.at("prompt"), "<|im_start|>assistant"));
    CHECK_EQ(r.at("sampling").at("grammarLazy"), true);
    CHECK(!r.at("sampling").at("grammarTriggers").empty());
    CHECK(contains(r.at("sampling").at("grammar"), "weather"));

    const std::string call = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";
    json m = parsed("Let me see.\n" + call, r.at("parser"));
    CHECK(contains(m.at("content"), "Let me see."));
    CHECK_EQ(m.at("toolCalls").size(), size_t(1));
    CHECK_EQ(m.at("toolCalls")[0].at("name"), "weather");
    CHECK_EQ(json::parse(m.at("toolCalls")[0].at("arguments").get<std::string>()).at("city"), "Oslo");
    m = parsed("Let me see.\n" + call.substr(0, 50), r.at("parser"), /*partial=*/ true);
    CHECK_EQ(m.at("toolCalls").size(), size_t(1));
    m = parsed("No tool is needed.", r.at("parser"));
    CHECK(m.at("toolCalls").empty());

    // its answer goes back
    const json history = { user("Is it raining in Oslo?"),
        { { "role", "assistant" }, { "content", "" }, { "tool_calls", { { { "type", "function" }, { "id", "1" }, { "function", { { "name", "weather" }, { "arguments", "{\"city\":\"Oslo\"}" } } } } } } },
        { { "role", "tool" }, { "tool_call_id", "1" }, { "content", "rain </s>" } } };
    const tokens_t tokens = applied({ { "template", template_of("Qwen-Qwen2.5-7B-Instruct.jinja") }, { "messages", history }, { "tools", { weather } } }, r);
    CHECK(contains(r.at("prompt"), "<tool_response>\nrain </s>\n</tool_response>"));
    CHECK_EQ(std::count(tokens.begin(), tokens.end(), 2), 0);
}

static void test_reasoning() {
    json r;
    applied({ { "template", template_of("Qwen-Qwen3-0.6B.jinja") }, { "messages", { user("2 + 2?") } } }, r);
    CHECK_EQ(r.at("supportsThinking"), true);
    json m = parsed("<think>\nTwo and two.\n</think>\n\nFour.", r.at("parser"));
    CHECK(contains(m.at("reasoning"), "Two and two."));
    CHECK_EQ(m.at("content"), "Four.");
    m = parsed("<think>\nTwo and", r.at("parser"), true);
    CHECK(contains(m.at("reasoning"), "Two and"));
    CHECK_EQ(m.at("content"), "");

    applied({ { "template", template_of("Qwen-Qwen3-0.6B.jinja") }, { "messages", { user("2 + 2?") } }, { "thinking", false } }, r);
    CHECK(contains(r.at("prompt"), "<think>\n\n</think>"));
}

// --- what is no message of the format ---

// What a reader of the pieces has got by the end: reply.ts tells what is longer than before.
struct reader {
    std::string content, reasoning;

    void read(const json & m) {
        for (auto [key, got] : { std::pair("content", &content), std::pair("reasoning", &reasoning) }) {
            const std::string now = m.at(key);
            if (now.size() > got->size()) {
                *got += now.substr(got->size());
            }
        }
    }
};

// A text that comes in pieces, however they are cut, is its message.
static json read_in_pieces(const std::string & text, const json & parser) {
    const json whole = parsed(text, parser);
    reader r;
    for (size_t n = 1; n <= text.size(); n++) {
        if (n == text.size() || (text[n] & 0xC0) != 0x80) {
            r.read(parsed(text.substr(0, n), parser, /*partial=*/ true));
        }
    }
    r.read(whole);
    CHECK_EQ(r.content, whole.at("content"));
    CHECK_EQ(r.reasoning, whole.at("reasoning"));
    return whole;
}

struct called {
    const char * file;
    const char * text; // of a call as the template's models write it
};

static const called calls[] = {
    { "Qwen-Qwen2.5-7B-Instruct.jinja", "Let me see.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>" },
    { "Qwen-Qwen3-0.6B.jinja", "<think>\nThe w\xC3\xA9\x61ther?\n</think>\n\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>" },
    { "Qwen3-Coder.jinja", "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>" },
    { "meta-llama-Llama-3.1-8B-Instruct.jinja", "{\"name\": \"weather\", \"parameters\": {\"city\": \"Oslo\"}}" },
    { "mistralai-Mistral-Nemo-Instruct-2407.jinja", "[TOOL_CALLS][{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}, \"id\": \"123456789\"}]" },
    { "google-gemma-4-31B-it.jinja", "<|tool_call>call:weather{city:<|\"|>Oslo<|\"|>}<tool_call|>" },
    { "openai-gpt-oss-120b.jinja", "<|channel|>analysis<|message|>The weather?<|end|><|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{\"city\": \"Oslo\"}" },
    { "inclusionai-ling-3.0-flash.jinja", "</think>It is <tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>" },
    { "LFM2.5-8B-A1B.jinja", "<|tool_call_start|>[weather(city='Oslo')]<|tool_call_end|>" },
};

static bool is_blank(const json & text) {
    return text.get<std::string>().find_first_not_of(" \t\r\n") == std::string::npos;
}

// A model may say anything: what is no message of its template's format is text, and none of it is lost.
static void test_any_text(std::mt19937_64 & rng) {
    for (const called & c : calls) {
        json r;
        applied({ { "template", template_of(c.file) }, { "messages", { user("Is it raining in Oslo?") } }, { "tools", { weather } } }, r);
        const json parser = r.at("parser");
        const json call   = read_in_pieces(c.text, parser);
        CHECK_EQ(call.at("toolCalls").size(), size_t(1));
        CHECK(contains(call.at("toolCalls")[0].at("arguments"), "Oslo"));

        const std::string text = c.text;
        for (size_t n = 0; n <= text.size(); n++) { // cut off
            if (n < text.size() && (text[n] & 0xC0) == 0x80) {
                continue;
            }
            const std::string said = text.substr(0, n);
            const json m = parsed(said, parser);
            const bool only_begins = n == 0 || std::regex_search(said, std::regex("^(<think>|<\\|channel\\|>analysis<\\|message\\|>)\\s*$"));
            CHECK(only_begins || !m.at("toolCalls").empty() || !is_blank(m.at("content")) || !is_blank(m.at("reasoning")));
        }
        const std::vector<std::string> bits = { "{", "}", "\"", "<", ">", "x", "[", ",", "\n", "\xE2\x82\xAC", "{city: \"Oslo\", degrees:14}" };
        for (int round = 0; round < 2; round++) {
            std::string changed = text;
            for (size_t n = 1 + rng() % 3; n > 0; n--) {
                size_t at = rng() % changed.size();
                while ((changed[at] & 0xC0) == 0x80) {
                    at--;
                }
                size_t end = at + 1;
                while (end < changed.size() && (changed[end] & 0xC0) == 0x80) {
                    end++;
                }
                changed.replace(at, rng() % 2 ? end - at : 0, rng() % 4 ? bits[rng() % bits.size()] : "");
            }
            read_in_pieces(changed, parser);
        }
    }

    json r;
    applied({ { "template", template_of("meta-llama-Llama-3.1-8B-Instruct.jinja") }, { "messages", { user("x") } }, { "tools", { weather } } }, r);
    const std::string said = "{city: \"Oslo\", degrees:14}";
    json m = read_in_pieces(said, r.at("parser"));
    CHECK_EQ(m, (json { { "content", said }, { "reasoning", "" }, { "toolCalls", json::array() } }));

    applied({ { "template", template_of("Qwen-Qwen3-0.6B.jinja") }, { "messages", { user("x") } }, { "tools", { weather } } }, r);
    m = read_in_pieces("<think>\nHow warm?\n</think>\n\n<tool_call>\n" + said + "\n</tool_call>", r.at("parser"));
    CHECK_EQ(m.at("content"), "<tool_call>\n" + said + "\n</tool_call>");
    CHECK(contains(m.at("reasoning"), "How warm?"));
    CHECK(m.at("toolCalls").empty());
    m = read_in_pieces("It is warm.\n<tool_call>\n" + said + "\n</tool_call> Yes.", r.at("parser"));
    CHECK_EQ(m.at("content"), "It is warm.\n<tool_call>\n" + said + "\n</tool_call> Yes.");
    m = read_in_pieces("<think>\nHow warm?\n</think>\n\n<tool_call>\n{\"name\": \"weat", r.at("parser")); // the end of it
    CHECK_EQ(m.at("content"), "<tool_call>\n{\"name\": \"weat");
}

// --- schemas, and what a grammar does to an answer ---

static void test_schema() {
    const json schema = json::parse(R"({"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]})");
    const json r = take_result(submit(llama_duo_schema_grammar, dump({ { "schema", schema } })));
    CHECK(contains(r.at("grammar"), "root ::="));
    check_refused(llama_duo_schema_grammar, R"({"schema":{"type":"nothing"}})", "schema", "a JSON schema");
    check_refused(llama_duo_schema_grammar, R"({"schema":[]})", "schema", "an object");
    check_refused(llama_duo_schema_grammar, "{}", "schema", "a JSON schema");

    // an answer in a chat, with the grammar of its schema
    json chat;
    const tokens_t prompt = applied({ { "template", "{% for m in messages %}{{ m.content }}\n{% endfor %}" }, { "messages", { user("yes or no?") } }, { "jsonSchema", json::parse(R"({"enum":["yes","no"]})") } }, chat);
    const uint32_t c = take_result(submit([](const void * j, int32_t n, uint32_t * job) { return llama_duo_context_create(model, j, n, job); }, R"({"contextSize":512})")).at("context");
    // The grammar lets white space surround the answer: 4 times 22 characters at most, each of which may be a token, and a random model may want them all.
    const std::string options = dump({ { "maxTokens", 128 }, { "temperature", 0 }, { "chat", chat.at("sampling") } });
    uint32_t job = 0;
    CHECK_EQ(llama_duo_generate(c, prompt.data(), int32_t(prompt.size()), nullptr, 0, options.data(), int32_t(options.size()), &job), LLAMA_DUO_OK);
    const drained d = drain_all(job);
    CHECK_EQ(take_result(job).at("stop"), "eos");
    const json m = parsed(d.text, chat.at("parser"));
    CHECK(m.at("content") == "\"yes\"" || m.at("content") == "\"no\"");
    give_back(llama_duo_context_free, c);
}

static void test_refusals() {
    check_refused(apply(), "{}", "messages", "at least one message");
    check_refused(apply(), R"({"messages":[]})", "messages", "at least one message");
    check_refused(apply(), R"({"messages":[{"content":"x"}]})", "messages", "OpenAI");
    check_refused(apply(), R"({"messages":[5]})", "messages", "OpenAI");
    check_refused(apply(), R"({"messages":[{"role":"user","content":"x"}],"tools":[5]})", "tools", "OpenAI");
    check_refused(apply(), R"({"messages":[{"role":"user","content":"x"}],"toolChoice":"any"})", "toolChoice", "one of auto, none, required");
    check_refused(apply(), R"({"messages":[{"role":"user","content":"x"}],"mesages":1})", "mesages", "known are messages");
    check_refused(llama_duo_chat_parse, "{}", "text", "a string");
    check_refused(llama_duo_chat_parse, R"({"text":"a"})", "parser", "llama_duo_chat_apply");
    check_refused(apply(), R"({"messages":[{"role":"user","content":"x"}],"grammar":"root ::= \"a\""})", "grammar", "no such option"); // llama_duo_generate's
    // tools that the model would never hear of
    for (const char * choice : { "auto", "required" }) {
        const json none = take_error(submit(apply(), dump({ { "template", plain }, { "messages", { user("x") } }, { "tools", { weather } }, { "toolChoice", choice } })));
        CHECK_EQ(none.at("code"), "template");
        CHECK(contains(none.at("message"), "nothing of tools"));
    }
    json r;
    applied({ { "template", plain }, { "messages", { user("x") } }, { "tools", { weather } }, { "toolChoice", "none" } }, r);
    // the time that is asked for
    applied({ { "template", "{{ strftime_now('%Y') }}" }, { "messages", { user("x") } }, { "now", 981201600 } }, r);
    CHECK_EQ(r.at("prompt"), "2001");
    const json e = take_error(submit(apply(), dump({ { "template", "{{ raise_exception('only poems') }}" }, { "messages", { user("x") } } })));
    CHECK_EQ(e.at("code"), "template");
    CHECK(contains(e.at("message"), "only poems"));
    CHECK_EQ(take_error(submit(apply(), dump({ { "template", "{% for %}" }, { "messages", { user("x") } } }))).at("code"), "template");
}

// --- what nests deeply is an error, never the end of the stack ---

static std::string repeated(const std::string & text, size_t n) {
    std::string result;
    while (n-- > 0) {
        result += text;
    }
    return result;
}

static std::string arrays(size_t n) {
    return repeated("[", n) + repeated("]", n);
}

static void check_template_error(uint32_t job, const std::string & why) {
    const json e = take_error(job);
    CHECK_EQ(e.value("code", ""), "template");
    CHECK(contains(e.value("message", json()), why));
}

static void test_deep_templates() {
    const auto applying = [](const std::string & text) { return submit(apply(), dump({ { "template", text }, { "messages", { user("x") } } })); };
    constexpr size_t n = 16000, many = 100000;
    for (const std::string & text : std::vector<std::string> {
            "{{ " + repeated("(", many) + "1" + repeated(")", many) + " }}",
            "{{ " + arrays(many) + " }}",
            "{{ " + repeated("{1:", many) + "1" + repeated("}", many) + " }}",
            "{{ " + repeated("not ", many) + "1 }}",
            "{{ 1 - " + repeated("-", many) + "x }}",
            "{{ " + repeated("1 if 1 else ", many) + "1 }}",
            "{{ f" + repeated("()", many) + " }}",
            "{{ x" + repeated("[x", many) + repeated("]", many) + " }}",
            repeated("{% if 1 %}", many) + repeated("{% endif %}", many),
            repeated("{% for x in y %}", many) + repeated("{% endfor %}", many),
            "{% if 1 %}" + repeated("{% elif 1 %}", many) + "{% endif %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{{ 1" + repeated(" + 1", n / 2 - 10) + " }}" }) { // no recursion of the parser, but one of what runs it
        check_template_error(applying(text), "nested too deeply");
    }
    for (const char * loop : { " + 1", " * 1", " and 1", " or 1", " == 1", "|abs", ".a", "[0]", " is none" }) {
        check_template_error(applying("{{ x" + repeated(loop, many) + " }}"), "too long");
    }
    json r;
    applied({ { "template", "{{ " + repeated("(", 20) + "1" + repeated(" + 1", 20) + repeated(")", 20) + " }}" }, { "messages", { user("x") } } }, r);
    CHECK_EQ(r.at("prompt"), "21");
}

static void test_deep_messages() {
    const std::string qwen = template_of("Qwen-Qwen2.5-7B-Instruct.jinja");
    const auto called = [&](const std::string & arguments) {
        const json history = { user("x"), { { "role", "assistant" }, { "content", "" }, { "tool_calls", { { { "type", "function" }, { "id", "1" }, { "function", { { "name", "weather" }, { "arguments", arguments } } } } } } } };
        return submit(apply(), dump({ { "template", qwen }, { "addAssistant", false }, { "messages", history }, { "tools", { weather } } }));
    };
    CHECK(contains(take_result(called("{\"city\":" + arrays(50) + "}")).at("prompt"), "[[["));
    check_template_error(called("{\"city\":" + arrays(100000) + "}"), "512 deep");

    // of options themselves 64
    for (const char * key : { "messages", "tools", "jsonSchema", "variables" }) {
        check_refused(apply(), "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"" + std::string(key) + "\":" + arrays(100000) + "}", "", "64 arrays and objects");
    }
    check_refused(llama_duo_schema_grammar, "{\"schema\":" + arrays(100000) + "}", "", "64 arrays and objects");

    json r;
    applied({ { "template", qwen }, { "messages", { user("x") } }, { "tools", { weather } } }, r);
    const auto call = [](const std::string & arguments) { return "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": " + arguments + "}}\n</tool_call>"; };
    const auto parsing = [&](const std::string & text, const json & parser, bool partial) {
        return submit(llama_duo_chat_parse, dump({ { "text", text }, { "parser", parser }, { "partial", partial } }));
    };
    json parser = r.at("parser");
    CHECK_EQ(take_result(parsing(call(arrays(20)), parser, false)).at("toolCalls").size(), size_t(1));
    for (const bool partial : { false, true }) {
        for (const std::string & deep : { call(arrays(100000)), call(repeated("{\"a\":", 100000)) }) {
            CHECK_EQ(take_result(parsing(deep, parser, partial)).at("content"), deep); // as other texts that are no call
        }
        CHECK(contains(take_result(parsing(repeated("[({", 100000), parser, partial)).at("content"), "[({")); // no call, only a text
    }

    parser["rules"] = arrays(100000);
    const json e = take_error(parsing("x", parser, false));
    CHECK_EQ(e.value("name", ""), "parser.rules");
    CHECK(contains(e.value("expected", json()), "512 deep"));
    parser["rules"] = R"({"parsers":[{"type":"atomic","child":0}],"rules":{},"root":0})"; // follows itself
    CHECK_EQ(take_result(parsing("x", parser, false)).at("content"), "x");
}

// --- what a lazy grammar waits for ---

static void test_triggers() {
    const auto find = [](const std::string & pattern, const std::string & text) { return llama_grammar_trigger_pattern { pattern, std::regex(pattern) }.find(text); };
    const std::string spaces(1 << 20, ' ');
    CHECK_EQ(find("\\s+to$", spaces + "x"), std::string::npos);
    CHECK_EQ(find("(to)$", spaces + "to"), spaces.size());
    CHECK_EQ(find("[^x]*(to)", spaces + "to"), spaces.size());
    CHECK_EQ(find("to", "say to"), size_t(4));
    CHECK_EQ(find("^to", "to"), size_t(0));
    CHECK_EQ(find("^\\s*(to)$", "  to"), size_t(2));
    CHECK_EQ(find("^\\s+to$", spaces + "to"), std::string::npos); // began before what is looked at, which is no beginning

    const uint32_t c = take_result(submit([](const void * j, int32_t n, uint32_t * job) { return llama_duo_context_create(model, j, n, job); }, R"({"contextSize":512})")).at("context");
    const json_call generating = [=](const void * j, int32_t n, uint32_t * job) { return llama_duo_generate(c, nullptr, -1, "x", 1, j, n, job); };
    const auto options = [](int type, const std::string & value) {
        return dump({ { "maxTokens", 1 }, { "chat", { { "grammar", "root ::= \"a\"" }, { "grammarLazy", true }, { "grammarTriggers", { { { "type", type }, { "value", value } } } } } } });
    };
    for (const int type : { COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN, COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL }) {
        check_refused(generating, options(type, repeated("(", 100000)), "chat.grammarTriggers", "at most 128 bytes");
        check_refused(generating, options(type, "(a"), "chat.grammarTriggers", "regular expressions");
        take_result(submit(generating, options(type, "<\\|start\\|>assistant(\\s+to)")));
    }
    check_refused(generating, options(COMMON_GRAMMAR_TRIGGER_TYPE_WORD, repeated("a", 1025)), "chat.grammarTriggers", "at most 1024 bytes");
    take_result(submit(generating, options(COMMON_GRAMMAR_TRIGGER_TYPE_WORD, repeated("(", 1024))));
    give_back(llama_duo_context_free, c);
}

int main(int argc, char ** argv) {
    std::mt19937_64 rng(check::seed());
    folder = argc > 1 ? argv[1] : "";
    random_model_params p;
    p.words = true;
    p.seed  = rng();
    const random_model_file file(p);
    model = take_result(submit(llama_duo_model_load, dump({ { "path", file.path() } }))).at("model");

    test_special_tokens(rng);
    test_tools();
    test_reasoning();
    test_any_text(rng);
    test_schema();
    test_refusals();
    test_deep_templates();
    test_deep_messages();
    test_triggers();
    give_back(llama_duo_model_free, model);
    return check::result();
}
