// The text of a gate pattern while it is read: its limits, and errors that say where.
#pragma once

#include "gate-pattern.h"
#include "utf8.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace duo {

// A pattern of the largest models we know (128 layers x 128 heads) is 400 kB of TSV. Beyond these limits the file is something else, and reading it
// would only cost memory.
constexpr size_t  max_gate_text   = 16 * 1024 * 1024; // bytes
constexpr int32_t max_gate_layers = 4096;
constexpr int32_t max_gate_heads  = 4096; // KV heads of one layer

struct gate_text {
    std::string_view    text;
    const std::string & source;

    // Throws gate_error: "source, line 3, column 27: problem". Lines and columns count from 1, columns in characters.
    [[noreturn]] void fail(size_t offset, const std::string & problem) const;
};

// Clips what an optimiser's last step left just outside [0, 1] (DuoAttention clamps before a step, never after the last one: published patterns
// go down to -0.0014). False for NaN and for values too far out to be that.
bool clip_gate(double value, float & gate);

gate_pattern parse_gate_tsv (const gate_text & in);
gate_pattern parse_gate_json(const gate_text & in);

// DuoAttention's config.json: fills in the sizes and where the pattern came from.
void read_duo_attention_config(const gate_text & in, gate_pattern & pattern);

} // namespace duo
