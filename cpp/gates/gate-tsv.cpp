// DuoAttention's TSV: a layer a line, a KV head a column, no header, as np.savetxt(delimiter="\t") writes it.
#include "gate-text.h"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace duo {

// Throws what a reader of the message can act on, for a cell that is not a gate.
[[noreturn]] static void fail_cell(const gate_text & in, size_t start, std::string_view cell, size_t index, size_t n_cell) {
    const std::string place = "cell " + std::to_string(index + 1) + " of " + std::to_string(n_cell);
    const std::string which = place + ", \"" + excerpt(cell) + "\", ";
    if (cell.empty()) {
        in.fail(start, place + " is empty; expected a number from 0 to 1. Write one, or remove the extra tab");
    }
    const size_t bad = cell.find_first_not_of("0123456789+-.eE");
    if (bad != std::string_view::npos) {
        const unsigned char c = cell[bad];
        const std::string   holds = which + "holds ";
        if (c == 0) {
            in.fail(start + bad, holds + "a NUL byte; expected plain text. Save the file as UTF-8 (this may be UTF-16 or a binary file)");
        }
        if (c == ' ') {
            in.fail(start + bad, holds + "a space; expected numbers with one tab between them. Replace the spaces by tabs");
        }
        if (c == ',') {
            in.fail(start + bad, holds + "a comma; expected numbers like 0.5 with one tab between them. "
                                         "Write decimal points, not commas, and tabs between the numbers");
        }
        if (c < 0x20 || c == 0x7F) {
            in.fail(start + bad, holds + "a control character; expected plain text with lines that end in LF or CRLF. Save the file so");
        }
        if (c >= 0x80) {
            in.fail(start + bad, holds + "a character that is not ASCII; expected plain digits, '.', 'e', '+' and '-'. Save the file as UTF-8 and retype this number");
        }
    }
    float      ignored;
    const auto number = nlohmann::json::parse(cell, nullptr, false);
    if (number.is_number() && !clip_gate(number.get<double>(), ignored)) {
        in.fail(start, which + "is out of range; expected a number from 0 to 1. Check that these are gates, not scores or logits");
    }
    in.fail(start, which + "is not a number; expected one from 0 to 1, like 0.5 or 8.59375e-01. "
                           "The file has no header, no comments, and no NaN or infinity: write the gate itself");
}

// A cell is a JSON number. The JSON parser reads it because it does so alike in every locale and on every compiler: std::from_chars for floating
// point is missing from the libc++ of older Macs, and strtod follows the locale.
static bool parse_cell(std::string_view cell, float & gate) {
    if (cell.empty() || cell.find_first_not_of("0123456789+-.eE") != std::string_view::npos) {
        return false;
    }
    const auto number = nlohmann::json::parse(cell, nullptr, false);
    return number.is_number() && clip_gate(number.get<double>(), gate);
}

gate_pattern parse_gate_tsv(const gate_text & in) {
    gate_pattern pattern;
    for (size_t line = 0; line < in.text.size(); ) {
        const size_t     next = std::min(in.text.find('\n', line), in.text.size());
        std::string_view row  = in.text.substr(line, next - line);
        if (!row.empty() && row.back() == '\r') {
            row.remove_suffix(1);
        }
        if (row.empty()) {
            in.fail(line, "this line is empty; expected the gates of layer " + std::to_string(pattern.n_layer) + ". Remove the line");
        }
        if (pattern.n_layer == max_gate_layers) {
            in.fail(line, "more than " + std::to_string(max_gate_layers) + " lines; expected one a layer. Check that this is a gate pattern");
        }

        const size_t n_cell = 1 + std::count(row.begin(), row.end(), '\t');
        const size_t wanted = pattern.n_layer == 0 ? n_cell : size_t(pattern.n_head_kv);
        size_t start = 0;
        for (size_t index = 0; index < n_cell; ++index) {
            if (index == size_t(max_gate_heads)) {
                in.fail(line + start, "more than " + std::to_string(max_gate_heads) + " cells in a row; expected one a KV head. Check that this is a gate pattern");
            }
            if (index == wanted) {
                break;
            }
            const size_t           end  = std::min(row.find('\t', start), row.size());
            const std::string_view cell = row.substr(start, end - start);
            float gate = 0;
            if (!parse_cell(cell, gate)) {
                fail_cell(in, line + start, cell, index, n_cell);
            }
            pattern.gates.push_back(gate);
            start = end + 1;
        }
        if (n_cell != wanted) {
            // points at the first cell too many, or at the end of the line where the missing one would stand
            in.fail(line + std::min(start, row.size()), "this row has " + std::to_string(n_cell) + " cells, the first row " + std::to_string(wanted) +
                    "; expected one a KV head, as many in every row. Complete the file, or use a JSON pattern if the layers do differ");
        }

        pattern.n_head_kv = int32_t(n_cell);
        pattern.n_layer++;
        line = next + 1;
    }
    return pattern;
}

} // namespace duo
