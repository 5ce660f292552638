#include "job.h"

#include "utf8.h"

#include "llama.h"

#include <algorithm>
#include <cstring>

namespace duo::abi {

std::string dump(const json & value) {
    return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

void job::cancel() {
    std::function<void()> notify;
    {
        std::lock_guard lock(mutex);
        if (has_ended()) {
            return;
        }
        cancelled_ = true;
        if (state_ == LLAMA_DUO_JOB_QUEUED) {
            state_ = LLAMA_DUO_JOB_CANCELLED;
        }
        notify = notify_;
    }
    if (notify) {
        notify();
    }
}

int32_t job::state() const {
    std::lock_guard lock(mutex);
    return state_;
}

std::string job::result() const {
    std::lock_guard lock(mutex);
    return result_;
}

std::string job::error() const {
    std::lock_guard lock(mutex);
    return error_;
}

size_t job::n_streams() const {
    std::lock_guard lock(mutex);
    return streams.size();
}

job::drained job::drain(size_t i_stream, int32_t * tokens, int32_t cap, char * text, int32_t text_cap) {
    drained d;
    std::function<void()> notify;
    {
        std::lock_guard lock(mutex);
        stream & s = streams[i_stream];
        d = { 0, 0, state_, false };
        const bool was_full = s.pieces.size() >= window_;

        while (!s.pieces.empty() && d.n_tokens < cap && s.text.size() < size_t(text_cap)) {
            piece & p = s.pieces.front();
            tokens[d.n_tokens++] = p.token;
            s.text += p.text;
            if (!p.numbers.empty()) {
                s.numbers.push_back(std::move(p.numbers));
            }
            s.pieces.pop_front();
        }

        const size_t n = utf8_cut(s.text, size_t(text_cap));
        memcpy(text, s.text.data(), n);
        s.text.erase(0, n);

        d.n_text = int32_t(n);
        d.more   = !s.pieces.empty() || !s.text.empty();
        if (was_full && d.n_tokens > 0) {
            notify = notify_;
        }
    }
    if (notify) {
        notify();
    }
    return d;
}

int32_t job::drain_numbers(size_t i_stream, double * numbers, int32_t cap) {
    std::lock_guard lock(mutex);
    auto & records = streams[i_stream].numbers;
    int32_t n = 0;
    while (!records.empty() && records.front().size() <= size_t(cap - n)) {
        std::copy(records.front().begin(), records.front().end(), numbers + n);
        n += int32_t(records.front().size());
        records.pop_front();
    }
    return n == 0 && !records.empty() ? -1 : n;
}

bool job::begin() {
    std::lock_guard lock(mutex);
    if (has_ended()) {
        return false;
    }
    state_ = LLAMA_DUO_JOB_RUNNING;
    return true;
}

bool job::attempt(const std::function<void()> & step) {
    try {
        step();
        return !ended();
    } catch (const job_cancelled &) {
        std::lock_guard lock(mutex);
        cancelled_ = true; // also where it was the work that gave up
        state_ = LLAMA_DUO_JOB_CANCELLED;
    } catch (const job_error & e) {
        fail(e);
    } catch (const std::exception & e) {
        fail(job_error("internal", e.what()));
    } catch (...) {
        fail(job_error("internal", "something that is no std::exception was thrown"));
    }
    return false;
}

void job::run(const std::function<void(job &)> & work) {
    if (begin()) {
        attempt([&] { work(*this); });
    }
}

void job::fail(const job_error & e) {
    json error = { { "code", e.code }, { "message", e.what() } };
    error.update(e.more);

    std::lock_guard lock(mutex);
    // what an interrupted call reports is no failure
    state_ = cancelled_ ? LLAMA_DUO_JOB_CANCELLED : LLAMA_DUO_JOB_FAILED;
    error_ = dump(error);
}

void job::throw_if_cancelled() const {
    if (cancelled_) {
        throw job_cancelled();
    }
}

void job::finish(const std::function<json()> & make_result) {
    std::lock_guard lock(mutex);
    throw_if_cancelled();
    result_ = dump(make_result());
    state_  = LLAMA_DUO_JOB_DONE;
}

void job::set_streams(size_t n, size_t window) {
    std::lock_guard lock(mutex);
    streams.resize(n);
    window_ = window;
}

void job::push(size_t i_stream, int32_t token, const std::string & text, std::vector<double> numbers) {
    std::lock_guard lock(mutex);
    stream & s = streams[i_stream];
    if (token == LLAMA_TOKEN_NULL) {
        (s.pieces.empty() ? s.text : s.pieces.back().text) += text;
    } else {
        s.pieces.push_back({ token, text, std::move(numbers) });
    }
}

size_t job::room(size_t i_stream) const {
    std::lock_guard lock(mutex);
    return window_ - std::min(window_, streams[i_stream].pieces.size());
}

void job::set_notify(std::function<void()> notify) {
    std::lock_guard lock(mutex);
    notify_ = std::move(notify);
}

} // namespace duo::abi
