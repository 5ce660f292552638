// One piece of work that takes long: its state, its result or error, and the tokens it has made so far, in one stream for each of the texts it generates.
#pragma once

#include "llama-duo-abi.h"

#include <nlohmann/json.hpp>

#include <atomic>
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

    size_t n_streams() const;

    // Tokens and text of a stream that wait, as much of each as fits. Text never runs ahead of its tokens and is cut between UTF-8 sequences only.
    drained drain(size_t i_stream, int32_t * tokens, int32_t cap, char * text, int32_t text_cap);

    // Numbers that came with tokens that were drained, as many whole records as fit; -1: there is one, and not even it fits. What is left waits.
    int32_t drain_numbers(size_t i_stream, double * numbers, int32_t cap);

    // --- the working thread's side ---

    // Runs the work, unless the job was cancelled before; whatever it throws becomes the job's end. The work calls finish.
    void run(const std::function<void(job &)> & work);

    // The same in steps: begin is false where the job has ended before; attempt is false where the job has ended by then, be it by what the step threw.
    bool begin();
    bool attempt(const std::function<void()> & step);

    bool ended() const { return state() >= LLAMA_DUO_JOB_DONE; }

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

    // How many streams it makes, and how many tokens of each may wait; before anybody knows of the job.
    void set_streams(size_t n, size_t window);

    // Hands on a token, the text that is due with it and numbers that belong to it; text alone where token is LLAMA_TOKEN_NULL.
    void push(size_t i_stream, int32_t token, const std::string & text, std::vector<double> numbers = {});

    // How many tokens a stream's window has room for. Where it is full, who makes tokens should wait for the reader.
    size_t room(size_t i_stream) const;
    bool   is_full(size_t i_stream) const { return room(i_stream) == 0; }

    // Called, on any thread, whenever a full stream was drained or the job was cancelled.
    void set_notify(std::function<void()> notify);

private:
    struct piece {
        int32_t             token;
        std::string         text;
        std::vector<double> numbers;
    };

    struct stream {
        std::deque<piece>               pieces;
        std::string                     text;    // of tokens that were drained already
        std::deque<std::vector<double>> numbers; // likewise
    };

    bool has_ended() const { return state_ >= LLAMA_DUO_JOB_DONE; } // with the mutex held

    mutable std::mutex mutex;

    std::atomic<bool>   cancelled_ = false;
    std::atomic<double> progress_  = -1;

    int32_t               state_  = LLAMA_DUO_JOB_QUEUED;
    size_t                window_ = 256;
    std::string           result_;
    std::string           error_;
    std::vector<char>     data_;
    std::vector<stream>   streams { 1 };
    std::function<void()> notify_;
};

} // namespace duo::abi
