// Gate patterns: how much each KV head of a model needs its whole cache.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace duo {

// A pattern that cannot be used. what() names the source, the line and the column where there is one, the value, what was expected and what to do.
struct gate_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct gate_pattern {
    int32_t            n_layer   = 0;
    int32_t            n_head_kv = 0;  // the widest layer's; a narrower layer's rows end early in JSON, see gates
    std::vector<float> gates;          // [n_layer][n_head_kv], each in [0, 1]
    int32_t            sink      = -1; // what the gates were found with; -1: not said
    int32_t            recent    = -1;
    std::string        provenance;     // JSON object text, "" if none: model, method, data, seed, version, date
    std::string        source;         // for messages: the path, or "<json>"

    float at(int32_t il, int32_t ih) const { return gates[size_t(il) * n_head_kv + ih]; }
};

// Text of a pattern. What starts with '{' (after white space) is this project's JSON, anything else DuoAttention's TSV.
// Throws gate_error.
gate_pattern parse_gate_pattern(std::string_view text, const std::string & source);

// A DuoAttention folder (full_attention_heads.tsv and config.json), a TSV or a JSON file. Throws gate_error.
gate_pattern load_gate_pattern(const std::string & path);

// The pattern as this project's JSON, the form that parse_gate_pattern reads.
std::string gate_pattern_to_json(const gate_pattern & pattern);

} // namespace duo
