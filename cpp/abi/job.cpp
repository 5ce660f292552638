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
    std::lock_guard lock(mutex);
    if (ended()) {
        return;
    }
    cancelled_ = true;
    if (state_ == LLAMA_DUO_JOB_QUEUED) {
        state_ = LLAMA_DUO_JOB_CANCELLED;
    }
    may_go_on.notify_all();
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

job::drained job::drain(int32_t * tokens, int32_t cap, char * text, int32_t text_cap) {
    std::lock_guard lock(mutex);

    drained d = { 0, 0, state_, false };

    while (!pieces.empty() && d.n_tokens < cap && text_.size() < size_t(text_cap)) {
        tokens[d.n_tokens++] = pieces.front().token;
        text_ += pieces.front().text;
        pieces.pop_front();
    }

    const size_t n = utf8_cut(text_, size_t(text_cap));
    memcpy(text, text_.data(), n);
    text_.erase(0, n);

    d.n_text = int32_t(n);
    d.more   = !pieces.empty() || !text_.empty();

    may_go_on.notify_all();
    return d;
}

void job::run(const std::function<void(job &)> & work) {
    {
        std::lock_guard lock(mutex);
        if (ended()) {
            return;
        }
        state_ = LLAMA_DUO_JOB_RUNNING;
    }

    try {
        work(*this);
    } catch (const job_cancelled &) {
        std::lock_guard lock(mutex);
        state_ = LLAMA_DUO_JOB_CANCELLED;
    } catch (const job_error & e) {
        fail(e);
    } catch (const std::exception & e) {
        fail(job_error("internal", e.what()));
    } catch (...) {
        fail(job_error("internal", "something that is no std::exception was thrown"));
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

void job::set_waited_for(bool waited_for) {
    std::lock_guard lock(mutex);
    waited_for_ = waited_for;
    may_go_on.notify_all();
}

void job::push(int32_t token, const std::string & text) {
    std::unique_lock lock(mutex);

    if (token == LLAMA_TOKEN_NULL) {
        (pieces.empty() ? text_ : pieces.back().text) += text;
        return;
    }

    may_go_on.wait(lock, [&] { return pieces.size() < window_ || waited_for_ || cancelled_; });
    throw_if_cancelled();
    pieces.push_back({ token, text });
}

} // namespace duo::abi
