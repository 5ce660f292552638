// From a budget in bytes to a choice: which cache types, and how far each KV head sees.
#pragma once

#include "gate-pattern.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace duo {

// A window that hides nothing.
constexpr int32_t every_key = 0x3fffffff;

// What a context's cache takes, all sequences together.
struct cache_cost {
    std::vector<int32_t> n_head_kv; // [n_layer], those that have a gate

    // Types of rows to choose from, as ggml names them. Where losses are equal the earlier ones are taken.
    struct row_types {
        std::string k, v;
        double      loss = 0; // what rows of them lose, in the unit of the pattern's losses
    };
    std::vector<row_types> types;

    std::function<uint64_t(size_t i_types, int32_t il, int32_t window)> head_bytes; // of a head that sees so many recent keys, or every_key
    std::function<uint64_t(size_t i_types)>                             other_bytes; // of heads that have no gate
};

struct budget_selection {
    size_t   i_types = 0;
    std::vector<std::vector<int32_t>> windows; // [n_layer][n_head_kv]: recent keys that a head sees, or every_key
    uint64_t bytes = 0;
    double   loss  = 0; // the sum of what was measured of the types and of each head
    bool     measured = false; // the loss was; else gates have only ranked
};

// A type that leaves fewer than 9 of 10 of the answers right that f16 gets right breaks the model, whatever it saves.
bool breaks_model(const cache_type_loss & f16, const cache_type_loss & type);

// What loses least of what fits. Each head takes one of the windows that losses were measured with, or sees everything. Of heads and windows the
// choice is greedy by loss a byte on each head's convex hull, which is within one head's step of the least loss that fits. Throws gate_error where the
// shape is not the model's, or nothing fits.
budget_selection select_by_budget(const gate_pattern & pattern, const cache_cost & cost, uint64_t budget);

// The window that a head has where it streams.
using window_of = std::function<int32_t(int32_t il, int32_t ih)>;

// Of a pattern that only ranks heads: those with the lowest gates stream, in select_by_sparsity's order, until the first of the types fits. Throws as above.
budget_selection select_by_rank(const gate_pattern & pattern, const cache_cost & cost, const window_of & window, uint64_t budget);

} // namespace duo
