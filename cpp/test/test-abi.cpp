// The C ABI, called as a runtime calls it. What needs a model runs on the one named by the first argument or LLAMA_DUO_TEST_MODEL.
#include "abi-calls.h"
#include "check.h"

#include "context.h"
#include "duo-interrupt.h"
#include "handle-table.h"
#include "job.h"
#include "llama-duo-abi.h"
#include "log.h"
#include "model.h"
#include "options.h"
#include "stop-text.h"
#include "utf8-assembler.h"
#include "utf8.h"

#include "ggml.h"

#include <unistd.h>

#include <algorithm>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

// --- without a model ---

static void test_utf8() {
    utf8_assembler u;
    CHECK_EQ(u.feed("a\xE2\x82"), "a");
    CHECK_EQ(u.feed("\xAC" "b"), "\xE2\x82\xAC" "b");
    CHECK_EQ(u.feed("\xF0\x9F"), "");
    CHECK_EQ(u.feed("x"), "\xEF\xBF\xBDx");
    CHECK_EQ(u.feed("\xFF\xC0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
    CHECK_EQ(u.feed("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");  // a surrogate
    CHECK_EQ(u.feed("\xF4\x8F\xBF\xBF"), "\xF4\x8F\xBF\xBF");
    CHECK_EQ(u.feed("\xF0"), "");
    CHECK_EQ(u.flush(), "\xEF\xBF\xBD");
    CHECK_EQ(u.flush(), "");

    CHECK_EQ(duo::utf8_cut("a\xE2\x82\xAC", 3), size_t(1));
    CHECK_EQ(duo::utf8_cut("a\xE2\x82\xAC", 4), size_t(4));
    CHECK_EQ(duo::utf8_cut("", 4), size_t(0));
}

static void test_stop_text() {
    stop_text s({ "END", "\n\n" });
    CHECK_EQ(s.feed("one E"), "one ");
    CHECK_EQ(s.feed("N"), "");
    CHECK_EQ(s.feed("T\n"), "ENT");
    CHECK(!s.found());
    CHECK_EQ(s.feed("\nmore END"), "");
    CHECK(s.found() && *s.found() == "\n\n");

    stop_text none({});
    CHECK_EQ(none.feed("text"), "text");

    stop_text open({ "abc" });
    CHECK_EQ(open.feed("xab"), "x");
    CHECK_EQ(open.flush(), "ab");
}

std::vector<std::string> unicode_regex_split(const std::string & text, const std::vector<std::string> & regexes, bool byte_encode = true); // llama.cpp's, in one of its two unicode.h

// Tokenizers that are regular expressions, of which there is no other implementation, on texts with long words.
static void test_long_words() {
    const std::vector<std::string> gpt4o = { "[^\\r\\n\\p{L}\\p{N}]?((?=[\\p{L}])([^a-z]))*((?=[\\p{L}])([^A-Z]))+|[^\\r\\n\\p{L}\\p{N}]?((?=[\\p{L}])([^a-z]))+((?=[\\p{L}])([^A-Z]))*|"
        "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" };
    const std::vector<std::string> bloom = { " ?[^(\\s|.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C)]+" }; // by wide characters
#if defined(__SANITIZE_THREAD__)
    constexpr size_t n = 10000; // it follows no stack of more than 65,536 calls
#else
    constexpr size_t n = 200000;
#endif
    for (const auto & regexes : { gpt4o, bloom }) {
        CHECK(unicode_regex_split(std::string(n, 'a') + " b", regexes) == (std::vector<std::string> { std::string(n, 'a'), "\u0120b" }));
    }
    std::string text;
    for (size_t i = 0; i < n; i++) {
        text += "a ";
    }
    int n_asked = 0;
    duo_interrupt interrupt([&] {
        if (++n_asked == 1000) {
            throw job_cancelled();
        }
    });
    try {
        unicode_regex_split(text, gpt4o);
    } catch (const job_cancelled &) {
    }
    CHECK_EQ(n_asked, 1000);
}

static void test_handle_table() {
    handle_table table;
    const auto a = std::make_shared<job>();

    const uint32_t h = table.add(a);
    CHECK(h != 0);
    CHECK(table.get<job>(h) == a);
    CHECK(table.get<model>(h) == nullptr);   // another kind
    CHECK(table.take<model>(h) == nullptr);
    CHECK(table.get<job>(0) == nullptr);
    CHECK(table.get<job>(h + 1) == nullptr);
    CHECK(table.get<job>(0xFFFFFFFF) == nullptr);
    CHECK(table.take<job>(h) == a);
    CHECK(table.get<job>(h) == nullptr);
    CHECK(table.take<job>(h) == nullptr);

    // an owner's objects of one kind
    const uint32_t mine  = table.add(a, 7);
    const uint32_t also  = table.add(std::make_shared<job>(), 7);
    const uint32_t other = table.add(a, 8);
    CHECK_EQ(table.take_all<context>(7).size(), size_t(0));
    CHECK_EQ(table.take_all<job>(7).size(), size_t(2));
    CHECK(table.get<job>(mine) == nullptr && table.get<job>(also) == nullptr);
    CHECK(table.take<job>(other) == a);

    // slots come back, handles don't
    std::vector<uint32_t> seen;
    for (int i = 0; i < 2000; i++) {
        seen.push_back(table.add(a));
        table.take<job>(seen.back());
    }
    std::sort(seen.begin(), seen.end());
    CHECK(std::adjacent_find(seen.begin(), seen.end()) == seen.end());
    CHECK((seen.back() & 0x3FFF) < 300);
    CHECK_EQ(a.use_count(), 1);

    // there are so many, and where all are live one can be exchanged
    std::vector<uint32_t> live;
    while (live.size() < 16384) {
        live.push_back(table.add(a));
    }
    CHECK_THROWS(table.add(a), job_error, "16384 models, contexts, sequences, adapters and jobs are live: free those");
    const auto b = std::make_shared<job>();
    uint32_t h_b = 0;
    CHECK(table.exchange<job>(live[5], b, 0, &h_b) == a);
    CHECK(table.get<job>(h_b) == b && table.get<job>(live[5]) == nullptr);
    CHECK(table.exchange<job>(live[5], b, 0, &h_b) == nullptr);
    CHECK(table.get<job>(h_b) == b);
    CHECK(table.take<job>(live[6]) == a);
    CHECK(table.add(a) != 0);
}

static void test_stale_handles() {
    int32_t  n;
    int32_t  state;
    double   progress;
    uint32_t job = 0;
    int32_t  tokens[16];
    char     text[4096];
    int32_t  info[4];

    for (const uint32_t h : { 0u, 12345u, 0xFFFFFFFFu }) {
        CHECK_EQ(llama_duo_job_poll(h, &state, &progress), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_job_result(h, text, sizeof(text), &n), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_job_error(h, text, sizeof(text), &n), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_job_cancel(h), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_job_free(h), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_job_drain(h, tokens, 16, text, sizeof(text), info), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_model_free(h, &job), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_context_free(h, &job), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_context_create(h, "{}", 2, &job), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_context_plan(h, "{}", 2, &job), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_generate(h, tokens, 1, nullptr, 0, "{}", 2, &job), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_score(h, nullptr, -1, "a", 1, "{}", 2, &job), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_tokenize_long(h, "a", 1, 0, &job), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_job_data(h, text, sizeof(text), &n), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_tokenize(h, "a", 1, 0, tokens, 16, &n), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_detokenize(h, tokens, 1, 0, text, sizeof(text), &n), LLAMA_DUO_E_HANDLE);
    }
    CHECK_EQ(job, 0u);
}

static void test_arguments() {
    uint32_t job = 0;
    int32_t  n   = -1;
    CHECK_EQ(llama_duo_model_load(nullptr, 0, &job), LLAMA_DUO_E_ARGUMENT);
    CHECK_EQ(llama_duo_model_load("{}", -1, &job), LLAMA_DUO_E_ARGUMENT);
    CHECK_EQ(llama_duo_model_load("{}", 2, nullptr), LLAMA_DUO_E_ARGUMENT);
    CHECK_EQ(llama_duo_build_info(nullptr, 4, &n), LLAMA_DUO_E_ARGUMENT);
    CHECK_EQ(llama_duo_build_info(nullptr, 0, nullptr), LLAMA_DUO_E_ARGUMENT);
    CHECK_EQ(llama_duo_build_info(nullptr, -1, &n), LLAMA_DUO_E_ARGUMENT);
    CHECK_EQ(llama_duo_log_drain(nullptr, 1, &n), LLAMA_DUO_E_ARGUMENT);
    CHECK_EQ(llama_duo_shutdown(-1), LLAMA_DUO_E_ARGUMENT);
}

static void test_build_info() {
    CHECK_EQ(llama_duo_abi_version(), LLAMA_DUO_ABI_VERSION);

    const std::string text = text_of(llama_duo_build_info);
    const json info = json::parse(text);
    CHECK_EQ(info.at("abi"), LLAMA_DUO_ABI_VERSION);
    CHECK(info.at("llamaCpp").at("tree").is_string());
    CHECK(!info.at("backends").empty());

    // a short buffer stays untouched
    std::string short_buffer(text.size() - 1, '#');
    int32_t needed = 0;
    CHECK_EQ(llama_duo_build_info(short_buffer.data(), int32_t(short_buffer.size()), &needed), LLAMA_DUO_E_SPACE);
    CHECK_EQ(needed, int32_t(text.size()));
    CHECK_EQ(short_buffer, std::string(text.size() - 1, '#'));
}

static void test_log() {
    char    buf[4096];
    int32_t n = -1;
    while (llama_duo_log_drain(buf, sizeof(buf), &n) == LLAMA_DUO_OK && n > 0) {
    }

    const std::string line = "abi-test line";
    ggml_log_callback log_fn;
    void *            data;
    ggml_log_get(&log_fn, &data);
    log_fn(GGML_LOG_LEVEL_WARN, "abi-test ", data);
    log_fn(GGML_LOG_LEVEL_CONT, "line\n", data);
    log_fn(GGML_LOG_LEVEL_ERROR, "second\n", data);

    CHECK_EQ(llama_duo_log_drain(buf, 4, &n), LLAMA_DUO_E_SPACE);
    CHECK_EQ(n, int32_t(strlen("warn\tabi-test line\n")));
    CHECK_EQ(llama_duo_log_drain(buf, n + 3, &n), LLAMA_DUO_OK);
    CHECK_EQ(std::string(buf, size_t(n)), "warn\tabi-test line\n");
    CHECK_EQ(llama_duo_log_drain(buf, sizeof(buf), &n), LLAMA_DUO_OK);
    CHECK_EQ(std::string(buf, size_t(n)), "error\tsecond\n");
    CHECK_EQ(llama_duo_log_drain(buf, sizeof(buf), &n), LLAMA_DUO_OK);
    CHECK_EQ(n, 0);

    // only the newest 64 KiB are kept
    for (int i = 0; i < 2000; i++) {
        log_fn(GGML_LOG_LEVEL_INFO, (std::string(100, 'x') + std::to_string(i) + "\n").c_str(), data);
    }
    std::string all;
    while (llama_duo_log_drain(buf, sizeof(buf), &n) == LLAMA_DUO_OK && n > 0) {
        all.append(buf, size_t(n));
    }
    CHECK(all.size() <= 64 * 1024 && all.size() > 63 * 1024);
    CHECK(all.substr(all.size() - 5) == "1999\n");
}

static void test_model_load_errors() {
    check_refused(llama_duo_model_load, "[1]", "", "a JSON object");
    check_refused(llama_duo_model_load, "{", "", "a JSON object");
    const json half = take_error(submit(llama_duo_model_load, R"({"path":"\ud83d"})"));
    CHECK(contains(half.at("message"), "surrogate"));
    check_refused(llama_duo_model_load, R"({"path":"x","useMmap":null})", "useMmap", "true or false");
    for (const int deep : { 64, 1000000 }) { // the object around them counts, too
        const std::string nested = R"({"path":)" + std::string(size_t(deep), '[') + std::string(size_t(deep), ']') + "}";
        check_refused(llama_duo_model_load, nested, "", "at most 64 arrays and objects");
    }
    check_refused(llama_duo_model_load, R"({"path":)" + std::string(63, '[') + std::string(63, ']') + "}", "path", "a string");
    check_refused(llama_duo_model_load, "{}", "path", "GGUF");
    check_refused(llama_duo_model_load, R"({"path":5})", "path", "a string");
    check_refused(llama_duo_model_load, R"({"path":"x","gpuLayers":-2})", "gpuLayers", "an integer of at least -1");
    check_refused(llama_duo_model_load, R"({"path":"x","gpuLayers":1.5})", "gpuLayers", "an integer");
    check_refused(llama_duo_model_load, R"({"path":"x","useMmap":1})", "useMmap", "true or false");
    check_refused(llama_duo_model_load, R"({"path":"x","usemmap":true})", "usemmap", "known are path, gpuLayers, useMmap, useMlock, checkTensors, splitMode, mainGpu, devices, tensorSplit, overrides, vocabOnly, weights");

    json e = take_error(submit(llama_duo_model_load, R"({"path":"/nowhere/model.gguf"})"));
    CHECK_EQ(e.at("code"), "model");
    CHECK(contains(e.at("message"), "/nowhere/model.gguf"));
    CHECK(contains(e.at("message"), "No such file"));

    e = take_error(submit(llama_duo_model_load, R"({"path":"/tmp"})"));
    CHECK(contains(e.at("message"), "directory"));

    const auto path = std::filesystem::temp_directory_path() / ("test-abi-" + std::to_string(getpid()) + ".gguf");
    std::ofstream(path) << "not a model";
    e = take_error(submit(llama_duo_model_load, dump({ { "path", path.string() } })));
    CHECK(contains(e.at("message"), "not a GGUF file"));

    std::ofstream(path, std::ios::trunc) << "GGUF" << std::string(12, '\0');
    e = take_error(submit(llama_duo_model_load, dump({ { "path", path.string() } })));
    CHECK_EQ(e.at("code"), "model");

    // results and errors come from jobs that ended so
    const uint32_t job = submit(llama_duo_model_load, "{}");
    int32_t n;
    CHECK_EQ(llama_duo_job_result(job, nullptr, 0, &n), LLAMA_DUO_E_STATE);
    CHECK_EQ(llama_duo_job_cancel(job), LLAMA_DUO_OK);
    CHECK_EQ(state_of(job), LLAMA_DUO_JOB_FAILED);
    uint32_t none = 0;
    CHECK_EQ(llama_duo_model_free(job, &none), LLAMA_DUO_E_HANDLE);  // another kind
    CHECK_EQ(none, 0u);
    CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
    CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_E_HANDLE);

    std::filesystem::remove(path);
}

static void test_gates() {
    check_refused(llama_duo_gates_read, "{}", "path", "either");
    check_refused(llama_duo_gates_read, R"({"path":"a","text":"b"})", "path", "either");
    check_refused(llama_duo_gates_select, "{}", "pattern", "gate pattern");
    check_refused(llama_duo_gates_select, R"({"pattern":{},"sparsity":0.5,"threshold":0.5})", "threshold", "sparsity");
    check_refused(llama_duo_gates_select, R"({"pattern":{},"sparsity":2})", "sparsity", "a number from 0 to 1");

    const json pattern = take_result(submit(llama_duo_gates_read, R"({"text":"0.1\t0.9\n0.5\t0.2\n"})"));
    CHECK_EQ(pattern.at("layers"), 2);
    CHECK_EQ(pattern.at("gates").at(0).size(), size_t(2));

    const json heads = take_result(submit(llama_duo_gates_select, dump({ { "pattern", pattern }, { "threshold", 0.5 } })));
    CHECK_EQ(dump(heads.at("streaming")), "[[1,0],[0,1]]");
    CHECK_EQ(heads.at("retrievalHeads"), 2);

    const json e = take_error(submit(llama_duo_gates_read, R"({"text":"0.1\toops\n","source":"my.tsv"})"));
    CHECK_EQ(e.at("code"), "gates");
    CHECK(contains(e.at("message"), "my.tsv"));
    CHECK(contains(e.at("message"), "oops"));

    const json shape = take_error(submit(llama_duo_gates_select, dump({ { "pattern", pattern }, { "kvHeads", { 2, 2, 2 } } })));
    CHECK_EQ(shape.at("code"), "gates");
}

// A job's own rules, without a model: windows, order of text and tokens, cancelling.
static void test_job_stream() {
    const auto j = std::make_shared<job>();
    j->set_streams(2, 4);
    int n_notified = 0;
    j->set_notify([&] { n_notified++; });

    CHECK(j->begin());
    for (int32_t i = 0; i < 5; i++) {
        j->push(0, i, std::string(1, char('a' + i)), { double(i), 0.5 });
        CHECK_EQ(j->is_full(0), i >= 3);
    }
    CHECK(!j->is_full(1)); // streams have windows of their own

    int32_t tokens[16];
    char    text[4096];
    double  numbers[16];
    auto d = j->drain(0, tokens, 1, text, 4096);
    CHECK_EQ(d.n_tokens, 1);
    CHECK_EQ(std::string(text, size_t(d.n_text)), "a");
    CHECK_EQ(d.state, LLAMA_DUO_JOB_RUNNING);
    CHECK(d.more);
    CHECK_EQ(n_notified, 1);
    CHECK(j->is_full(0));
    CHECK_EQ(j->drain_numbers(0, numbers, 16), 2); // those of the token that was drained
    CHECK_EQ(j->drain_numbers(0, numbers, 16), 0);

    d = j->drain(0, tokens, 16, text, 4096);
    CHECK_EQ(d.n_tokens, 4);
    CHECK_EQ(std::string(text, size_t(d.n_text)), "bcde");
    CHECK_EQ(n_notified, 2);
    CHECK(!j->is_full(0));
    j->drain(0, tokens, 16, text, 4096);
    CHECK_EQ(n_notified, 2); // nothing waited for that
    CHECK_EQ(j->drain_numbers(0, numbers, 1), -1);
    CHECK_EQ(j->drain_numbers(0, numbers, 5), 4); // whole records
    CHECK_EQ(numbers[2], 2.0);
    CHECK_EQ(j->drain_numbers(0, numbers, 16), 4);

    CHECK(j->attempt([&] { j->push(0, 5, "fg"); }));
    CHECK(!j->attempt([&] {
        j->push(0, -1, "h\xE2\x82\xAC");
        j->finish([] { return json { { "ok", true } }; });
    }));
    std::string rest;
    do {
        d = j->drain(0, tokens, 16, text, 2);  // the euro sign does not fit in part
        rest.append(text, size_t(d.n_text));
    } while (d.n_text > 0);
    CHECK_EQ(rest, "fgh");
    CHECK_EQ(d.state, LLAMA_DUO_JOB_DONE);
    CHECK(d.more);
    d = j->drain(0, tokens, 16, text, 3);
    CHECK_EQ(std::string(text, size_t(d.n_text)), "\xE2\x82\xAC");
    CHECK(!d.more);
    CHECK_EQ(j->result(), R"({"ok":true})");
    j->cancel(); // too late
    CHECK_EQ(n_notified, 2);

    // who waits for its reader hears of being cancelled
    job paused;
    paused.set_notify([&] { n_notified++; });
    CHECK(paused.begin());
    paused.cancel();
    CHECK_EQ(n_notified, 3);
    CHECK(!paused.attempt([&] { paused.throw_if_cancelled(); }));
    CHECK_EQ(paused.state(), LLAMA_DUO_JOB_CANCELLED);

    // cancelled before it ran: never runs
    job never;
    never.cancel();
    CHECK_EQ(never.state(), LLAMA_DUO_JOB_CANCELLED);
    never.run([](job &) { CHECK(false); });

    // cancelled while it made its result: no result
    job late;
    late.run([](job & j) {
        j.cancel();
        j.finish([] { CHECK(false); return json(); });
    });
    CHECK_EQ(late.state(), LLAMA_DUO_JOB_CANCELLED);

    job broken;
    broken.run([](job &) { throw std::runtime_error("oops"); });
    CHECK_EQ(broken.state(), LLAMA_DUO_JOB_FAILED);
    CHECK_EQ(json::parse(broken.error()).at("code"), "internal");

    // whatever is thrown ends the job and not the process
    job strange;
    strange.run([](job &) { throw 5; });
    CHECK_EQ(strange.state(), LLAMA_DUO_JOB_FAILED);
    CHECK_EQ(json::parse(strange.error()).at("code"), "internal");
}

static size_t n_threads() {
    size_t n = 0;
    for (const auto & task : std::filesystem::directory_iterator("/proc/self/task")) {
        n += task.exists();
    }
    return n;
}

// Waits for the threads that end by themselves.
static bool threads_fall_to(size_t n, double timeout = 20) {
    const auto t = clk::now();
    while (n_threads() > n && seconds_since(t) < timeout * slowness) {
        sleep_ms(5);
    }
    return n_threads() <= n;
}

// What a thread made ends with it, where it asked for that, and only then.
static void test_thread_owner() {
    const auto submit_on_a_thread = [](bool own) {
        uint32_t job = 0;
        std::thread([&] {
            if (own) {
                CHECK_EQ(llama_duo_own_by_this_thread(), LLAMA_DUO_OK);
                CHECK_EQ(llama_duo_own_by_this_thread(), LLAMA_DUO_OK);
            }
            job = submit(llama_duo_gates_read, R"({"text":"0.1\t0.9\n"})");
        }).join();
        return job;
    };
    int32_t state;
    double  progress;
    CHECK_EQ(llama_duo_job_poll(submit_on_a_thread(true), &state, &progress), LLAMA_DUO_E_HANDLE);
    take_result(submit_on_a_thread(false));
}

// --- with a model ---

struct loaded {
    uint32_t    model;
    json        info;
    std::string path;

    json_call create() const { return [m = model](const void * j, int32_t n, uint32_t * job) { return llama_duo_context_create(m, j, n, job); }; }
    json_call plan()   const { return [m = model](const void * j, int32_t n, uint32_t * job) { return llama_duo_context_plan(m, j, n, job); }; }
};

static std::vector<int32_t> tokens_of(uint32_t model, const std::string & text, int32_t flags = 1) {
    int32_t n = 0;
    std::vector<int32_t> tokens(text.size() + 2);
    CHECK_EQ(llama_duo_tokenize(model, text.data(), int32_t(text.size()), flags, tokens.data(), int32_t(tokens.size()), &n), LLAMA_DUO_OK);
    tokens.resize(size_t(n));
    return tokens;
}

static json_call generate(uint32_t context, const std::vector<int32_t> & prompt) {
    return [=](const void * j, int32_t n, uint32_t * job) {
        return llama_duo_generate(context, prompt.data(), int32_t(prompt.size()), nullptr, 0, j, n, job);
    };
}

static void test_load(const loaded & m) {
    CHECK(m.info.at("layers") > 0);
    CHECK_EQ(m.info.at("heads").size(), m.info.at("layers").get<size_t>());
    CHECK_EQ(m.info.at("kvHeads").size(), m.info.at("layers").get<size_t>());
    CHECK(m.info.at("sizeBytes") > 0);
    CHECK_EQ(m.info.at("path"), m.path);

    // cancelled at once, before or while it loads
    for (int ms = 0; ms < 3; ms++) {
        const uint32_t job = submit(llama_duo_model_load, dump({ { "path", m.path }, { "useMmap", false } }));
        sleep_ms(5 * ms);
        CHECK_EQ(llama_duo_job_cancel(job), LLAMA_DUO_OK);
        const int32_t state = wait_for(job);
        CHECK(state == LLAMA_DUO_JOB_CANCELLED || (ms > 0 && state == LLAMA_DUO_JOB_DONE));
        if (state == LLAMA_DUO_JOB_DONE) {
            give_back(llama_duo_model_free, result_of(job).at("model"));
        }
        CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
    }

    const json vocab = take_result(submit(llama_duo_model_load, dump({ { "path", m.path }, { "vocabOnly", true } })));
    const uint32_t v = vocab.at("model");
    CHECK(!tokens_of(v, "hello").empty());
    const loaded without_weights = { v, vocab, m.path };
    CHECK_EQ(take_error(submit(without_weights.create(), "{}")).at("code"), "context");
    CHECK_EQ(take_error(submit(without_weights.plan(), "{}")).at("code"), "context");
    give_back(llama_duo_model_free, v);
    uint32_t none = 0;
    CHECK_EQ(llama_duo_model_free(v, &none), LLAMA_DUO_E_HANDLE);
}

static void test_tokens(const loaded & m) {
    const std::string text = "Gr\xC3\xBC\xC3\x9F" "e, \xF0\x9F\x8C\x8D!";
    const auto tokens = tokens_of(m.model, text, 0);

    int32_t n = 0;
    CHECK_EQ(llama_duo_tokenize(m.model, text.data(), int32_t(text.size()), 0, nullptr, 0, &n), LLAMA_DUO_E_SPACE);
    CHECK_EQ(n, int32_t(tokens.size()));
    CHECK_EQ(llama_duo_tokenize(m.model, nullptr, 0, 0, nullptr, 0, &n), LLAMA_DUO_OK);
    CHECK_EQ(n, 0);
    CHECK_EQ(llama_duo_tokenize(m.model, nullptr, 1, 0, nullptr, 0, &n), LLAMA_DUO_E_ARGUMENT);
    CHECK_EQ(llama_duo_tokenize(m.model, "a", 1, 4, nullptr, 0, &n), LLAMA_DUO_E_ARGUMENT);

    CHECK_EQ(text_of([&](void * b, int32_t c, int32_t * needed) {
        return llama_duo_detokenize(m.model, tokens.data(), int32_t(tokens.size()), 0, b, c, needed); }), text);

    const int32_t bad[] = { 1, m.info.at("vocabularySize").get<int32_t>() };
    CHECK_EQ(llama_duo_detokenize(m.model, bad, 2, 0, nullptr, 0, &n), LLAMA_DUO_E_ARGUMENT);
    const int32_t negative = -1;
    CHECK_EQ(llama_duo_detokenize(m.model, &negative, 1, 0, nullptr, 0, &n), LLAMA_DUO_E_ARGUMENT);
}

static void test_context_options(const loaded & m) {
    check_refused(m.create(), R"({"contextSize":-1})", "contextSize", "an integer from 0");
    check_refused(m.create(), R"({"sequences":0})", "sequences", "an integer from 1");
    check_refused(m.create(), R"({"threads":0})", "threads", "an integer from 1");
    check_refused(m.create(), R"({"threads":100000})", "threads", "an integer from 1 to");
    check_refused(m.create(), R"({"typeK":"q3_0"})", "typeK", "one of f32, f16, bf16, q8_0");
    check_refused(m.create(), R"({"flashAttention":true})", "flashAttention", "one of auto, on, off");
    check_refused(m.create(), R"({"duo":true})", "duo", "an object");
    check_refused(m.create(), R"({"duo":{"gates":7}})", "duo.gates", "a gate pattern");
    check_refused(m.create(), R"({"duo":{"gates":""}})", "duo.gates", "a path");
    check_refused(m.create(), R"({"duo":{"sparsity":1.01}})", "duo.sparsity", "a number from 0 to 1");
    check_refused(m.create(), R"({"duo":{"sparsity":0.5,"threshold":0.5}})", "duo.threshold", "sparsity");
    check_refused(m.create(), R"({"duo":{"chunk":0}})", "duo.chunk", "an integer of at least 1");
    check_refused(m.create(), R"({"duo":{"sinks":4}})", "duo.sinks", "known are gates, sparsity, threshold, budget, sink, recent, chunk");

    const json gates = take_error(submit(m.create(), R"({"contextSize":512,"duo":{"gates":"/nowhere"}})"));
    CHECK_EQ(gates.at("code"), "gates");
    CHECK(contains(gates.at("message"), "/nowhere"));

    const json off = take_error(submit(m.create(), R"({"contextSize":512,"flashAttention":"off","duo":{"sparsity":1}})"));
    CHECK_EQ(off.at("code"), "unsupported");

    const json stock = take_error(submit(m.create(), R"({"contextSize":512,"flashAttention":"off","typeV":"q8_0"})"));
    CHECK_EQ(stock.at("code"), "context");
    CHECK(contains(stock.at("message"), "flash_attn"));
}

static void test_plan(const loaded & m) {
    const json full  = take_result(submit(m.plan(), R"({"contextSize":8192})"));
    const json mixed = take_result(submit(m.plan(), R"({"contextSize":8192,"duo":{"sparsity":1,"sink":4,"recent":60}})"));
    CHECK_EQ(full.at("supported"), true);
    CHECK(full.at("reason").is_null());
    CHECK_EQ(full.at("kv").at("totalBytes"), full.at("kv").at("fullBytes"));
    CHECK_EQ(mixed.at("kv").at("fullBytes"), full.at("kv").at("totalBytes"));
    CHECK(mixed.at("kv").at("totalBytes") < mixed.at("kv").at("fullBytes"));
    CHECK_EQ(mixed.at("kv").at("sink"), 4);

    const json off = take_result(submit(m.plan(), R"({"flashAttention":"off","duo":{"sparsity":1}})"));
    CHECK_EQ(off.at("supported"), false);
    CHECK(off.at("reason").is_string());
    CHECK(off.at("kv").is_null());

    // what is planned is what is made
    const json made = take_result(submit(m.create(), R"({"contextSize":8192,"duo":{"sparsity":1,"sink":4,"recent":60}})"));
    CHECK_EQ(dump(made.at("kv")), dump(mixed.at("kv")));
    give_back(llama_duo_context_free, made.at("context"));
}

static uint32_t make_context(const loaded & m, const std::string & options) {
    const json c = take_result(submit(m.create(), options));
    return c.at("context");
}

static void test_generate(const loaded & m, const std::string & context_options) {
    const uint32_t c = make_context(m, context_options);
    const auto prompt = tokens_of(m.model, "Once upon a time there was a little fox who");

    check_refused(generate(c, {}), "{}", "prompt", "at least one token");
    check_refused(generate(c, { -5 }), "{}", "prompt", "tokens from 0");
    check_refused(generate(c, prompt), R"({"maxTokens":-2})", "maxTokens", "an integer of at least -1");
    check_refused(generate(c, prompt), R"({"temperature":-1})", "temperature", "at least 0");
    check_refused(generate(c, prompt), R"({"repeatPenalty":0})", "repeatPenalty", "a number from");
    check_refused(generate(c, prompt), R"({"seed":-1})", "seed", "4294967295");
    check_refused(generate(c, prompt), R"({"stop":"x"})", "stop", "an array");
    check_refused(generate(c, prompt), R"({"stop":[""]})", "stop", "non-empty");
    check_refused(generate(c, prompt), R"({"grammar":"root ::= ("})", "grammar", "GBNF");
    check_refused(generate(c, prompt), R"({"grammar":"x ::= \"a\""})", "grammar", "GBNF");
    check_refused(generate(c, prompt), R"({"grammar":"%llguidance {}"})", "grammar", "GBNF");

    // bounds on what llama.cpp's parser and its check for left recursion call themselves for
    const auto with_grammar = [](const std::string & text) { return dump({ { "maxTokens", 1 }, { "grammar", text } }); };
    const auto groups = [](size_t n) { return std::string(n, '(') + "\"a\"" + std::string(n, ')'); };
    const std::string more_than_256[] = {
        "root ::= " + groups(257), "root ::= " + groups(100000), "root ::= \"\\\"\" [\\]] # \\\n" + groups(257), "root ::= <)> " + groups(257),
    };
    for (const std::string & text : more_than_256) {
        check_refused(generate(c, prompt), with_grammar(text), "grammar", "at most 256 parentheses open at once, found");
    }
    check_refused(generate(c, prompt), with_grammar("root ::= \"" + std::string(256 * 1024, 'a') + "\""), "grammar", "at most 262144 bytes, found 262155");
    check_refused(generate(c, prompt), R"({"window":0})", "window", "an integer of at least 1");
    check_refused(generate(c, prompt), R"({"temp":0})", "temp", "temperature");

    // greedy, twice: the same tokens, the second time from the cache
    uint32_t job = submit(generate(c, prompt), R"({"maxTokens":12,"temperature":0})");
    const drained first = drain_all(job);
    json r = take_result(job);
    CHECK_EQ(r.at("stop"), "length");
    CHECK_EQ(r.at("generatedTokens"), 12);
    CHECK_EQ(first.tokens.size(), size_t(12));
    CHECK_EQ(r.at("promptTokens"), prompt.size());
    CHECK_EQ(r.at("reusedTokens"), 0);
    CHECK(r.at("prefillTokensPerSecond") > 0 && r.at("decodeTokensPerSecond") > 0);
    CHECK_EQ(text_of([&](void * b, int32_t cap, int32_t * needed) {
        return llama_duo_detokenize(m.model, first.tokens.data(), 12, 0, b, cap, needed); }), first.text);

    job = submit(generate(c, prompt), R"({"maxTokens":12,"temperature":0,"reuse":false})");
    CHECK(drain_all(job).tokens == first.tokens);
    CHECK_EQ(take_result(job).at("reusedTokens"), 0);

    // going on from what was generated reuses it all but the last token, which was never decoded
    auto longer = prompt;
    longer.insert(longer.end(), first.tokens.begin(), first.tokens.end());
    job = submit(generate(c, longer), R"({"maxTokens":0})");
    r = take_result(job);
    CHECK_EQ(r.at("reusedTokens"), longer.size() - 1);
    CHECK_EQ(r.at("generatedTokens"), 0);
    CHECK_EQ(r.at("decodeTokensPerSecond"), 0);

    // the same prompt again needs its last token's logits
    job = submit(generate(c, prompt), R"({"maxTokens":1,"temperature":0})");
    CHECK_EQ(drain_all(job).tokens.at(0), first.tokens[0]);
    CHECK(take_result(job).at("reusedTokens") <= prompt.size() - 1);

    // stop strings
    const std::string middle = first.text.substr(first.text.size() / 2, 4);
    job = submit(generate(c, prompt), dump({ { "maxTokens", 12 }, { "temperature", 0 }, { "reuse", false }, { "stop", { "never", middle } } }));
    const drained stopped = drain_all(job);
    r = take_result(job);
    CHECK_EQ(r.at("stop"), "text");
    CHECK_EQ(r.at("stopText"), middle);
    CHECK_EQ(stopped.text, first.text.substr(0, first.text.find(middle)));

    // a grammar holds, and the end of it ends the generation
    job = submit(generate(c, prompt), R"x({"maxTokens":20,"temperature":0,"grammar":"root ::= (\"yes\" | \"no\")"})x");
    const drained word = drain_all(job);
    CHECK(word.text == "yes" || word.text == "no");
    CHECK_EQ(take_result(job).at("stop"), "eos");

    // with ignoreEos, too: there is no token for it then
    for (const char * temperature : { "0", "1" }) {
        const std::string how = std::string(R"("ignoreEos":true,"temperature":)") + temperature;
        job = submit(generate(c, prompt), R"x({"grammar":"root ::= \" yes\" | \" no\"",)x" + how + "}");
        const drained end = drain_all(job);
        CHECK(end.text == " yes" || end.text == " no");
        r = take_result(job);
        CHECK_EQ(r.at("stop"), "eos");
        CHECK_EQ(r.at("generatedTokens"), end.tokens.size());

        // a grammar that no token satisfies, at once or later, is an error that keeps what there was
        for (const std::string & begin : { std::string(), std::string("yes") }) {
            job = submit(generate(c, prompt), dump({ { "grammar", "root ::= \"" + begin + "\" \"\\x00\"" }, { "temperature", temperature[0] - '0' }, { "ignoreEos", begin.empty() } }));
            CHECK_EQ(drain_all(job).text, begin);
            const json e = take_error(job);
            CHECK_EQ(e.at("code"), "grammar");
            CHECK_EQ(e.at("text"), begin);
        }
    }
    // one that may end and may go on goes on
    job = submit(generate(c, prompt), R"x({"grammar":"root ::= \"a\"*","ignoreEos":true,"maxTokens":5})x");
    const drained as = drain_all(job);
    CHECK(!as.text.empty() && as.text.find_first_not_of('a') == std::string::npos);
    CHECK_EQ(take_result(job).at("stop"), "length");

    // neither do the largest overflow its stack
    std::string deepest = "root ::= " + groups(256) + " \"" + std::string(300, '(') + "\" [" + std::string(300, '(') + "] # " + std::string(300, '(') + "\nroot1 ::= a0\n";
    for (int i = 0; i < 16000; ++i) {
        deepest += "a" + std::to_string(i) + "::=a" + std::to_string(i + 1) + "\n";
    }
    deepest += "a16000::=\"a\"";
    take_result(submit(generate(c, prompt), with_grammar(deepest)));

    // with a seed, the same text
    const char * seeded = R"({"maxTokens":8,"seed":7,"temperature":1.5,"topK":0,"repeatPenalty":1.2,"repeatLastN":-1})";
    job = submit(generate(c, prompt), seeded);
    const drained s1 = drain_all(job);
    take_result(job);
    job = submit(generate(c, prompt), seeded);
    const drained s2 = drain_all(job);
    take_result(job);
    CHECK(s1.tokens == s2.tokens);

    // a prompt that is too long
    const std::vector<int32_t> much(5000, prompt[0]);
    const json e = take_error(submit(generate(c, much), "{}"));
    CHECK_EQ(e.at("code"), "full");
    CHECK(contains(e.at("message"), "5000"));
    CHECK(contains(e.at("message"), "1024"));

    // the context fills up
    const std::vector<int32_t> nearly(1020, prompt[0]);
    job = submit(generate(c, nearly), R"({"ignoreEos":true})");
    CHECK_EQ(drain_all(job).tokens.size(), size_t(5));  // 4 of them decoded
    CHECK_EQ(take_result(job).at("stop"), "full");

    give_back(llama_duo_context_free, c);
    uint32_t none;
    CHECK_EQ(llama_duo_generate(c, prompt.data(), 1, nullptr, 0, "{}", 2, &none), LLAMA_DUO_E_HANDLE);
}

static json_call score(uint32_t context, const std::vector<int32_t> & tokens) {
    return [&, context](const void * j, int32_t n, uint32_t * job) {
        return llama_duo_score(context, tokens.data(), int32_t(tokens.size()), nullptr, 0, j, n, job);
    };
}

static void test_score(const loaded & m, const std::string & context_options) {
    const uint32_t c = make_context(m, context_options);
    const auto text = tokens_of(m.model, "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is Madrid.");

    check_refused(score(c, { 1 }), "{}", "text", "at least two");
    check_refused(score(c, { 1, -5 }), "{}", "text", "tokens from 0");
    check_refused(score(c, text), R"({"from":0})", "from", "an integer from 1");
    check_refused(score(c, text), dump({ { "from", text.size() } }), "from", "an integer from 1 to " + std::to_string(text.size() - 1));
    check_refused(score(c, text), R"({"form":1})", "form", "from");

    json r;
    const auto all = take_data<double>(submit(score(c, text), "{}"), &r);
    CHECK_EQ(all.size(), text.size() - 1);
    CHECK_EQ(r.at("reusedTokens"), 0);
    CHECK(std::all_of(all.begin(), all.end(), [](double p) { return p < 0 && p > -30; }));

    // from a later token on the numbers are the same, and what lies before is reused; in pieces of other sizes sums differ a little
    const auto late = take_data<double>(submit(score(c, text), R"({"from":12})"), &r);
    CHECK_EQ(late.size(), text.size() - 12);
    CHECK_EQ(r.at("reusedTokens"), 11);
    for (size_t i = 0; i < late.size(); i++) {
        CHECK(std::abs(late[i] - all[i + 11]) < 0.05);
    }

    // the greedy continuation is likelier than another token there
    uint32_t job = submit(generate(c, text), R"({"maxTokens":1,"temperature":0})");
    const int32_t best = drain_all(job).tokens.at(0);
    take_result(job);
    auto next = text;
    next.push_back(best);
    const auto last = dump({ { "from", text.size() } });
    const double likely = take_data<double>(submit(score(c, next), last)).at(0);
    double sum = std::exp(likely);
    for (const int32_t other : { 0, 100, 1000, 10000 }) {
        if (other != best && other < m.info.at("vocabularySize").get<int32_t>()) {
            next.back() = other;
            const double p = take_data<double>(submit(score(c, next), last)).at(0);
            CHECK(p < likely);
            sum += std::exp(p);
        }
    }
    CHECK(sum <= 1 + 1e-6);

    // as many inputs as the context holds, and one more
    const std::vector<int32_t> fits(1025, text[0]);
    CHECK_EQ(take_data<double>(submit(score(c, fits), R"({"from":1020})")).size(), size_t(5));
    const std::vector<int32_t> much(1026, text[0]);
    CHECK_EQ(take_error(submit(score(c, much), "{}")).at("code"), "full");

    give_back(llama_duo_context_free, c);
    uint32_t none;
    CHECK_EQ(llama_duo_score(c, text.data(), 2, nullptr, 0, "{}", 2, &none), LLAMA_DUO_E_HANDLE);
}

static void test_order_and_backpressure(const loaded & m) {
    const uint32_t c = make_context(m, R"({"contextSize":1024})");
    const auto prompt = tokens_of(m.model, "One two three four");

    // alone, the first pauses at its window
    const uint32_t first = submit(generate(c, prompt), R"({"maxTokens":40,"ignoreEos":true,"window":8})");
    sleep_ms(1500 * slowness);
    CHECK_EQ(state_of(first), LLAMA_DUO_JOB_RUNNING);
    drained d;
    drain(first, d);
    CHECK_EQ(d.tokens.size(), size_t(8));

    // a job that waits for the sequence makes it go on, whoever reads; one that is cancelled meanwhile is so at once
    const uint32_t third = submit(generate(c, prompt), R"({"maxTokens":4})");
    CHECK_EQ(llama_duo_job_cancel(third), LLAMA_DUO_OK);
    CHECK_EQ(state_of(third), LLAMA_DUO_JOB_CANCELLED);

    // nobody waits now: it pauses again
    sleep_ms(1500 * slowness);
    CHECK_EQ(state_of(first), LLAMA_DUO_JOB_RUNNING);

    const uint32_t second = submit(generate(c, prompt), R"({"maxTokens":4,"ignoreEos":true})");
    CHECK_EQ(wait_for(second, 30), LLAMA_DUO_JOB_DONE);
    CHECK_EQ(state_of(first), LLAMA_DUO_JOB_DONE);
    CHECK_EQ(drain_all(first).tokens.size(), size_t(32));

    // tokens of a job that has ended are still there
    CHECK_EQ(wait_for(second), LLAMA_DUO_JOB_DONE);
    drained after;
    drain(second, after);
    CHECK_EQ(after.tokens.size(), size_t(4));
    CHECK_EQ(after.state, LLAMA_DUO_JOB_DONE);
    CHECK(!after.more);

    // buffers that the rules call too small
    int32_t tokens[16];
    char    text[4096];
    int32_t info[4];
    CHECK_EQ(llama_duo_job_drain(second, tokens, 15, text, 4096, info), LLAMA_DUO_E_ARGUMENT);
    CHECK_EQ(llama_duo_job_drain(second, tokens, 16, text, 4095, info), LLAMA_DUO_E_ARGUMENT);

    for (const uint32_t job : { first, second, third }) {
        CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
    }
    give_back(llama_duo_context_free, c);
}

static void test_cancel(const loaded & m) {
    const uint32_t c = make_context(m, R"({"contextSize":8192})");
    const auto prompt = tokens_of(m.model, "The quick brown fox");

    uint32_t job = submit(generate(c, prompt), R"({"maxTokens":10,"temperature":0})");
    const drained expected = drain_all(job);
    take_result(job);

    // while decoding
    job = submit(generate(c, prompt), R"({"ignoreEos":true})");
    drained d;
    while (d.tokens.size() < 3) {
        drain(job, d);
        sleep_ms(1);
    }
    auto t = clk::now();
    CHECK_EQ(llama_duo_job_cancel(job), LLAMA_DUO_OK);
    CHECK_EQ(wait_for(job), LLAMA_DUO_JOB_CANCELLED);
    CHECK(seconds_since(t) < 1 * slowness);
    CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);

    // while it prefills: within a graph, not only between pieces
    const std::vector<int32_t> much(8000, prompt[0]);
    job = submit(generate(c, much), "{}");
    sleep_ms(300);
    CHECK_EQ(state_of(job), LLAMA_DUO_JOB_RUNNING);
    t = clk::now();
    CHECK_EQ(llama_duo_job_cancel(job), LLAMA_DUO_OK);
    CHECK_EQ(wait_for(job), LLAMA_DUO_JOB_CANCELLED);
    CHECK(seconds_since(t) < 1 * slowness);
    CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);

    // the cache is as good as new
    job = submit(generate(c, prompt), R"({"maxTokens":10,"temperature":0})");
    CHECK(drain_all(job).tokens == expected.tokens);
    take_result(job);

    // freeing a context ends its jobs, freeing a model first is safe
    job = submit(generate(c, prompt), R"({"ignoreEos":true})");
    const uint32_t waits = submit(generate(c, prompt), "{}");
    sleep_ms(50);
    give_back(llama_duo_context_free, c);
    CHECK_EQ(wait_for(job, 5), LLAMA_DUO_JOB_CANCELLED);
    CHECK_EQ(wait_for(waits, 5), LLAMA_DUO_JOB_CANCELLED);
    CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
    CHECK_EQ(llama_duo_job_free(waits), LLAMA_DUO_OK);

    // a creation that is cancelled leaves nothing behind
    const uint32_t creation = submit(m.create(), R"({"contextSize":1024})");
    CHECK_EQ(llama_duo_job_cancel(creation), LLAMA_DUO_OK);
    CHECK_EQ(wait_for(creation), LLAMA_DUO_JOB_CANCELLED);
    CHECK_EQ(llama_duo_job_free(creation), LLAMA_DUO_OK);
}

static size_t resident_kib() {
    std::ifstream status("/proc/self/status");
    std::string word;
    size_t kib = 0;
    while (status >> word && word != "VmRSS:") {
    }
    status >> kib;
    return kib;
}

static void test_rounds(const loaded & m, const std::string & context_options, int n_rounds) {
    const uint32_t c = make_context(m, context_options);
    const auto prompt = tokens_of(m.model, "A list of words:");

    size_t before = 0;
    for (int i = 0; i < n_rounds; i++) {
        if (i == n_rounds / 10) {
            before = resident_kib();
        }
        const uint32_t job = submit(generate(c, prompt), R"({"ignoreEos":true,"stop":["zebra"]})");
        drained d;
        if (i % 2) {
            while (d.tokens.empty()) {
                sleep_ms(1);
                drain(job, d);
            }
        }
        CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
    }
    CHECK_EQ(llama_duo_shutdown(5000 * slowness), LLAMA_DUO_OK);
    const size_t after = resident_kib();
    printf("%d rounds: %zu KiB resident, then %zu KiB\n", n_rounds, before, after);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which keep freed memory for a while
    CHECK(after < before + 2048);
#endif
    give_back(llama_duo_context_free, c);
}

// Text as a prompt is what its tokens are, and is tokenized on the context's thread.
static json_call generate_text(uint32_t context, const std::string & text) {
    return [=](const void * j, int32_t n, uint32_t * job) {
        return llama_duo_generate(context, nullptr, -1, text.data(), int32_t(text.size()), j, n, job);
    };
}

static json_call score_text(uint32_t context, const std::string & text) {
    return [=](const void * j, int32_t n, uint32_t * job) {
        return llama_duo_score(context, nullptr, -1, text.data(), int32_t(text.size()), j, n, job);
    };
}

static void test_text(const loaded & m) {
    const uint32_t    c      = make_context(m, R"({"contextSize":1024})");
    const std::string text   = "The sea is wide, and the ships are small.";
    const auto        tokens = tokens_of(m.model, text, 3);

    static const char * greedy = R"({"maxTokens":6,"temperature":0})";
    uint32_t   job = submit(generate(c, tokens), greedy);
    const auto by_ids = drain_all(job);
    CHECK_EQ(take_result(job).at("promptTokens"), tokens.size());
    job = submit(generate_text(c, text), greedy);
    CHECK(drain_all(job).tokens == by_ids.tokens);
    CHECK_EQ(take_result(job).at("promptTokens"), tokens.size());

    const auto scores = take_data<double>(submit(score(c, tokens), "{}"));
    CHECK_EQ(scores.size(), tokens.size() - 1);
    CHECK_EQ(take_data<double>(submit(score_text(c, text), "{}")).size(), scores.size());
    check_refused(score_text(c, text), R"({"from":1000})", "from", "an integer from 1 to " + std::to_string(tokens.size() - 1));
    check_refused(score_text(c, ""), R"({"addSpecial":false})", "text", "at least two");
    check_refused(generate_text(c, ""), R"({"addSpecial":false})", "prompt", "at least one token");

    int32_t  n;
    uint32_t none;
    CHECK_EQ(llama_duo_generate(c, nullptr, -2, "a", 1, "{}", 2, &none), LLAMA_DUO_E_ARGUMENT);
    CHECK_EQ(llama_duo_generate(c, nullptr, -1, nullptr, 1, "{}", 2, &none), LLAMA_DUO_E_ARGUMENT);
    CHECK_EQ(llama_duo_generate(c, nullptr, -1, "a", -1, "{}", 2, &none), LLAMA_DUO_E_ARGUMENT);
    CHECK_EQ(llama_duo_tokenize_long(m.model, "a", -1, 0, &none), LLAMA_DUO_E_ARGUMENT);

    // as a job
    json r;
    const auto tokenize_long = [&](const std::string & text, int32_t flags) {
        uint32_t job = 0;
        CHECK_EQ(llama_duo_tokenize_long(m.model, text.data(), int32_t(text.size()), flags, &job), LLAMA_DUO_OK);
        return job;
    };
    CHECK(take_data<int32_t>(tokenize_long(text, 3), &r) == tokens);
    CHECK_EQ(r.at("tokens"), tokens.size());
    CHECK_EQ(llama_duo_job_data(submit(generate(c, tokens), "{}"), nullptr, 0, &n), LLAMA_DUO_E_STATE);
    CHECK_EQ(llama_duo_shutdown(10000 * slowness), LLAMA_DUO_OK);

    // a text that cannot fit is refused at once, unread; one that might is read, which can be cancelled
    const std::string endless(size_t(64) << 20, 'a');
    auto t = clk::now();
    json e = take_error(submit(generate_text(c, endless), "{}"));
    CHECK_EQ(e.at("code"), "full");
    CHECK(contains(e.at("message"), "67108864 bytes"));
    CHECK_EQ(take_error(submit(score_text(c, endless), "{}")).at("code"), "full");
    CHECK(seconds_since(t) < 5 * slowness);

    job = tokenize_long(endless, 0);
    sleep_ms(300);
    CHECK(state_of(job) != LLAMA_DUO_JOB_DONE);
    t = clk::now();
    CHECK_EQ(llama_duo_job_cancel(job), LLAMA_DUO_OK);
    CHECK_EQ(wait_for(job, 60), LLAMA_DUO_JOB_CANCELLED);
    printf("tokenizing stops %.2f s after it was cancelled\n", seconds_since(t));
    CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
    give_back(llama_duo_context_free, c);
}

// How llama.cpp cuts a text at special tokens, said plainly: for each of them in turn, its first occurrence in each piece.
static std::vector<llama_token> tokens_by_pieces(const llama_vocab * vocab, const std::string & text) {
    struct piece {
        std::string text;
        llama_token token = LLAMA_TOKEN_NULL;
    };
    std::vector<llama_token> specials;
    for (llama_token t = 0; t < llama_vocab_n_tokens(vocab); t++) {
        if (llama_vocab_get_attr(vocab, t) & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_USER_DEFINED | LLAMA_TOKEN_ATTR_UNKNOWN)) {
            specials.push_back(t);
        }
    }
    const auto name = [&](llama_token t) { return std::string(llama_vocab_get_text(vocab, t)); };
    std::stable_sort(specials.begin(), specials.end(), [&](auto a, auto b) { return name(a).size() > name(b).size(); });

    std::vector<piece> pieces = { { text } };
    for (const llama_token special : specials) {
        std::vector<piece> cut;
        for (const piece & p : pieces) {
            size_t from = 0;
            for (size_t at; p.token == LLAMA_TOKEN_NULL && (at = p.text.find(name(special), from)) != std::string::npos; from = at + name(special).size()) {
                cut.push_back({ p.text.substr(from, at - from) });
                cut.push_back({ "", special });
            }
            cut.push_back({ p.text.substr(from), p.token });
        }
        pieces = cut;
    }

    std::vector<llama_token> result;
    for (const piece & p : pieces) {
        if (p.token != LLAMA_TOKEN_NULL) {
            result.push_back(p.token);
        } else if (!p.text.empty()) {
            std::vector<llama_token> tokens(p.text.size() + 2);
            const int32_t n = llama_tokenize(vocab, p.text.data(), int32_t(p.text.size()), tokens.data(), int32_t(tokens.size()), false, false);
            CHECK(n >= 0);
            result.insert(result.end(), tokens.begin(), tokens.begin() + n);
        }
    }
    return result;
}

static void test_special_tokens(const loaded & m) {
    const auto owner = handles().get<model>(m.model);
    std::vector<std::string> words = { " ", "\n", "  ", "a", "the sea", "1234", "<", "|>", "\xF0\x9F\xA6\x99", "<|im", "</s", ". " };
    for (llama_token t = 0; t < llama_vocab_n_tokens(owner->vocab); t++) {
        if (llama_vocab_is_control(owner->vocab, t)) {
            words.push_back(llama_vocab_get_text(owner->vocab, t));
        }
    }
    uint32_t seed = 1;
    const auto next = [&](size_t n) { seed = seed * 1664525 + 1013904223; return size_t(seed >> 8) % n; };
    for (int round = 0; round < 300; round++) {
        std::string text;
        for (size_t n = next(30); n > 0; n--) {
            text += words[next(words.size())];
        }
        const auto expected = tokens_by_pieces(owner->vocab, text);
        const auto found    = tokens_of(m.model, text, 2);
        CHECK(found == expected);
    }

    // linear: twice the tokens take about twice the time, where a walk from the beginning at each took four times
    const std::string special = words.back();
    std::string many;
    for (int i = 0; i < 80000; i++) {
        many += special;
    }
    const auto t = clk::now();
    CHECK_EQ(tokens_of(m.model, many, 2).size(), size_t(80000));
    printf("80000 special tokens: %.3f s\n", seconds_since(t));
    CHECK(seconds_since(t) < 3 * slowness);
}

// A grammar whose every token takes long can be left within it.
static void test_slow_grammar(const loaded & m) {
    const uint32_t c = make_context(m, R"({"contextSize":512})");
    std::string grammar;
    for (int i = 0; i < 3000; i++) {
        grammar += (i ? "r" + std::to_string(i) : std::string("root")) + " ::= \"q\"? r" + std::to_string(i + 1) + "\n";
    }
    grammar += "r3000 ::= \"q\"\n";
    const uint32_t job = submit(generate(c, tokens_of(m.model, "Queue:")), dump({ { "grammar", grammar }, { "ignoreEos", true } }));
    sleep_ms(1500);
    CHECK_EQ(state_of(job), LLAMA_DUO_JOB_RUNNING);
    const auto t = clk::now();
    CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
    give_back(llama_duo_context_free, c);
    printf("a slow grammar stops %.3f s after it was cancelled\n", seconds_since(t));
    CHECK(seconds_since(t) < 2 * slowness);
}

// The memory is free once the job that frees it is done.
static void test_free(const loaded & m) {
    const size_t before = resident_kib();
    const uint32_t c = make_context(m, R"({"contextSize":32768})");
    const size_t with = resident_kib();
    CHECK(with > before + 20 * 1024);
    give_back(llama_duo_context_free, c);
    const size_t after = resident_kib();
    printf("a context: %zu KiB resident before, %zu with it, %zu once it is freed\n", before, with, after);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    CHECK(after < before + (with - before) / 5);
#endif

    // who does not wait for that may forget the job
    const uint32_t d = make_context(m, R"({"contextSize":512})");
    uint32_t job = 0;
    CHECK_EQ(llama_duo_context_free(d, nullptr), LLAMA_DUO_E_ARGUMENT);
    CHECK_EQ(llama_duo_context_free(d, &job), LLAMA_DUO_OK);
    CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
    CHECK_EQ(llama_duo_shutdown(5000 * slowness), LLAMA_DUO_OK);
}

// A thread that ends while its model is loaded, its context works and a calibration runs.
static void test_thread_end(const loaded & m) {
    CHECK_EQ(llama_duo_shutdown(5000 * slowness), LLAMA_DUO_OK);
    const size_t before = n_threads();
    for (int round = 0; round < 6; round++) {
        uint32_t job = 0, model = 0, c = 0;
        std::thread([&] {
            CHECK_EQ(llama_duo_own_by_this_thread(), LLAMA_DUO_OK);
            const uint32_t loading = submit(llama_duo_model_load, dump({ { "path", m.path } }));
            if (round == 0) {
                job = loading;
                return; // ends while it loads
            }
            const json info = take_result(loading);
            model = info.at("model");
            const loaded own = { model, info, m.path };
            if (round == 1) {
                json tokens = json::array();
                for (int i = 0; i < 600; i++) {
                    tokens.push_back(i % 100 + 3);
                }
                const json sample = { { "tokens", tokens }, { "context", 500 }, { "answers", { { 550, 600 } } } };
                job = submit([&](const void * j, int32_t n, uint32_t * h) { return llama_duo_calibrate(model, j, n, h); },
                        dump({ { "samples", { sample } }, { "method", "masks" }, { "masks", 100000 }, { "sink", 4 }, { "recent", 16 } }));
                sleep_ms(300);
                CHECK_EQ(state_of(job), LLAMA_DUO_JOB_RUNNING);
                return;
            }
            c   = make_context(own, R"({"contextSize":1024})");
            job = submit(generate(c, tokens_of(model, "Hello")), R"({"ignoreEos":true,"window":4})");
            sleep_ms(round * 20);
        }).join();

        int32_t  state;
        double   progress;
        uint32_t none;
        CHECK_EQ(llama_duo_job_poll(job, &state, &progress), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_model_free(model, &none), LLAMA_DUO_E_HANDLE);
        CHECK_EQ(llama_duo_context_free(c, &none), LLAMA_DUO_E_HANDLE);
        CHECK(threads_fall_to(before));
    }
}

static void test_shutdown(const loaded & m) {
    const uint32_t c = make_context(m, R"({"contextSize":1024})");
    const auto prompt = tokens_of(m.model, "Hello");
    const uint32_t running = submit(generate(c, prompt), R"({"ignoreEos":true})");
    const uint32_t waits   = submit(generate(c, prompt), R"({"ignoreEos":true})");
    sleep_ms(100);
    CHECK_EQ(llama_duo_shutdown(5000 * slowness), LLAMA_DUO_OK);
    CHECK_EQ(state_of(running), LLAMA_DUO_JOB_CANCELLED);
    CHECK_EQ(state_of(waits), LLAMA_DUO_JOB_CANCELLED);

    // the library goes on
    const uint32_t again = submit(generate(c, prompt), R"({"maxTokens":2,"ignoreEos":true})");
    CHECK_EQ(drain_all(again).tokens.size(), size_t(2));

    // the process ends while this decodes: the library joins its thread
    submit(generate(c, prompt), R"({"ignoreEos":true,"window":100000})");
    sleep_ms(50);
}

// Where all handles are live, a call and a job say so, and what is there can be freed.
static void test_handle_limit(const loaded & m) {
    std::vector<uint32_t> jobs;
    uint32_t job = 0;
    int32_t status;
    while ((status = llama_duo_gates_read("{}", 2, &job)) == LLAMA_DUO_OK && jobs.size() < 20000) {
        jobs.push_back(job);
    }
    CHECK_EQ(status, LLAMA_DUO_E_LIMIT);
    CHECK(jobs.size() > 16000);
    CHECK_EQ(llama_duo_job_free(jobs.back()), LLAMA_DUO_OK);
    jobs.pop_back();
    const json e = take_error(submit([&](const void * j, int32_t n, uint32_t * job) { return llama_duo_context_create(m.model, j, n, job); }, R"({"contextSize":256})"));
    CHECK_EQ(e.value("code", ""), "limit");
    CHECK(contains(e.value("message", json()), "free those that are no longer needed"));

    CHECK_EQ(llama_duo_job_free(jobs.back()), LLAMA_DUO_OK);
    jobs.pop_back();
    const json path = { { "path", m.path }, { "vocabOnly", true } };
    job = submit(llama_duo_model_load, dump(path)); // which takes one of the two that are left
    CHECK_EQ(wait_for(job), LLAMA_DUO_JOB_DONE);
    const uint32_t model = result_of(job).at("model");
    uint32_t none = 0;
    CHECK_EQ(llama_duo_gates_read("{}", 2, &none), LLAMA_DUO_E_LIMIT);
    give_back(llama_duo_model_free, model);
    CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
    for (const uint32_t j : jobs) {
        CHECK_EQ(llama_duo_job_free(j), LLAMA_DUO_OK);
    }
}

int main(int argc, char ** argv) {
    test_utf8();
    test_stop_text();
    test_long_words();
    test_handle_table();
    test_stale_handles();
    test_arguments();
    test_build_info();
    test_log();
    test_model_load_errors();
    test_gates();
    test_job_stream();
    test_thread_owner();

    const char * env  = getenv("LLAMA_DUO_TEST_MODEL");
    const char * path = argc > 1 ? argv[1] : env && *env ? env : nullptr;
    if (!path) {
        printf("no model given: what needs one was left out\n");
        return check::result();
    }

    loaded m = { 0, take_result(submit(llama_duo_model_load, dump({ { "path", path } }))), path };
    m.model = m.info.at("model");

    static const char * full  = R"({"contextSize":1024})";
    static const char * mixed = R"({"contextSize":1024,"duo":{"sparsity":1,"sink":16,"recent":128}})";

    const char * rounds_env = getenv("LLAMA_DUO_TEST_ROUNDS");
    const int n_rounds = rounds_env ? atoi(rounds_env) : 200;

    test_load(m);
    test_tokens(m);
    test_context_options(m);
    test_plan(m);
    test_generate(m, full);
    test_generate(m, mixed);
    test_score(m, full);
    test_score(m, mixed);
    test_order_and_backpressure(m);
    test_cancel(m);
    test_text(m);
    test_special_tokens(m);
    test_slow_grammar(m);
    test_free(m);
    test_handle_limit(m);
    test_thread_end(m);
    test_rounds(m, full, n_rounds);
    test_rounds(m, mixed, n_rounds);
    test_shutdown(m);
    return check::result();
}
