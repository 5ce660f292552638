#include "calibration.h"

#include "budget-selection.h"
#include "calibration-attention.h"
#include "calibration-bosch.h"
#include "calibration-passes.h"
#include "calibration-ranks.h"
#include "calibration-record.h"
#include "calibration-regression.h"
#include "calibration-rounding.h"
#include "duo-config.h"
#include "fnv1a.h"
#include "mixed-attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <memory>
#include <numeric>
#include <random>

namespace duo {

namespace {

struct head {
    int32_t il;
    int32_t ih;
};

class calibration {
public:
    calibration(llama_model * model, const calibration_params & params);

    calibration_result run();

private:
    using scores = std::vector<double>; // [n_head], of heads

    static constexpr size_t n_rounds = 4; // of method greedy

    scores ladder();
    void   measure_types();

    // A type of rows that was measured, and how much it disturbs a typical token.
    struct measured_type {
        cache_type_loss loss;
        double          disturbance; // root of the typical loss
    };

    measured_type measure_type(const duo_row_types & types, ggml_type type);
    void          measure_finer_layers(std::vector<measured_type> & k_types, const std::vector<int32_t> & layers);

    // Those that store rows, first the ones whose scores rounding of K disturbs most.
    std::vector<int32_t> layers_by_rounding();
    scores ablation(bool typical);
    scores greedy();
    scores random_masks();
    scores bosch();
    scores attention();

    // Of heads that see so much, from the record or measured.
    calibration_loss loss(const head_windows & windows);

    // Of rows of these types, every head seeing everything.
    calibration_loss type_loss(const duo_row_types & types);

    // From the record, or measured; n_tokens: what measuring reads.
    calibration_loss recorded(const std::string & key, size_t n_tokens, const std::function<calibration_passes::outputs()> & measure);

    // Every head seeing everything but this one.
    head_windows with(head_windows windows, const head & h, int32_t recent) const {
        windows[h.il][h.ih] = recent;
        return windows;
    }

    // Tokens that a method reads, for progress.
    size_t tokens_of(calibration_method method) const;

    size_t n_masks(size_t a_head) const { return params.n_masks > 0 ? size_t(params.n_masks) : a_head * heads.size(); }

    // How often a type that breaks the model is measured with some layers of a finer one: with 1, 2, 4 ... of them, but not with all.
    size_t n_finer_layers() const {
        size_t n = 0;
        for (size_t layers = 1; layers < n_head_kv.size(); layers *= 2) {
            n++;
        }
        return n;
    }

    bosch_params make_bosch_params() const;

    // Heads that method greedy has not windowed for good before a round.
    size_t heads_in_round(size_t round) const { return heads.size() - heads.size() * round / n_rounds; }

    size_t losses_of_rounds() const {
        size_t n = 0;
        for (size_t round = 0; round < n_rounds; ++round) {
            n += heads_in_round(round);
        }
        return n;
    }

    size_t tokens_of_loss() const { return n_tail + (params.strict ? result.n_context : 0); }

    // Tokens of so many losses after that of no mask, with contexts read so many times more.
    size_t tokens_of_losses(size_t n_losses, size_t n_contexts) const {
        return result.n_context + n_tail + n_tail + n_losses * tokens_of_loss() + (params.strict ? 0 : n_contexts * result.n_context);
    }

    // The contexts' rows are those of this mask from here on; they are computed once they are needed.
    void set_contexts(const head_windows & windows) { contexts = windows; }

    // Computes what a loss needs.
    void prepare();

    std::unique_ptr<calibration_passes> make_passes(const duo_row_types & types = {});

    void report(size_t n_tokens);

    llama_model *              model;
    const calibration_params & params;
    calibration_record         record;

    std::unique_ptr<calibration_passes> passes; // null until something has to be computed
    calibration_passes::outputs         full;   // with every head seeing everything
    head_windows                        contexts;         // the rows that measurements want
    head_windows                        contexts_in_cache; // those that are there; empty: none

    std::vector<int32_t> n_head_kv; // of each layer, those that have a gate
    std::vector<head>    heads;
    head_windows         none; // nothing windowed

    calibration_result result;
    size_t             n_tail  = 0; // tokens of the questions and answers that are read: the last answers' last ones are not
    size_t             n_done  = 0; // tokens, for progress
    size_t             n_total = 0;
};

// All that the measurements and their number depend on: two runs with the same line share them.
std::string describe(const calibration_params & p) {
    uint64_t hash = fnv1a(nullptr, 0);
    auto add = [&](uint64_t x) { hash = fnv1a(&x, sizeof(x), hash); };
    for (const auto & s : p.samples) {
        for (const llama_token t : s.tokens) {
            add(uint64_t(t));
        }
        add(s.n_context);
        for (const auto & [first, end] : s.answers) {
            add(first);
            add(end);
        }
    }
    char samples[17];
    snprintf(samples, sizeof(samples), "%016llx", (unsigned long long) hash);
    std::string windows, types;
    for (const int32_t w : p.windows) {
        windows += (windows.empty() ? "" : "/") + std::to_string(w);
    }
    for (const ggml_type t : p.types) {
        types += (types.empty() ? "" : "/") + std::string(ggml_type_name(t));
    }
    return record_magic + std::string("7, model ") + p.model_id + ", samples " + samples + ", method " + calibration_method_names()[size_t(p.method)] + ", sink " +
           std::to_string(p.sink) + ", recent " + std::to_string(p.recent) + ", strict " + std::to_string(p.strict) + ", masks " +
           std::to_string(p.n_masks) + ", seed " + std::to_string(p.seed) + ", windows " + (windows.empty() ? "-" : windows) + ", types " + (types.empty() ? "-" : types);
}

void check_samples(const llama_model * model, const calibration_params & p) {
    const auto fail = [](size_t i, const std::string & problem) {
        throw calibration_error(calibration_error::samples, "sample " + std::to_string(i) + ": " + problem);
    };
    if (p.samples.empty()) {
        throw calibration_error(calibration_error::samples, "there are no samples; expected at least one");
    }
    const size_t n_trained = size_t(llama_model_n_ctx_train(model));
    for (size_t i = 0; i < p.samples.size(); ++i) {
        const auto & s = p.samples[i];
        const size_t longest = p.method == calibration_method::kvzip ? std::max(s.tokens.size(), 2 * s.n_context) : s.tokens.size();
        if (longest > n_trained) {
            throw calibration_error(calibration_error::context, "sample " + std::to_string(i) + " takes " + std::to_string(longest) + " tokens, but the model was trained for " +
                    std::to_string(n_trained) + "; use shorter samples");
        }
        const int32_t recent = p.windows.empty() ? p.recent : p.windows.back();
        if (s.n_context <= size_t(p.sink) + size_t(recent)) {
            throw calibration_error(calibration_error::context, "sample " + std::to_string(i) + " has a context of " + std::to_string(s.n_context) +
                    " tokens, all of which a streaming head with " + std::to_string(p.sink) + " sinks and " + std::to_string(recent) +
                    " recent keys may see; use longer samples or a smaller window");
        }
        size_t after = s.n_context + 1;
        for (const auto & [first, end] : s.answers) {
            if (first < after || end <= first || end > s.tokens.size()) {
                fail(i, "the answer [" + std::to_string(first) + ", " + std::to_string(end) + ") is not within its questions' tokens [" +
                        std::to_string(after) + ", " + std::to_string(s.tokens.size()) + ")");
            }
            after = end;
        }
        if (s.answers.empty()) {
            fail(i, "it has no answers; expected at least one");
        }
    }
}

calibration::calibration(llama_model * model, const calibration_params & params) :
    model(model), params(params), record(params.partial, describe(params)) {
    n_head_kv = duo_gated_heads(*model);
    for (int32_t il = 0; il < int32_t(n_head_kv.size()); ++il) {
        none.emplace_back(size_t(n_head_kv[il]), GGML_MIXED_ATTN_ALL);
        for (int32_t ih = 0; ih < n_head_kv[il]; ++ih) {
            heads.push_back({ il, ih });
        }
    }
    if (heads.empty()) {
        throw calibration_error(calibration_error::unsupported,
                "none of the model's heads sees the whole context: it has sliding windows in every layer that attends, and nothing to calibrate");
    }
    contexts = none;
    for (const auto & s : params.samples) {
        result.n_context += s.n_context;
        n_tail           += s.tokens.size() - s.n_context - 1;
        for (const auto & [first, end] : s.answers) {
            result.n_answer += end - first;
        }
    }
}

void calibration::report(size_t n_tokens) {
    n_done += n_tokens;
    if (params.progress && n_tokens > 0) {
        params.progress(std::min(1.0, double(n_done) / double(std::max<size_t>(1, n_total))));
    }
}

size_t calibration::tokens_of(calibration_method method) const {
    switch (method) {
        case calibration_method::windows: {
            const size_t n_smaller = params.windows.size() - 1; // each measured for every head, and for those of the first rounds together
            return tokens_of_losses(losses_of_rounds() + n_rounds + 1 + n_smaller * (heads.size() + 1 + n_rounds / 2), n_rounds + (n_smaller > 0) + n_smaller * n_rounds / 2) +
                   2 * params.types.size() * (result.n_context + n_tail) +
                   (params.types.empty() ? 0 : (1 + n_finer_layers()) * (result.n_context + n_tail)); // one type breaks the model, or none does
        }
        case calibration_method::combined: return tokens_of(calibration_method::typical) + tokens_of(calibration_method::mass);
        case calibration_method::typical:
        case calibration_method::ablation: return tokens_of_losses(heads.size(), 0);
        case calibration_method::greedy:   return tokens_of_losses(losses_of_rounds(), n_rounds - 1);
        case calibration_method::masks:    return tokens_of_losses(n_masks(2), 0);
        case calibration_method::bosch:    return tokens_of_losses(bosch_losses(make_bosch_params()), std::size(bosch_ratios) - 1);
        case calibration_method::mass:     return result.n_context + n_tail;
        case calibration_method::kvzip:    return 2 * result.n_context;
        case calibration_method::mean_qk:  return result.n_context;
    }
    return 0;
}

std::unique_ptr<calibration_passes> calibration::make_passes(const duo_row_types & types) {
    passes.reset(); // there is memory for one
    contexts_in_cache.clear();
    auto p = std::make_unique<calibration_passes>(model, params, types);
    p->on_tokens = [this](size_t n) { report(n); };
    return p;
}

void calibration::prepare() {
    if (!passes) {
        passes = make_passes();
    }
    const auto read = [&](const head_windows & windows) {
        if (contexts_in_cache != windows) {
            passes->read_contexts(windows);
            contexts_in_cache = windows;
        }
    };
    if (full.logp.empty()) {
        read(none);
        full = passes->read_tails(none);
    }
    read(contexts);
}

calibration_error not_finite(const std::string & what) {
    return calibration_error(calibration_error::decode, "the model's " + what + " are not finite: the model is damaged, or made for other software");
}

// Names a loss in the record.
std::string key_of_loss(const head_windows & contexts, const head_windows & windows) {
    const auto hash = [](const head_windows & table) {
        uint64_t h = fnv1a(nullptr, 0);
        for (const auto & layer : table) {
            h = fnv1a(layer.data(), layer.size() * sizeof(layer[0]), h);
        }
        return h;
    };
    char key[64];
    snprintf(key, sizeof(key), "loss-%016llx-%016llx", (unsigned long long) hash(contexts), (unsigned long long) hash(windows));
    return key;
}

constexpr double least_mse = 1e-12; // below it differences mean nothing

calibration_loss calibration::loss(const head_windows & windows) {
    if (params.strict) {
        set_contexts(windows);
    }
    return recorded(key_of_loss(contexts, windows), tokens_of_loss(), [&] {
        prepare();
        return passes->read_tails(windows);
    });
}

calibration_loss calibration::type_loss(const duo_row_types & types) {
    std::string key = std::string("types-") + ggml_type_name(types.type_k) + "-" + ggml_type_name(types.type_v);
    for (const int32_t il : types.finer_layers) {
        key += (il == types.finer_layers[0] ? std::string("-") + ggml_type_name(types.finer_k) : "") + "-" + std::to_string(il);
    }
    return recorded(key, result.n_context + n_tail, [&] {
        if (full.logp.empty()) {
            prepare(); // what is compared with
        }
        passes = make_passes(types);
        passes->read_contexts(none);
        const auto out = passes->read_tails(none);
        passes.reset();
        return out;
    });
}

calibration_loss calibration::recorded(const std::string & key, size_t n_tokens, const std::function<calibration_passes::outputs()> & measure) {
    bool measured = false;
    const std::vector<double> v = record.get(key, 4, [&]() -> std::vector<double> {
        measured = true;
        const auto out = measure();
        const size_t n = out.logp.size(), n_embd = out.hidden.size() / n;
        std::vector<double> sums(4);
        for (size_t i = 0; i < n; ++i) {
            double squares = 0;
            for (size_t j = i * n_embd; j < (i + 1) * n_embd; ++j) {
                const double d = double(out.hidden[j]) - full.hidden[j];
                squares += d * d;
            }
            const double mse = squares / double(n_embd);
            sums[0] += mse;
            sums[1] += std::log(mse + least_mse);
            sums[2] += out.correct[i];
            sums[3] += std::max(0.0, std::exp(double(full.logp[i])) - std::exp(double(out.logp[i])));
        }
        for (double & x : sums) {
            x /= double(n);
        }
        return sums;
    });
    if (!std::isfinite(v[0])) {
        throw not_finite("hidden states");
    }
    result.n_passes++;
    if (!measured) {
        report(n_tokens);
    }
    return { v[0], v[1], v[2], v[3] };
}

// --- methods that measure losses ---

// What a typical token loses: the geometric mean of its squared difference.
static double typical(const calibration_loss & l) { return std::exp(l.log_mse); }

// Each head's loss at each window, as it adds to what is lost already, and that of each cache type: how much of its probability an answer's token loses. Probabilities
// tell a few tokens that come out wrong, as where a head does not see what is asked for, from all tokens being a little disturbed, as by a cache type, which takes
// nothing from a token that stays almost certain; log-probabilities count the second like the first.
//
// First the largest window, in rounds after each of which the quarter of the heads that loses least keeps it for good: what a head is worth depends on which
// others still see. A round's heads share what their going together was measured to lose, in proportion to what each typically loses: a head's own loss of a
// few tokens says little, the typical loss ranks but has no unit that a cache type, which disturbs all tokens a little, shares. No loss is less than that of heads
// that went in an earlier round, so that whoever adds up losses takes the heads in the same order. Then the smaller windows in the same manner, beside the half that
// has the largest.
calibration::scores calibration::ladder() {
    const size_t n_windows = params.windows.size();
    const int32_t largest  = params.windows.back();
    result.correct = loss(none).correct;

    std::vector<size_t> left(heads.size());
    std::iota(left.begin(), left.end(), 0);
    head_windows windows = none, half = none;
    std::vector<double> lost(n_rounds + 1); // after so many rounds
    std::vector<std::vector<std::pair<double, size_t>>> gone(n_rounds); // typical losses of the heads that went, rising
    for (size_t round = 0; round < n_rounds; ++round) {
        set_contexts(windows);
        const calibration_loss before = loss(windows);
        lost[round] = before.lost;
        std::vector<double> d;
        for (const size_t i : left) {
            const calibration_loss l = loss(with(windows, heads[i], largest));
            d.push_back(typical(l) - (round == 0 ? 0 : typical(before)));
        }
        if (round == 0) {
            d = beyond_rounding(d, n_head_kv);
        }
        std::vector<std::pair<double, size_t>> by_loss;
        for (size_t k = 0; k < left.size(); ++k) {
            by_loss.push_back({ std::max(d[k], 0.0), left[k] });
        }
        std::stable_sort(by_loss.begin(), by_loss.end(), [](const auto & a, const auto & b) { return a.first < b.first; });
        const size_t n_go = left.size() - heads_in_round(round + 1);
        left.clear();
        for (size_t k = 0; k < by_loss.size(); ++k) {
            const size_t i = by_loss[k].second;
            if (k < n_go) {
                gone[round].push_back(by_loss[k]);
                windows[heads[i].il][heads[i].ih] = largest;
            } else {
                left.push_back(i);
            }
        }
        std::sort(left.begin(), left.end()); // as the layers are
        if (round + 1 == n_rounds / 2) {
            half = windows;
        }
    }
    set_contexts(windows);
    lost[n_rounds] = loss(windows).lost;

    constexpr double order_step = 1e-7; // keeps heads apart that lose nothing that can be measured
    std::vector<double> at_largest(heads.size()), order(heads.size());
    double floor = 0, next = 0;
    for (size_t round = 0; round < n_rounds; ++round) {
        const double more = std::max(0.0, lost[round + 1] - lost[round]);
        const double sum = std::accumulate(gone[round].begin(), gone[round].end(), 0.0, [](double s, const auto & g) { return s + g.first; });
        double most = floor;
        for (const auto & [d, i] : gone[round]) {
            at_largest[i] = std::max(floor, sum > 0 ? more * d / sum : 0.0) + order_step * (1 + next);
            order[i]      = next++;
            most          = std::max(most, at_largest[i]);
        }
        floor = most;
    }

    gate_pattern & p = result.pattern;
    const size_t widest = size_t(*std::max_element(n_head_kv.begin(), n_head_kv.end()));
    p.loss_windows = params.windows;
    p.losses.assign(n_head_kv.size() * widest * n_windows, 0.0f);
    const auto loss_at = [&](size_t i, size_t w) -> float & { return p.losses[(size_t(heads[i].il) * widest + size_t(heads[i].ih)) * n_windows + w]; };
    for (size_t i = 0; i < heads.size(); ++i) {
        loss_at(i, n_windows - 1) = float(at_largest[i]);
    }

    // Smaller windows: heads of the first rounds share what their going together was measured to lose, in proportion to what each typically loses besides. A head of
    // a later round, which sees everything here, has no measured share: its typical loss becomes one by the ratio that all heads of the first rounds showed.
    std::vector<std::vector<double>> alone(n_windows - 1);
    double before = 0; // typical loss of the half
    for (size_t w = 0; w + 1 < n_windows; ++w) {
        set_contexts(half);
        before = typical(loss(half));
        for (const head & h : heads) {
            alone[w].push_back(std::max(0.0, typical(loss(with(half, h, params.windows[w]))) - before));
        }
    }
    for (size_t w = n_windows - 1; w-- > 0;) {
        head_windows together = half;
        double so_far = lost[n_rounds / 2], sum_alone = before;
        std::vector<double> besides(heads.size(), NAN);
        for (size_t round = 0; round < n_rounds / 2; ++round) {
            double sum = 0;
            for (const auto & [d, i] : gone[round]) {
                together[heads[i].il][heads[i].ih] = params.windows[w];
                sum += alone[w][i];
            }
            set_contexts(together); // what the heads do to the context's rows counts
            const double now = std::max(so_far, loss(together).lost);
            for (const auto & [d, i] : gone[round]) {
                besides[i] = (now - so_far) * (sum > 0 ? alone[w][i] / sum : 1.0 / double(gone[round].size()));
            }
            sum_alone += sum;
            so_far     = now;
        }
        for (size_t i = 0; i < heads.size(); ++i) {
            const bool   early = !std::isnan(besides[i]);
            const double d     = early ? at_largest[i] + besides[i] : alone[w][i] * std::max(so_far, order_step) / sum_alone;
            loss_at(i, w) = std::max(loss_at(i, w + 1), float(std::min(1.0, d)));
        }
    }

    measure_types();
    return order;
}

// Each cache type's, for K and for V.
void calibration::measure_types() {
    if (params.types.empty()) {
        return;
    }
    set_contexts(none);
    const std::vector<int32_t> layers = layers_by_rounding();
    std::vector<measured_type> measured[2]; // of K, of V
    for (const bool of_v : { false, true }) {
        measured[of_v].push_back({ { ggml_type_name(GGML_TYPE_F16), 0.0f, float(result.correct) }, 0.0 });
        for (const ggml_type t : params.types) {
            llama_context_params context = llama_context_default_params();
            (of_v ? context.type_v : context.type_k) = t;
            if (duo_unsupported(model, context).empty()) { // else its blocks don't divide the model's heads
                measured[of_v].push_back(measure_type({ context.type_k, context.type_v }, t));
            }
        }
    }
    measure_finer_layers(measured[false], layers);
    report(n_total - std::min(n_done, n_total)); // where no type breaks the model

    // What a type that does not break the model loses of the tokens' probability is little, and told by a few of them. How much it disturbs a typical token is told by all.
    // So such types lose in proportion to that, at the rate that they show together (least squares).
    double lost = 0, squares = 0;
    const auto each_bearable = [&](const std::function<void(measured_type &)> & see) {
        for (auto & types : measured) {
            for (measured_type & t : types) {
                if (!breaks_model(types[0].loss, t.loss)) {
                    see(t);
                }
            }
        }
    };
    each_bearable([&](measured_type & t) {
        lost    += t.loss.loss * t.disturbance;
        squares += t.disturbance * t.disturbance;
    });
    each_bearable([&](measured_type & t) { t.loss.loss = float(squares > 0 ? lost / squares * t.disturbance : 0.0); });
    for (const bool of_v : { false, true }) {
        for (const measured_type & t : measured[of_v]) {
            (of_v ? result.pattern.v_types : result.pattern.k_types).push_back(t.loss);
        }
    }
}

calibration::measured_type calibration::measure_type(const duo_row_types & types, ggml_type type) {
    const calibration_loss l = type_loss(types);
    return { { ggml_type_name(type), float(l.lost), float(l.correct) }, std::sqrt(typical(l)) };
}

std::vector<int32_t> calibration::layers_by_rounding() {
    const auto errors = record.get("rounding", n_head_kv.size(), [&] {
        prepare();
        return score_errors(*passes, none);
    });
    std::vector<int32_t> layers;
    for (size_t il = 0; il < errors.size(); ++il) {
        if (errors[il] > 0) {
            layers.push_back(int32_t(il));
        }
    }
    std::stable_sort(layers.begin(), layers.end(), [&](int32_t a, int32_t b) { return errors[a] > errors[b]; });
    return layers;
}

// A type of K that breaks the model may do so by a few layers alone: Qwen2.5's first layers have keys so long that 4 bits tell none from another. So it is measured
// again with 1, 2, 4 ... layers' rows of the coarsest type that does not break the model: those whose scores rounding disturbs most.
void calibration::measure_finer_layers(std::vector<measured_type> & k_types, const std::vector<int32_t> & layers) {
    std::vector<ggml_type> breaking;
    ggml_type finer = GGML_TYPE_F16;
    for (const measured_type & t : k_types) {
        const ggml_type type = duo_type_named(t.loss.type);
        if (breaks_model(k_types[0].loss, t.loss)) {
            breaking.push_back(type);
        } else if (ggml_row_size(type, 256) < ggml_row_size(finer, 256)) { // 256: every type's blocks divide it
            finer = type;
        }
    }
    for (const ggml_type type : breaking) {
        if (ggml_row_size(type, 256) >= ggml_row_size(finer, 256)) {
            continue; // a coarser one does not break the model
        }
        for (size_t n = 1; n < layers.size(); n *= 2) {
            duo_row_types mixed = { type, GGML_TYPE_F16, finer, { layers.begin(), layers.begin() + n } };
            std::sort(mixed.finer_layers.begin(), mixed.finer_layers.end());
            k_types.push_back(measure_type(mixed, type));
            k_types.back().loss.finer        = ggml_type_name(finer);
            k_types.back().loss.finer_layers = mixed.finer_layers;
        }
    }
}

// A few tokens where windowing any head changes much can outweigh all others in a mean of squares, and other texts have other such tokens. The mean of
// logarithms gives every token the same say, so that seeds agree on heads that matter little; heads that matter much stand out in both.
calibration::scores calibration::ablation(bool by_typical) {
    result.correct = loss(none).correct;

    scores s;
    for (const head & h : heads) {
        const calibration_loss l = loss(with(none, h, params.recent));
        s.push_back(by_typical ? typical(l) : l.mse);
    }
    return s;
}

// Four rounds, after each of which a quarter of the heads is windowed for good. A head's score is the order in which it went.
calibration::scores calibration::greedy() {
    result.correct = loss(none).correct;

    std::vector<size_t> left(heads.size());
    std::iota(left.begin(), left.end(), 0);

    scores    s(heads.size());
    head_windows windows = none;
    double       next    = 0;
    for (size_t round = 0; round < n_rounds; ++round) {
        // what the heads that are windowed for good do to the context's rows counts from here on
        set_contexts(windows);
        std::vector<std::pair<double, size_t>> order;
        for (const size_t i : left) {
            order.push_back({ loss(with(windows, heads[i], params.recent)).log_mse, i });
        }
        std::sort(order.begin(), order.end());
        const size_t n_keep = heads_in_round(round + 1);
        left.clear();
        for (size_t k = 0; k < order.size(); ++k) {
            const size_t i = order[k].second;
            if (order.size() - k <= n_keep) {
                left.push_back(i);
            } else {
                windows[heads[i].il][heads[i].ih] = params.recent;
                s[i] = next++;
            }
        }
    }
    return s;
}

// Ridge regression of the typical loss on random masks. Masks come in pairs that window opposite halves of the heads, so that effects that only count how many are
// windowed cancel out.
calibration::scores calibration::random_masks() {
    const size_t n_mask = n_masks(2);
    result.correct = loss(none).correct;

    std::mt19937_64 rng(params.seed);
    std::vector<std::vector<double>> x; // [n_mask][n_head], 1: windowed, -1: not
    std::vector<double>              y;
    std::vector<size_t>              order(heads.size());
    std::iota(order.begin(), order.end(), 0);
    for (size_t m = 0; m < n_mask; ++m) {
        if (m % 2 == 0) {
            for (size_t i = order.size(); i > 1; --i) { // std::shuffle's order is each library's own
                std::swap(order[i - 1], order[rng() % i]);
            }
        }
        head_windows mask = none;
        x.emplace_back(heads.size(), -1.0);
        for (size_t k = 0; k < order.size(); ++k) {
            if ((k < order.size() / 2) == (m % 2 == 0)) {
                mask[heads[order[k]].il][heads[order[k]].ih] = params.recent;
                x.back()[order[k]] = 1.0;
            }
        }
        y.push_back(loss(mask).log_mse);
    }
    return ridge_regression(x, y, [&] {
        if (params.cancelled && params.cancelled()) {
            throw calibration_cancelled();
        }
    });
}

bosch_params calibration::make_bosch_params() const {
    bosch_params p;
    p.n_head_kv = n_head_kv;
    p.n_trials  = n_masks(4);
    p.seed      = params.seed;
    return p;
}

// A head's score is the order in which it goes. What is lost is what method windows measures.
calibration::scores calibration::bosch() {
    result.correct = loss(none).correct;

    const auto windows_of = [&](const windowed_heads & windowed) {
        head_windows windows = none;
        for (size_t i = 0; i < heads.size(); ++i) {
            if (windowed[i]) {
                windows[heads[i].il][heads[i].ih] = params.recent;
            }
        }
        return windows;
    };
    bosch_params p = make_bosch_params();
    p.settle = [&](const windowed_heads & windowed) { set_contexts(windows_of(windowed)); };
    p.loss   = [&](const windowed_heads & windowed) { return loss(windows_of(windowed)).lost; };
    const scores order = bosch_order(p);
    report(n_total - std::min(n_done, n_total)); // a ratio whose layers give all or nothing has nothing to search for
    return order;
}

// --- methods that look at attention ---

calibration::scores calibration::attention() {
    const auto v = record.get("attention", heads.size(), [&] {
        passes = make_passes();
        const auto seen = attention_scores(*passes, n_head_kv, params);
        if (seen.size() != heads.size()) {
            throw calibration_error(calibration_error::decode, "the model's attention was not seen in every layer");
        }
        return seen;
    });
    if (!std::all_of(v.begin(), v.end(), [](double x) { return std::isfinite(x); })) {
        throw not_finite("attention weights");
    }
    result.n_passes++;
    return v;
}

// --- result ---

calibration_result calibration::run() {
    n_total = tokens_of(params.method);
    scores s;
    switch (params.method) {
        case calibration_method::windows:  s = ladder();        break;
        case calibration_method::combined: {
            const auto by_loss = ranks(beyond_rounding(ablation(true), n_head_kv));
            s = larger_ranks(by_loss, ranks(attention()));
            break;
        }
        case calibration_method::typical:  s = ablation(true);  break;
        case calibration_method::ablation: s = ablation(false); break;
        case calibration_method::greedy:   s = greedy();        break;
        case calibration_method::masks:    s = random_masks();  break;
        case calibration_method::bosch:    s = bosch();         break;
        case calibration_method::mass:
        case calibration_method::kvzip:
        case calibration_method::mean_qk:  s = attention();     break;
    }

    gate_pattern & p = result.pattern;
    p.n_layer   = int32_t(n_head_kv.size());
    p.n_head_kv = *std::max_element(n_head_kv.begin(), n_head_kv.end());
    p.sink      = params.sink;
    p.recent    = params.windows.empty() ? params.recent : params.windows.back();
    p.gates.assign(size_t(p.n_layer) * p.n_head_kv, 0.0f);
    if (std::any_of(n_head_kv.begin(), n_head_kv.end(), [&](int32_t n) { return n != p.n_head_kv; })) {
        p.n_head_layer = n_head_kv;
    }
    result.scores.assign(p.gates.size(), 0.0);
    const auto r = ranks(s);
    for (size_t i = 0; i < heads.size(); ++i) {
        const size_t at = size_t(heads[i].il) * p.n_head_kv + heads[i].ih;
        p.gates[at]       = float(r[i]);
        result.scores[at] = s[i];
    }
    result.n_tail = n_tail;
    return std::move(result);
}

} // namespace

const std::vector<std::string> & calibration_method_names() {
    static const std::vector<std::string> names = { "windows", "combined", "typical", "ablation", "greedy", "masks", "bosch", "mass", "kvzip", "mean-qk" };
    return names;
}

calibration_result calibrate(llama_model * model, const calibration_params & params) {
    check_samples(model, params);
    return calibration(model, params).run();
}

} // namespace duo
