// The C ABI, called as a runtime calls it: submit, wait, take the result or the error.
#pragma once

#include "check.h"

#include "job.h"
#include "llama-duo-abi.h"

#include <chrono>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

using namespace duo::abi;
using clk = std::chrono::steady_clock;

[[maybe_unused]] static double seconds_since(clk::time_point t) {
    return std::chrono::duration<double>(clk::now() - t).count();
}

// What sanitizers make of a second, and a busy machine besides.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static constexpr int slowness = 20;
#else
static constexpr int slowness = 1;
#endif

[[maybe_unused]] static void sleep_ms(int ms) {
    std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

[[maybe_unused]] static std::string text_of(const std::function<int32_t(void *, int32_t, int32_t *)> & read) {
    int32_t needed = -1;
    const int32_t status = read(nullptr, 0, &needed);
    if (status != LLAMA_DUO_E_SPACE) {
        return "status " + std::to_string(status);
    }
    std::string s(size_t(needed), '?');
    CHECK_EQ(read(s.data(), needed, &needed), LLAMA_DUO_OK);
    return s;
}

[[maybe_unused]] static json result_of(uint32_t job) {
    return json::parse(text_of([&](void * b, int32_t c, int32_t * n) { return llama_duo_job_result(job, b, c, n); }));
}

[[maybe_unused]] static json error_of(uint32_t job) {
    return json::parse(text_of([&](void * b, int32_t c, int32_t * n) { return llama_duo_job_error(job, b, c, n); }));
}

[[maybe_unused]] static int32_t state_of(uint32_t job) {
    int32_t state    = -1;
    double  progress = -2;
    CHECK_EQ(llama_duo_job_poll(job, &state, &progress), LLAMA_DUO_OK);
    CHECK(progress >= -1 && progress <= 1);
    return state;
}

[[maybe_unused]] static int32_t wait_for(uint32_t job, double timeout = 120) {
    const auto t = clk::now();
    int32_t state;
    while ((state = state_of(job)) < LLAMA_DUO_JOB_DONE && seconds_since(t) < timeout * slowness) {
        sleep_ms(1);
    }
    return state;
}

using json_call = std::function<int32_t(const void *, int32_t, uint32_t *)>;

[[maybe_unused]] static uint32_t submit(const json_call & call, const std::string & options) {
    uint32_t job = 0;
    CHECK_EQ(call(options.data(), int32_t(options.size()), &job), LLAMA_DUO_OK);
    CHECK(job != 0);
    return job;
}

[[maybe_unused]] static json take_result(uint32_t job) {
    const int32_t state = wait_for(job);
    CHECK_EQ(state, LLAMA_DUO_JOB_DONE);
    const json result = state == LLAMA_DUO_JOB_DONE ? result_of(job) : error_of(job);
    if (state != LLAMA_DUO_JOB_DONE) {
        fprintf(stderr, "    %s\n", dump(result).c_str());
    }
    CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
    return result;
}

[[maybe_unused]] static json take_error(uint32_t job) {
    const int32_t state = wait_for(job);
    CHECK_EQ(state, LLAMA_DUO_JOB_FAILED);
    const json error = state == LLAMA_DUO_JOB_FAILED ? error_of(job) : json::object();
    CHECK_EQ(llama_duo_job_free(job), LLAMA_DUO_OK);
    return error;
}

// The data of a job that is done, and its result.
template <class T> [[maybe_unused]] static std::vector<T> take_data(uint32_t job, json * result = nullptr) {
    CHECK_EQ(wait_for(job), LLAMA_DUO_JOB_DONE);
    const std::string bytes = text_of([&](void * b, int32_t c, int32_t * n) { return llama_duo_job_data(job, b, c, n); });
    std::vector<T> data(bytes.size() / sizeof(T));
    memcpy(data.data(), bytes.data(), bytes.size());
    const json r = take_result(job);
    if (result) {
        *result = r;
    }
    return data;
}

// Frees a model or context, and waits until its memory is free.
[[maybe_unused]] static void give_back(int32_t (*free)(uint32_t, uint32_t *), uint32_t handle) {
    uint32_t job = 0;
    CHECK_EQ(free(handle, &job), LLAMA_DUO_OK);
    take_result(job);
}

[[maybe_unused]] static bool contains(const json & text, const std::string & part) {
    const bool found = text.is_string() && text.get<std::string>().find(part) != std::string::npos;
    if (!found) {
        fprintf(stderr, "    \"%s\" not in %s\n", part.c_str(), dump(text).c_str());
    }
    return found;
}

// The options fail the job with an error that names the key, its value and what is expected.
[[maybe_unused]] static void check_refused(const json_call & call, const std::string & options, const std::string & name, const std::string & expected) {
    const json e = take_error(submit(call, options));
    CHECK_EQ(e.value("code", ""), "option");
    CHECK_EQ(e.value("name", "?"), name);
    CHECK(e.contains("value"));
    CHECK(contains(e.value("expected", json()), expected));
    CHECK(contains(e.value("message", json()), name));
}

struct drained {
    std::vector<int32_t> tokens;
    std::string          text;
    int32_t              state = -1;
    bool                 more  = false;
};

[[maybe_unused]] static void drain(uint32_t job, drained & d, int32_t cap = 64) {
    std::vector<int32_t> tokens(size_t(cap), -1);
    std::string text(4096, '?');
    int32_t info[4] = { -1, -1, -1, -1 };
    CHECK_EQ(llama_duo_job_drain(job, tokens.data(), cap, text.data(), int32_t(text.size()), info), LLAMA_DUO_OK);
    d.tokens.insert(d.tokens.end(), tokens.begin(), tokens.begin() + info[0]);
    d.text.append(text, 0, size_t(info[1]));
    d.state = info[2];
    d.more  = info[3] != 0;
}

[[maybe_unused]] static drained drain_all(uint32_t job) {
    drained d;
    do {
        drain(job, d);
        sleep_ms(1);
    } while (d.state < LLAMA_DUO_JOB_DONE || d.more);
    return d;
}
