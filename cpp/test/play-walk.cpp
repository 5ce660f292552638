// play-walk FILE: makes the calls of the C interface that a JavaScript program made, which test/native/walk-recorder.ts wrote down, and pauses now and then.
// Where a job had ended by a call it waits until it has, since what follows may need that, but not for long: here, what the job waits for may come later.
#include "abi-calls.h"

#include <fstream>
#include <map>
#include <random>
#include <tuple>

namespace {

// --- arguments ---

// The handles of this run, by those of the recorded one.
std::map<uint32_t, uint32_t> handles;

std::vector<uint8_t> from_base64(const std::string & text) {
    static const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::vector<uint8_t> bytes;
    uint32_t bits = 0;
    int      n    = 0;
    for (const char c : text) {
        const size_t digit = digits.find(c);
        if (digit == std::string::npos) {
            break; // the padding
        }
        bits = bits << 6 | uint32_t(digit);
        if ((n += 6) >= 8) {
            n -= 8;
            bytes.push_back(uint8_t(bits >> n));
        }
    }
    return bytes;
}

// One argument, with what it points to.
template <class T> struct argument;

template <> struct argument<int32_t> {
    int32_t value;
    explicit argument(const json & j) : value(j.get<int32_t>()) {}
    int32_t get() { return value; }
    void keep(const json &) {}
};

template <> struct argument<uint32_t> {
    uint32_t value = 0; // a handle that this run has not had
    explicit argument(const json & j) {
        const auto it = handles.find(j.get<uint32_t>());
        if (it != handles.end()) {
            value = it->second;
        }
    }
    uint32_t get() { return value; }
    void keep(const json &) {}
};

template <class T> struct input {
    std::vector<T> values;
    bool           null;
    const T * get() { return null ? nullptr : values.data(); }
    void keep(const json &) {}
};

template <> struct argument<const void *> : input<uint8_t> {
    explicit argument(const json & j) { null = j.is_null(); values = null ? values : from_base64(j.get<std::string>()); }
};

template <> struct argument<const int32_t *> : input<int32_t> {
    explicit argument(const json & j) { null = j.is_null(); values = null ? values : j.get<std::vector<int32_t>>(); }
};

template <class T> struct output {
    std::vector<T> values;
    bool           null;
    explicit output(const json & j) : values(j.is_null() ? 0 : j.at("size").get<size_t>()), null(j.is_null()) {}
    T * get() { return null ? nullptr : values.data(); }
    void keep(const json &) {}
};

template <> struct argument<void *>    : output<uint8_t> { using output::output; };
template <> struct argument<int32_t *> : output<int32_t> { using output::output; };
template <> struct argument<double *>  : output<double>  { using output::output; };

template <> struct argument<uint32_t *> : output<uint32_t> {
    using output::output;
    void keep(const json & j) { handles[j.at("begin").at(0).get<uint32_t>()] = values.at(0); }
};

// --- calls ---

using player = std::function<int32_t(const json & arguments)>;

template <class... A, size_t... I> int32_t make_call(int32_t (*f)(A...), const json & given, std::index_sequence<I...>) {
    std::tuple<argument<A>...> arguments{ argument<A>(given.at(I))... };
    const int32_t status = f(std::get<I>(arguments).get()...);
    if (status == LLAMA_DUO_OK) {
        (std::get<I>(arguments).keep(given.at(I)), ...);
    }
    return status;
}

template <class... A> player playing(int32_t (*f)(A...)) {
    return [f](const json & given) { return make_call(f, given, std::index_sequence_for<A...>()); };
}

// What a result names was made by its job.
int32_t play_result(const json & given) {
    const uint32_t job = argument<uint32_t>(given.at(0)).get();
    int32_t needed = 0;
    const int32_t status = llama_duo_job_result(job, nullptr, 0, &needed);
    if (status != LLAMA_DUO_E_SPACE) {
        return status;
    }
    if (given.at(1).is_string()) {
        const json theirs = json::parse(given.at(1).get<std::string>()), ours = result_of(job);
        for (const char * made : { "model", "context", "sequence" }) {
            if (theirs.contains(made) && ours.contains(made) && theirs.at(made).is_number()) {
                handles[theirs.at(made).get<uint32_t>()] = ours.at(made).get<uint32_t>();
            }
        }
    }
    return LLAMA_DUO_OK;
}

const auto started = clk::now();

bool in_time(clk::time_point since) { return seconds_since(since) < 0.5 * slowness; }

int32_t play_poll(const json & given) {
    const auto t = clk::now();
    int32_t state = LLAMA_DUO_JOB_DONE, status;
    double  progress = 0;
    const uint32_t job = argument<uint32_t>(given.at(0)).get();
    const bool had_ended = given.at(1).at("begin").at(0) >= LLAMA_DUO_JOB_DONE;
    while ((status = llama_duo_job_poll(job, &state, &progress)) == LLAMA_DUO_OK && had_ended && state < LLAMA_DUO_JOB_DONE && in_time(t)) {
        sleep_ms(1);
    }
    return status;
}

int32_t play_drain(const json & given) {
    const auto t = clk::now();
    const uint32_t job = argument<uint32_t>(given.at(0)).get();
    const bool had_ended = given.at(6).at("begin").at(2) >= LLAMA_DUO_JOB_DONE;
    argument<int32_t *> tokens(given.at(2));
    argument<void *>    text(given.at(4));
    int32_t info[4] = {}, status;
    while ((status = llama_duo_job_drain_choice(job, given.at(1), tokens.get(), given.at(3), text.get(), given.at(5), info)) == LLAMA_DUO_OK && had_ended &&
            (info[2] < LLAMA_DUO_JOB_DONE || info[3]) && in_time(t)) {
        sleep_ms(1);
    }
    return status;
}

const std::map<std::string, player> players = {
#define CALL(name) { #name, playing(name) }
    CALL(llama_duo_build_id), CALL(llama_duo_build_info), CALL(llama_duo_log_drain), CALL(llama_duo_job_data), CALL(llama_duo_job_error), CALL(llama_duo_job_cancel),
    CALL(llama_duo_job_free), CALL(llama_duo_devices), CALL(llama_duo_model_fetch), CALL(llama_duo_model_load), CALL(llama_duo_model_free),
    CALL(llama_duo_tokenize), CALL(llama_duo_tokenize_long), CALL(llama_duo_detokenize), CALL(llama_duo_lora_load), CALL(llama_duo_lora_free),
    CALL(llama_duo_gates_read), CALL(llama_duo_gates_select), CALL(llama_duo_gates_embed), CALL(llama_duo_calibrate), CALL(llama_duo_context_create),
    CALL(llama_duo_context_plan), CALL(llama_duo_context_estimate), CALL(llama_duo_context_free), CALL(llama_duo_generate), CALL(llama_duo_job_drain),
    CALL(llama_duo_job_drain_log_probs), CALL(llama_duo_score), CALL(llama_duo_sequence_create), CALL(llama_duo_sequence_free),
    CALL(llama_duo_sequence_size), CALL(llama_duo_sequence_fork), CALL(llama_duo_sequence_append), CALL(llama_duo_sequence_truncate),
    CALL(llama_duo_sequence_logits), CALL(llama_duo_sequence_generate), CALL(llama_duo_sequence_score), CALL(llama_duo_sequence_save),
    CALL(llama_duo_sequence_load), CALL(llama_duo_embedder_create), CALL(llama_duo_embedder_free), CALL(llama_duo_embed), CALL(llama_duo_rank),
    CALL(llama_duo_chat_apply), CALL(llama_duo_chat_parse), CALL(llama_duo_schema_grammar), CALL(llama_duo_own_by_this_thread), CALL(llama_duo_shutdown),
#undef CALL
    { "llama_duo_abi_version", playing(llama_duo_abi_version) },
    { "llama_duo_job_result", play_result },
    { "llama_duo_job_poll", play_poll },
    { "llama_duo_job_drain_choice", play_drain },
};

} // namespace

int main(int argc, char ** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: play-walk FILE\n");
        return 2;
    }
    std::ifstream file(argv[1]);
    std::mt19937_64 rng(check::seed());
    size_t n = 0, n_same = 0;
    std::string line;
    while (std::getline(file, line)) {
        const json call = json::parse(line);
        const std::string name = call.at(0);
        const auto it = players.find(name);
        if (it == players.end()) {
            fprintf(stderr, "%s is none of the functions that are played\n", name.c_str());
            return 1;
        }
        n++;
        n_same += it->second(call.at(2)) == call.at(1).get<int32_t>();
        if (rng() % 16 == 0) {
            sleep_ms(int(rng() % 4));
        }
    }
    printf("%zu calls in %.1f s, %.1f%% with the recorded status\n", n, seconds_since(started), 100.0 * double(n_same) / double(n));
    CHECK(n > 0);
    CHECK(double(n_same) > 0.9 * double(n)); // a job that had just ended there may not have here
    CHECK_EQ(llama_duo_shutdown(60000 * slowness), LLAMA_DUO_OK);
    return check::result();
}
