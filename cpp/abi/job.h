// One piece of work that takes long: its state, its result or error, and the tokens it has made so far.
#pragma once

#include "llama-duo-abi.h"

#include <nlohmann/json.hpp>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

namespace duo::abi {

using json = nlohmann::ordered_json;

// Text of a JSON value; bytes that are not UTF-8 (a model's metadata may hold any) become U+FFFD.
std::string dump(const json & value);

// Why a job failed, in the words of llama_duo_job_error.
struct job_error : std::runtime_error {
    job_error(const char * code, const std::string & message, json more = json::object())
        : std::runtime_error(message), code(code), more(std::move(more)) {}

    std::string code;
    json        more;  // members beside code and message
};

// Thrown in the work of a job that was asked to stop.
struct job_cancelled {};

class job {
public:
    const uint32_t owner;  // who has the job's handle, and those of what it makes (this_owner)

    explicit job(uint32_t owner = 0) : owner(owner) {}

    // --- the caller's side ---

    void cancel();

    int32_t     state() const;
    double      progress() const { return progress_; }
    std::string result() const;  // JSON, "" unless done
    std::string error() const;   // JSON, "" unless failed

    // Numbers of the result that JSON would be slow for; never changed once the job is done.
    const std::vector<char> & data() const { return data_; }

    struct drained {
        int32_t n_tokens;
        int32_t n_text;
        int32_t state;
        bool    more;
    };

    // Tokens and text that wait, as much of each as fits. Text never runs ahead of its tokens and is cut between UTF-8 sequences only.
    drained drain(int32_t * tokens, int32_t cap, char * text, int32_t text_cap);

    // --- the working thread's side ---

    // Runs the work, unless the job was cancelled before; whatever it throws becomes the job's end. The work calls finish.
    void run(const std::function<void(job &)> & work);

    void fail(const job_error & error);

    bool cancelled() const { return cancelled_; }
    void throw_if_cancelled() const;

    void set_progress(double progress) { progress_ = progress; }

    // The job's last step. A job that was asked to stop throws job_cancelled instead of making a result, so what a result hands over
    // (a model, a context) is handed over or dropped, never lost.
    void finish(const std::function<json()> & make_result);

    // For the work to call before finish.
    template <class T> void set_data(const std::vector<T> & numbers) {
        const char * bytes = reinterpret_cast<const char *>(numbers.data());
        data_.assign(bytes, bytes + numbers.size() * sizeof(T));
    }

    // Hands on a token and the text that is due with it; text alone where token is LLAMA_TOKEN_NULL. Waits while `window` tokens wait
    // to be drained, unless another job waits for this one. Throws job_cancelled.
    void push(int32_t token, const std::string & text);
    void set_window(size_t window) { window_ = window; }

    // Whether another job waits for this one to end. A reader that is slow, or has gone, then holds nobody up: the work goes on, and all that it
    // makes is kept, which is at most what the context holds.
    void set_waited_for(bool waited_for);

private:
    struct piece {
        int32_t     token;
        std::string text;
    };

    bool ended() const { return state_ >= LLAMA_DUO_JOB_DONE; }

    mutable std::mutex      mutex;
    std::condition_variable may_go_on;  // drained, cancelled or waited for

    std::atomic<bool>   cancelled_ = false;
    std::atomic<double> progress_  = -1;

    int32_t           state_  = LLAMA_DUO_JOB_QUEUED;
    size_t            window_ = 256;
    bool              waited_for_ = false;
    std::string       result_;
    std::string       error_;
    std::vector<char> data_;
    std::deque<piece> pieces;
    std::string       text_;  // text of tokens that were drained already
};

} // namespace duo::abi
