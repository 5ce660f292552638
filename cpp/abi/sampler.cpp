#include "sampler.h"

#include "grammar.h"
#include "utf8.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numeric>

namespace duo::abi {

// --- options ---

static std::vector<llama_logit_bias> read_logit_bias(options & o, const model & m) {
    std::vector<llama_logit_bias> result;
    const json * given = o.value("logitBias");
    if (!given) {
        return result;
    }
    const auto fail = [&] {
        return o.error("logitBias", "an array of [token id or text, finite number or false for never]");
    };
    for (const auto & entry : given->is_array() ? *given : json::array({ json() })) {
        if (!entry.is_array() || entry.size() != 2 || !(entry[1].is_number() || entry[1] == false)) {
            throw fail();
        }
        const double bias = entry[1].is_number() ? entry[1].get<double>() : -INFINITY;
        if (entry[1].is_number() && !(std::fabs(bias) <= FLT_MAX)) {
            throw fail();
        }
        if (entry[0].is_string() && m.has_vocab()) { // each of its tokens
            const auto text = entry[0].get<std::string>();
            for (const llama_token t : tokenize(m, text.data(), int32_t(text.size()), false, true)) {
                result.push_back({ t, float(bias) });
            }
        } else if (entry[0].is_number_integer() && entry[0] >= 0 && entry[0] < llama_vocab_n_tokens(m.vocab)) {
            result.push_back({ entry[0].get<llama_token>(), float(bias) });
        } else {
            throw fail();
        }
    }
    return result;
}

static void read_samplers(options & o, const model & m, common_params_sampling & s) {
    const json * given = o.value("samplers");
    if (!given) {
        return;
    }
    static const std::vector<common_sampler_type> known = {
        COMMON_SAMPLER_TYPE_PENALTIES, COMMON_SAMPLER_TYPE_DRY, COMMON_SAMPLER_TYPE_TOP_N_SIGMA, COMMON_SAMPLER_TYPE_TOP_K, COMMON_SAMPLER_TYPE_TYPICAL_P,
        COMMON_SAMPLER_TYPE_TOP_P, COMMON_SAMPLER_TYPE_MIN_P, COMMON_SAMPLER_TYPE_XTC, COMMON_SAMPLER_TYPE_TEMPERATURE, COMMON_SAMPLER_TYPE_INFILL,
        COMMON_SAMPLER_TYPE_ADAPTIVE_P,
    };
    s.samplers.clear();
    for (const auto & name : given->is_array() ? *given : json::array({ json() })) {
        const auto it = std::find_if(known.begin(), known.end(), [&](common_sampler_type t) { return name == common_sampler_type_to_str(t); });
        if (it == known.end()) {
            std::string names;
            for (const common_sampler_type t : known) {
                names += (names.empty() ? "" : ", ") + common_sampler_type_to_str(t);
            }
            throw o.error("samplers", "an array of names out of " + names);
        }
        if (*it == COMMON_SAMPLER_TYPE_INFILL && !m.has_vocab()) {
            throw o.error("samplers", "no infill: the model has no vocabulary");
        }
        s.samplers.push_back(*it);
    }
}

common_params_sampling read_sampling(options & o, const model & m) {
    common_params_sampling s;
    s.no_perf = true;

    const auto number  = [&](const char * key, float & value, double min, double max) { value = float(o.number(key, min, max).value_or(value)); };
    const auto integer = [&](const char * key, int32_t & value, int64_t min, int64_t max = INT32_MAX) { value = int32_t(o.integer(key, min, max).value_or(value)); };

    number ("temperature", s.temp, 0, FLT_MAX);
    number ("dynamicTemperatureRange",    s.dynatemp_range,    0, FLT_MAX);
    number ("dynamicTemperatureExponent", s.dynatemp_exponent, 0, FLT_MAX);
    integer("topK", s.top_k, 0);
    number ("topP", s.top_p, 0, 1);
    number ("minP", s.min_p, 0, 1);
    number ("typicalP", s.typ_p, 0, 1);
    number ("topNSigma", s.top_n_sigma, -1, FLT_MAX);
    number ("xtcProbability", s.xtc_probability, 0, 1);
    number ("xtcThreshold",   s.xtc_threshold,   0, 1);
    integer("minKeep", s.min_keep, 0);
    s.seed = uint32_t(o.integer("seed", 0, UINT32_MAX).value_or(s.seed));

    // its inverse must be finite too
    number ("repeatPenalty", s.penalty_repeat, 0.001, 1000);
    integer("repeatLastN", s.penalty_last_n, -1);
    number ("frequencyPenalty", s.penalty_freq, -FLT_MAX, FLT_MAX);
    number ("presencePenalty", s.penalty_present, -FLT_MAX, FLT_MAX);

    number ("dryMultiplier", s.dry_multiplier, 0, FLT_MAX);
    number ("dryBase", s.dry_base, 0, FLT_MAX);
    integer("dryAllowedLength", s.dry_allowed_length, 0);
    integer("dryLastN", s.dry_penalty_last_n, -1);
    if (const json * breakers = o.value("drySequenceBreakers")) {
        s.dry_sequence_breakers.clear();
        for (const auto & text : breakers->is_array() ? *breakers : json::array({ json() })) {
            if (!text.is_string() || text == "") {
                throw o.error("drySequenceBreakers", "an array of non-empty strings");
            }
            s.dry_sequence_breakers.push_back(text);
        }
    }
    if (s.dry_multiplier != 0 && !m.has_vocab()) {
        throw o.error("dryMultiplier", "0: the model has no vocabulary");
    }

    integer("mirostat", s.mirostat, 0, 2);
    number ("mirostatTau", s.mirostat_tau, 0, FLT_MAX);
    number ("mirostatEta", s.mirostat_eta, 0, FLT_MAX);
    number ("adaptiveTarget", s.adaptive_target, -1, 1);
    number ("adaptiveDecay",  s.adaptive_decay,   0, 0.99);

    read_samplers(o, m, s);
    s.logit_bias = read_logit_bias(o, m);
    s.ignore_eos = o.boolean("ignoreEos").value_or(false);
    if (s.ignore_eos) {
        for (llama_token t = 0; t < llama_vocab_n_tokens(m.vocab); t++) {
            if (llama_vocab_is_eog(m.vocab, t)) {
                s.logit_bias.push_back({ t, -INFINITY });
            }
        }
    }
    read_grammar(o, m, s);
    return s;
}

// --- samplers ---

static bool has(const common_params_sampling & s, common_sampler_type type) {
    return std::find(s.samplers.begin(), s.samplers.end(), type) != s.samplers.end();
}

// At temperature 0 the likeliest token is chosen, whatever the others that are left: looking for the largest logit is all there is to do. The samplers that
// could leave out that very token stay as they are.
static void simplify_greedy(common_params_sampling & s) {
    const bool may_leave_it_out = s.mirostat != 0 || (has(s, COMMON_SAMPLER_TYPE_TYPICAL_P) && s.typ_p < 1) || (has(s, COMMON_SAMPLER_TYPE_XTC) && s.xtc_probability > 0) ||
            has(s, COMMON_SAMPLER_TYPE_INFILL) || has(s, COMMON_SAMPLER_TYPE_ADAPTIVE_P);
    if (s.temp > 0 || s.dynatemp_range > 0 || !has(s, COMMON_SAMPLER_TYPE_TEMPERATURE) || may_leave_it_out) {
        return;
    }
    std::vector<common_sampler_type> kept;
    for (const common_sampler_type t : s.samplers) {
        if ((t == COMMON_SAMPLER_TYPE_PENALTIES && (s.penalty_repeat != 1 || s.penalty_freq != 0 || s.penalty_present != 0)) ||
                (t == COMMON_SAMPLER_TYPE_DRY && s.dry_multiplier != 0)) {
            kept.push_back(t);
        }
    }
    kept.push_back(COMMON_SAMPLER_TYPE_TOP_K);
    s.samplers = std::move(kept);
    s.top_k    = 1;
}

std::optional<largest_logit> largest_logit::where_it_is_all(common_params_sampling params) {
    simplify_greedy(params);
    const bool forbids_alone = std::all_of(params.logit_bias.begin(), params.logit_bias.end(), [](const llama_logit_bias & b) { return b.bias == -INFINITY; });
    if (params.samplers != std::vector { COMMON_SAMPLER_TYPE_TOP_K } || params.top_k != 1 || params.mirostat != 0 || !params.grammar.empty() || !params.reasoning_budget_start.empty() || !forbids_alone) {
        return {};
    }
    largest_logit result;
    for (const auto & b : params.logit_bias) {
        result.forbidden.push_back(b.token);
    }
    std::sort(result.forbidden.begin(), result.forbidden.end());
    return result;
}

llama_token largest_logit::operator()(const float * logits, llama_token n_vocab) const {
    llama_token best = LLAMA_TOKEN_NULL;
    for (llama_token t = 0; t < n_vocab; t++) {
        if ((best == LLAMA_TOKEN_NULL || logits[t] > logits[best]) && !std::binary_search(forbidden.begin(), forbidden.end(), t)) {
            best = t;
        }
    }
    return std::max(best, 0);
}

common_sampler_ptr make_sampler(const model & m, common_params_sampling params, size_t i, const std::vector<llama_token> & text, size_t n_ctx) {
    // -1 is the whole context, and no more than that can ever be looked back on
    for (int32_t * last_n : { &params.penalty_last_n, &params.dry_penalty_last_n }) {
        *last_n = *last_n < 0 ? int32_t(n_ctx) : std::min(*last_n, int32_t(n_ctx));
    }
    if (i > 0 && params.seed != LLAMA_DEFAULT_SEED) {
        params.seed += uint32_t(i);
        params.seed += params.seed == LLAMA_DEFAULT_SEED; // which means any
    }
    if (!params.grammar.empty()) {
        check_grammar(m, params);
    }
    simplify_greedy(params);

    common_sampler_ptr sampler;
    try {
        sampler.reset(common_sampler_init(m.ptr.get(), params));
    } catch (const std::exception & e) {
        throw job_error("grammar", params.generation_prompt.empty() ? std::string("the sampler cannot be made: ") + e.what() :
                "the grammar does not allow what the chat's template has put before the answer, " + excerpt(dump(params.generation_prompt), 80) + ", as the model's tokens");
    }

    // they look back on no more of the text than this
    const size_t n_back = size_t(std::max({ params.penalty_last_n, params.dry_penalty_last_n, params.n_prev }));
    for (auto t = text.end() - int64_t(std::min(n_back, text.size())); t != text.end(); ++t) {
        common_sampler_accept(sampler.get(), *t, /*is_generated=*/ false);
    }
    return sampler;
}

bool nothing_allowed(common_sampler * sampler) {
    const llama_token_data_array * candidates = common_sampler_get_candidates(sampler, /*do_sort=*/ false);
    return candidates->selected < 0 || candidates->data[candidates->selected].logit == -INFINITY;
}

std::vector<double> log_probabilities(const float * logits, size_t n_vocab, llama_token token, size_t n_top) {
    const double max = *std::max_element(logits, logits + n_vocab);
    double sum = 0;
    for (size_t i = 0; i < n_vocab; i++) {
        sum += std::exp(logits[i] - float(max));
    }
    const double norm = max + std::log(sum);

    n_top = std::min(n_top, n_vocab);
    std::vector<llama_token> order(n_vocab);
    if (n_top > 0) {
        std::iota(order.begin(), order.end(), 0);
        std::partial_sort(order.begin(), order.begin() + int64_t(n_top), order.end(),
                [&](llama_token a, llama_token b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); });
    }
    std::vector<double> result = { logits[token] - norm };
    for (size_t i = 0; i < n_top; i++) {
        result.push_back(order[i]);
        result.push_back(logits[order[i]] - norm);
    }
    return result;
}

} // namespace duo::abi
