#include "head-selection.h"

#include "gate-text.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <string>

namespace duo {

// ---------------------------------------------------------------------------------------------------------------------
// Shapes
// ---------------------------------------------------------------------------------------------------------------------

// "8", or "4 to 8" where layers differ.
static std::string range(const std::vector<int32_t> & n_head) {
    if (n_head.empty()) {
        return "0";
    }
    const auto [least, most] = std::minmax_element(n_head.begin(), n_head.end());
    return (*least == *most ? "" : std::to_string(*least) + " to ") + std::to_string(*most);
}

void check_gate_shape(const gate_pattern & pattern, const std::vector<int32_t> & n_head_kv) {
    check_gate_pattern(pattern);

    std::vector<int32_t> n_head;
    for (int32_t il = 0; il < pattern.n_layer; ++il) {
        n_head.push_back(pattern.n_head(il));
    }
    if (n_head == n_head_kv) {
        return;
    }
    std::string message = printable(pattern.source) + ": the pattern has " + std::to_string(n_head.size()) + " layers x " + range(n_head) +
                          " KV heads, the model " + std::to_string(n_head_kv.size()) + " x " + range(n_head_kv);
    if (n_head.size() == n_head_kv.size()) {
        const auto il = std::mismatch(n_head.begin(), n_head.end(), n_head_kv.begin()).first - n_head.begin();
        message += "; layer " + std::to_string(il) + " has " + std::to_string(n_head[il]) + " in the pattern and " + std::to_string(n_head_kv[il]) + " in the model";
    }
    throw gate_shape_error(message + ". Use a pattern that was made for this model", n_head, n_head_kv);
}

// ---------------------------------------------------------------------------------------------------------------------
// Rules
// ---------------------------------------------------------------------------------------------------------------------

// ceil((n - 1) * sparsity), where a product that misses a whole number only because sparsity has no exact binary form counts as that number:
// of 11 heads, 0.3 streams 3, though 10 * 0.3f is a little more. The tolerance is a float's, since llama_duo_params holds one.
static size_t count_streaming(size_t n, double sparsity) {
    if (sparsity >= 1) {
        return n;
    }
    if (sparsity <= 0 || n == 0) {
        return 0;
    }
    const double exact = double(n - 1) * sparsity;
    return size_t(std::ceil(exact - exact * FLT_EPSILON));
}

std::vector<ranked_head> heads_by_gate(const gate_pattern & pattern, const std::vector<int32_t> & n_head_kv) {
    check_gate_shape(pattern, n_head_kv);

    std::vector<ranked_head> heads;
    for (int32_t il = 0; il < pattern.n_layer; ++il) {
        for (int32_t ih = 0; ih < pattern.n_head(il); ++ih) {
            heads.push_back({ il, ih });
        }
    }
    // stable, so equal gates stay in the order of (layer, head)
    std::stable_sort(heads.begin(), heads.end(), [&](const ranked_head & a, const ranked_head & b) { return pattern.at(a.il, a.ih) < pattern.at(b.il, b.ih); });
    return heads;
}

head_selection select_by_sparsity(const gate_pattern & pattern, const std::vector<int32_t> & n_head_kv, double sparsity) {
    if (std::isnan(sparsity)) {
        throw gate_error("sparsity is NaN; expected a number from 0 to 1. Give the share of KV heads that stream");
    }
    std::vector<ranked_head> heads = heads_by_gate(pattern, n_head_kv);
    heads.resize(count_streaming(heads.size(), sparsity));

    head_selection selection = select_all(n_head_kv, false);
    for (const ranked_head & h : heads) {
        selection.streaming[h.il][h.ih] = 1;
    }
    return selection;
}

head_selection select_by_threshold(const gate_pattern & pattern, const std::vector<int32_t> & n_head_kv, double threshold) {
    if (std::isnan(threshold)) {
        throw gate_error("threshold is NaN; expected a number from 0 to 1. Give the gate from which on a head keeps its whole cache");
    }
    check_gate_shape(pattern, n_head_kv);

    // as floats, like the gates: a gate written as 0.7 is kept at a threshold of 0.7
    const float kept = float(std::clamp(threshold, -1.0, 2.0));

    head_selection selection = select_all(n_head_kv, false);
    for (int32_t il = 0; il < pattern.n_layer; ++il) {
        for (int32_t ih = 0; ih < pattern.n_head(il); ++ih) {
            selection.streaming[il][ih] = pattern.at(il, ih) < kept;
        }
    }
    return selection;
}

head_selection select_all(const std::vector<int32_t> & n_head_kv, bool streaming) {
    head_selection selection;
    selection.n_layer   = int32_t(n_head_kv.size());
    selection.n_head_kv = n_head_kv;
    for (const int32_t n : n_head_kv) {
        selection.streaming.emplace_back(size_t(n), uint8_t(streaming));
    }
    return selection;
}

// ---------------------------------------------------------------------------------------------------------------------
// Counts
// ---------------------------------------------------------------------------------------------------------------------

uint32_t head_selection::n_streaming() const {
    uint32_t n = 0;
    for (const auto & layer : streaming) {
        n += uint32_t(std::count(layer.begin(), layer.end(), uint8_t(1)));
    }
    return n;
}

uint32_t head_selection::n_retrieval() const {
    uint32_t n = 0;
    for (const auto & layer : streaming) {
        n += uint32_t(layer.size());
    }
    return n - n_streaming();
}

} // namespace duo
