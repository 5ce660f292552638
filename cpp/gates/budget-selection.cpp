#include "budget-selection.h"

#include "gate-text.h"
#include "head-selection.h"

#include <algorithm>
#include <optional>

namespace duo {

namespace {

struct option {
    int32_t  window;
    uint64_t bytes;
    double   loss;
};

// From one option of a head to the next that is worth taking.
struct step {
    int32_t  il, ih;
    option   from, to;
    double loss_per_byte() const { return (to.loss - from.loss) / double(from.bytes - to.bytes); }
};

// Everything, and each window that was measured, as bytes fall.
std::vector<option> options_of(const gate_pattern & pattern, const cache_cost & cost, size_t i_types, int32_t il, int32_t ih) {
    std::vector<option> options = { { every_key, cost.head_bytes(i_types, il, every_key), 0.0 } };
    for (size_t w = pattern.loss_windows.size(); w-- > 0;) {
        const int32_t window = pattern.loss_windows[w];
        options.push_back({ window, cost.head_bytes(i_types, il, window), std::max(0.0, double(pattern.loss(il, ih, w))) });
    }
    return options;
}

// The lower convex hull of loss over bytes, from everything on: between its points no option is worth its bytes.
std::vector<step> hull_of(int32_t il, int32_t ih, const std::vector<option> & options) {
    std::vector<step> hull;
    for (const option & next : options) {
        while (!hull.empty() && next.bytes < hull.back().to.bytes && step { il, ih, hull.back().to, next }.loss_per_byte() < hull.back().loss_per_byte()) {
            hull.pop_back();
        }
        const option & from = hull.empty() ? options[0] : hull.back().to;
        if (next.bytes < from.bytes) {
            hull.push_back({ il, ih, from, next });
        }
    }
    return hull;
}

std::optional<budget_selection> select_with_types(const gate_pattern & pattern, const cache_cost & cost, size_t i_types, uint64_t budget, uint64_t & least) {
    budget_selection s;
    s.i_types  = i_types;
    s.measured = true;
    s.loss     = cost.types[i_types].loss;
    s.bytes    = cost.other_bytes(i_types);

    std::vector<step> steps;
    for (int32_t il = 0; il < pattern.n_layer; ++il) {
        s.windows.emplace_back(size_t(pattern.n_head(il)), every_key);
        for (int32_t ih = 0; ih < pattern.n_head(il); ++ih) {
            const auto options = options_of(pattern, cost, i_types, il, ih);
            const auto hull    = hull_of(il, ih, options);
            s.bytes += options[0].bytes;
            steps.insert(steps.end(), hull.begin(), hull.end());
        }
    }
    // stable, so that equal steps stay in the order of (layer, head), and a head's own in that of its hull
    std::stable_sort(steps.begin(), steps.end(), [](const step & a, const step & b) { return a.loss_per_byte() < b.loss_per_byte(); });

    const auto take = [&](const step & t, const option & to, const option & from) {
        s.windows[t.il][t.ih] = to.window;
        s.bytes += to.bytes - from.bytes; // unsigned, and so right where it falls
        s.loss  += to.loss - from.loss;
    };
    size_t n_taken = 0;
    for (; n_taken < steps.size() && s.bytes > budget; ++n_taken) {
        take(steps[n_taken], steps[n_taken].to, steps[n_taken].from);
    }
    least = std::min(least, s.bytes);
    if (s.bytes > budget) {
        return std::nullopt;
    }
    // The last step may have saved more than was asked for: what costs most comes back where it fits.
    for (size_t i = n_taken; i-- > 0;) {
        const step & t = steps[i];
        if (s.windows[t.il][t.ih] == t.to.window && s.bytes + (t.from.bytes - t.to.bytes) <= budget) {
            take(t, t.from, t.to);
        }
    }
    return s;
}

gate_error too_small(const gate_pattern & pattern, uint64_t budget, const std::string & how, uint64_t least) {
    return gate_error(printable(pattern.source) + ": a budget of " + std::to_string(budget) + " bytes is too small for this context: " + how + " the cache takes at least " +
                      std::to_string(least) + ". Give a larger budget, a smaller context, cache types of fewer bits, or smaller windows");
}

} // namespace

bool breaks_model(const cache_type_loss & f16, const cache_type_loss & type) {
    return type.correct < 0.9f * f16.correct;
}

budget_selection select_by_budget(const gate_pattern & pattern, const cache_cost & cost, uint64_t budget) {
    check_gate_shape(pattern, cost.n_head_kv);

    std::optional<budget_selection> best;
    uint64_t least = UINT64_MAX;
    for (size_t i = 0; i < cost.types.size(); ++i) {
        const auto s = select_with_types(pattern, cost, i, budget, least);
        if (s && (!best || s->loss < best->loss)) {
            best = s;
        }
    }
    if (!best) {
        throw too_small(pattern, budget, "with the cache types to choose from", least);
    }
    return *best;
}

budget_selection select_by_rank(const gate_pattern & pattern, const cache_cost & cost, const window_of & window, uint64_t budget) {
    budget_selection s;
    s.bytes = cost.other_bytes(0);
    const std::vector<ranked_head> heads = heads_by_gate(pattern, cost.n_head_kv);
    for (const int32_t n : cost.n_head_kv) {
        s.bytes += uint64_t(n) * cost.head_bytes(0, int32_t(s.windows.size()), every_key);
        s.windows.emplace_back(size_t(n), every_key);
    }
    for (auto h = heads.begin(); h != heads.end() && s.bytes > budget; ++h) {
        s.windows[h->il][h->ih] = window(h->il, h->ih);
        s.bytes += cost.head_bytes(0, h->il, s.windows[h->il][h->ih]) - cost.head_bytes(0, h->il, every_key); // unsigned, and so right where it falls
    }
    if (s.bytes > budget) {
        throw too_small(pattern, budget, "with K rows of " + cost.types[0].k + ", V rows of " + cost.types[0].v + " and every head streaming", s.bytes);
    }
    return s;
}

} // namespace duo
