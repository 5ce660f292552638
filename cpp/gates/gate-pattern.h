// Gate patterns: how much each KV head of a model needs its whole cache.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace duo {

// A pattern that cannot be used. what() names the source, the line and the column where there is one, the value, what was expected and what to do.
// It is valid UTF-8 on one line, whatever the input was.
struct gate_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A pattern of another model.
struct gate_shape_error : gate_error {
    gate_shape_error(const std::string & message, std::vector<int32_t> pattern, std::vector<int32_t> model)
        : gate_error(message), pattern(std::move(pattern)), model(std::move(model)) {}

    std::vector<int32_t> pattern;  // [n_layer], KV heads of each layer
    std::vector<int32_t> model;
};

// What rows of a cache type lose, where all K, or all V, are of it and every head sees everything.
struct cache_type_loss {
    std::string type;        // ggml's name of it
    float       loss    = 0; // in the unit of a head's losses
    float       correct = 0; // share of the answers' tokens that are the likeliest

    // Of K: layers whose rows are of a finer type, without which the type would break the model. None: no layer's.
    std::string          finer        = {};
    std::vector<int32_t> finer_layers = {}; // rising
};

// What all rows being of a type loses; null where that was not measured.
const cache_type_loss * find_type(const std::vector<cache_type_loss> & types, const std::string & type);

struct gate_pattern {
    int32_t              n_layer   = 0;
    int32_t              n_head_kv = 0;  // the widest layer's
    std::vector<float>   gates;          // [n_layer][n_head_kv], each in [0, 1]; what lies beyond a narrower layer's heads is 0 and never read
    std::vector<int32_t> n_head_layer;   // [n_layer], KV heads of each layer, 0 where it has no attention; empty: n_head_kv in all of them
    int32_t              sink      = -1; // what the gates were found with; -1: not said
    int32_t              recent    = -1;
    std::vector<int32_t> windows;        // as gates: the recent keys that each head sees where it streams; empty: recent, for all
    std::vector<int32_t> sinks;          // [n_layer], the first keys that streaming heads of each layer see; empty: sink, for all
    std::vector<int32_t> loss_windows;   // rising: windows that a loss was measured with, each head alone seeing no more than that; empty: none was
    std::vector<float>   losses;         // [n_layer][n_head_kv][loss_windows]; its unit is the method's
    std::vector<cache_type_loss> k_types; // measured like the losses; the first is f16. Empty: none was
    std::vector<cache_type_loss> v_types;
    std::string          provenance;     // JSON object text, "" if none: model, method, data, seed, version, date
    std::string          source = "<gates>"; // for messages: the path, if it came from one

    float   at    (int32_t il, int32_t ih) const { return gates  [size_t(il) * n_head_kv + ih]; }
    int32_t window(int32_t il, int32_t ih) const { return windows[size_t(il) * n_head_kv + ih]; }
    float   loss  (int32_t il, int32_t ih, size_t i) const { return losses[(size_t(il) * n_head_kv + ih) * loss_windows.size() + i]; }
    int32_t n_head(int32_t il)         const { return n_head_layer.empty() ? n_head_kv : n_head_layer[il]; }
};

// Windows and sinks that a pattern may have: more than any context holds.
constexpr int32_t max_gate_window = 1 << 29;

// Windows, and cache types, that losses may be measured with.
constexpr size_t max_loss_windows = 64;
constexpr size_t max_loss_types   = 64;

// Text of a pattern. What starts with '{' (after white space) is this project's JSON, anything else DuoAttention's TSV, which says no sizes.
// Values at most 0.01 outside [0, 1] are clipped. Throws gate_error.
gate_pattern parse_gate_pattern(std::string_view text, const std::string & source);

// A DuoAttention folder (full_attention_heads.tsv and, if there, config.json), a TSV or JSON file, or a GGUF model with a pattern in it. The path is UTF-8. Throws gate_error.
gate_pattern load_gate_pattern(const std::string & path);

// The pattern as this project's JSON, the form that parse_gate_pattern reads: the same numbers to the bit. Its version is the oldest that can say all of it.
// Throws gate_error as check_gate_pattern does.
std::string gate_pattern_to_json(const gate_pattern & pattern);

// For patterns that the functions above did not make: throws gate_error unless shape and values are what the struct says.
void check_gate_pattern(const gate_pattern & pattern);

} // namespace duo
