#include "calibrate.h"

#include "engine-thread.h"
#include "log.h"
#include "process.h"

#include "common.h"
#include "duo-report.h"
#include "ggml.h"

#include <algorithm>

namespace duo::abi {

// --- options ---

// A whole number of a sample; NaN and the like become -1.
static int64_t whole(const json & value) {
    return value.is_number_integer() && value >= 0 && value <= INT32_MAX ? value.get<int64_t>() : -1;
}

static calibration_sample read_sample(options & o, const json & value, const model & m) {
    const auto fail = [&] {
        return o.error("samples", "an array of { \"tokens\": [token], \"context\": integer, \"answers\": [[first, end]] } with tokens of the model's vocabulary");
    };
    if (!value.is_object() || !value.contains("tokens") || !value["tokens"].is_array() || !value.contains("answers") || !value["answers"].is_array()) {
        throw fail();
    }
    calibration_sample s;
    for (const json & t : value["tokens"]) {
        if (!m.is_token(int32_t(whole(t)))) {
            throw fail();
        }
        s.tokens.push_back(t.get<llama_token>());
    }
    const int64_t n_context = whole(value.value("context", json()));
    if (n_context < 1 || n_context >= int64_t(s.tokens.size())) {
        throw fail();
    }
    s.n_context = size_t(n_context);
    for (const json & a : value["answers"]) {
        if (!a.is_array() || a.size() != 2 || whole(a[0]) < 0 || whole(a[1]) < 0) {
            throw fail();
        }
        s.answers.push_back({ size_t(whole(a[0])), size_t(whole(a[1])) });
    }
    return s;
}

static std::vector<int32_t> read_windows(options & o, const json & value) {
    std::vector<int32_t> windows;
    for (const json & w : value.is_array() ? value : json::array()) {
        const int64_t n = whole(w);
        if (n < 1 || n > max_gate_window || (!windows.empty() && n <= windows.back())) {
            break;
        }
        windows.push_back(int32_t(n));
    }
    if (windows.empty() || windows.size() != value.size() || windows.size() > max_loss_windows) {
        throw o.error("windows", "an array of 1 to " + std::to_string(max_loss_windows) + " rising integers");
    }
    return windows;
}

static std::vector<ggml_type> read_types(options & o, const json & value) {
    std::vector<ggml_type> types;
    std::string names;
    for (const ggml_type type : duo_cache_types()) {
        names += type == GGML_TYPE_F16 ? "" : (names.empty() ? "" : ", ") + std::string(ggml_type_name(type));
        const auto same = [&](const json & name) { return name == ggml_type_name(type); };
        if (value.is_array() && type != GGML_TYPE_F16 && std::count_if(value.begin(), value.end(), same) == 1) {
            types.push_back(type);
        }
    }
    if (!value.is_array() || types.size() != value.size()) {
        throw o.error("cacheTypes", "an array of different types: of " + names);
    }
    return types;
}

calibrate_options calibrate_options::read(options o, const model & m) {
    calibrate_options result;
    calibration_params & p = result.params;

    const auto & methods = calibration_method_names();
    const std::string method = o.one_of("method", methods).value_or(methods[0]);
    p.method = calibration_method(std::find(methods.begin(), methods.end(), method) - methods.begin());

    const json * samples = o.value("samples");
    if (!samples || !samples->is_array() || samples->empty() || samples->size() > llama_max_parallel_sequences()) {
        throw o.error("samples", "an array of 1 to " + std::to_string(llama_max_parallel_sequences()) + " samples");
    }
    for (const json & s : json(*samples)) {
        p.samples.push_back(read_sample(o, s, m));
    }

    p.sink      = int32_t(o.integer("sink",   0, 1 << 24).value_or(p.sink));
    p.recent    = int32_t(o.integer("recent", 0, 1 << 24).value_or(p.recent));
    if (p.method == calibration_method::windows) {
        p.windows = { 256, 1024 };
        p.types   = { GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 };
    }
    if (const json * windows = o.value("windows")) {
        p.windows = read_windows(o, *windows);
    }
    if (const json * types = o.value("cacheTypes")) {
        p.types = read_types(o, *types);
    }
    p.strict    = o.boolean("strict").value_or(p.strict);
    p.n_masks   = int32_t(o.integer("masks", 2, 1 << 20).value_or(p.n_masks));
    p.seed      = uint64_t(o.integer("seed", 0, UINT32_MAX).value_or(1));
    p.n_threads = int32_t(o.integer("threads", 1, GGML_MAX_N_THREADS).value_or(common_cpu_get_num_math()));
    p.model_id  = o.string("modelId").value_or("");
    p.partial = o.path("partial").value_or("");
    if (p.model_id.find('\n') != std::string::npos) {
        throw o.error("modelId", "a text on one line");
    }
    o.finish();
    return result;
}

// --- the job ---

// A calibration_error in the words of llama_duo_job_error.
static job_error job_error_of(const calibration_error & e, const calibrate_options & o, const std::string & log) {
    const std::string message = std::string(e.what()) + (log.empty() ? "" : ": " + log);
    switch (e.kind) {
        case calibration_error::samples:
            return job_error("option", message, { { "name", "samples" }, { "value", json() }, { "expected", "contexts, questions and answers" } });
        case calibration_error::file:
            return job_error("option", message, { { "name", "partial" }, { "value", o.params.partial }, { "expected", "a file that is not there yet, or the partial results of a call with the same options" } });
        case calibration_error::output:      return job_error("output", message);
        case calibration_error::context:     return job_error("context", message);
        case calibration_error::unsupported: return job_error("unsupported", message);
        case calibration_error::decode:      return job_error("decode", message);
    }
    return job_error("internal", message);
}

void calibrate_model(job & j, const model & m, calibrate_options o) {
    require_weights(m, "calibrate");
    start_backends();

    llama_context_params params = llama_context_default_params();
    const std::string reason = duo_unsupported(m.ptr.get(), params);
    if (!reason.empty()) {
        throw job_error("unsupported", "mixed heads do not apply, so there is nothing to calibrate: " + reason);
    }

    o.params.cancelled = [&] { return j.cancelled(); };
    o.params.progress  = [&](double progress) {
        static const bool armed = arm_exit_handler(); // something has been decoded
        (void) armed;
        j.set_progress(progress);
    };

    log_capture errors;
    try {
        const calibration_result r = calibrate(m.ptr.get(), o.params);
        j.finish([&] {
            json scores = json::array();
            for (int32_t il = 0; il < r.pattern.n_layer; ++il) {
                const auto row = r.scores.begin() + size_t(il) * r.pattern.n_head_kv;
                scores.push_back(std::vector<double>(row, row + r.pattern.n_head(il)));
            }
            return json {
                { "pattern",       json::parse(gate_pattern_to_json(r.pattern)) },
                { "scores",        scores },
                { "correct",       r.correct < 0 ? json() : json(r.correct) },
                { "contextTokens", r.n_context },
                { "tailTokens",    r.n_tail },
                { "answerTokens",  r.n_answer },
                { "passes",        r.n_passes },
            };
        });
    } catch (const calibration_cancelled &) {
        throw job_cancelled();
    } catch (const calibration_error & e) {
        j.throw_if_cancelled();
        throw job_error_of(e, o, errors.reason(""));
    }
}

} // namespace duo::abi
