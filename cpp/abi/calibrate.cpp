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
    p.strict    = o.boolean("strict").value_or(p.strict);
    p.n_masks   = int32_t(o.integer("masks", 2, 1 << 20).value_or(p.n_masks));
    p.seed      = uint64_t(o.integer("seed", 0, UINT32_MAX).value_or(1));
    p.n_threads = int32_t(o.integer("threads", 1, GGML_MAX_N_THREADS).value_or(common_cpu_get_num_math()));
    p.model_id  = o.string("modelId").value_or("");
    if (const auto path = o.string("partial")) {
        if (path->empty() || path->find('\0') != std::string::npos) {
            throw o.error("partial", "a path");
        }
        p.partial = *path;
    }
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
