#include "gate-text.h"

#include <algorithm>

namespace duo {

// Bytes of the UTF-8 sequence that the text starts with, 0 if it starts with none.
static size_t utf8_length(std::string_view s) {
    const auto byte = [&](size_t i) { return i < s.size() ? uint8_t(s[i]) : 0; };
    const uint8_t lead   = byte(0);
    const size_t  length = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
    for (size_t i = 1; i < length; ++i) {
        if ((byte(i) & 0xC0) != 0x80) {
            return 0;
        }
    }
    const bool overlong  = (lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xF0 && byte(1) < 0x90);
    const bool surrogate = lead == 0xED && byte(1) > 0x9F;
    const bool too_large = lead == 0xF4 && byte(1) > 0x8F;
    return overlong || surrogate || too_large ? 0 : length;
}

size_t find_not_utf8(std::string_view text) {
    for (size_t i = 0; i < text.size(); ) {
        const size_t length = utf8_length(text.substr(i, 4));
        if (length == 0) {
            return i;
        }
        i += length;
    }
    return std::string_view::npos;
}

std::string printable(std::string_view piece) {
    static const char digits[] = "0123456789abcdef";
    std::string out;
    while (!piece.empty()) {
        const uint8_t byte   = uint8_t(piece[0]);
        const size_t  length = utf8_length(piece);
        if (length == 0 || byte < 0x20 || byte == 0x7F) {
            out += { '\\', 'x', digits[byte >> 4], digits[byte & 15] };
        } else {
            out += piece.substr(0, length);
        }
        piece.remove_prefix(std::max<size_t>(length, 1));
    }
    return out;
}

std::string excerpt(std::string_view piece, size_t longest) {
    if (piece.size() <= longest) {
        return printable(piece);
    }
    while (longest > 0 && (piece[longest] & 0xC0) == 0x80) {
        --longest; // not within a character
    }
    return printable(piece.substr(0, longest)) + "... (" + std::to_string(piece.size()) + " bytes)";
}

void gate_text::fail(size_t offset, const std::string & problem) const {
    const std::string_view before = text.substr(0, offset);
    const size_t line_start = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
    const auto   line       = 1 + std::count(before.begin(), before.end(), '\n');
    const auto   column     = 1 + std::count_if(before.begin() + line_start, before.end(), [](char c) { return (c & 0xC0) != 0x80; });
    throw gate_error(printable(source) + ", line " + std::to_string(line) + ", column " + std::to_string(column) + ": " + problem);
}

bool clip_gate(double value, float & gate) {
    constexpr double overshoot = 0.01;
    if (!(value >= -overshoot && value <= 1 + overshoot)) {
        return false;
    }
    gate = value <= 0 ? 0.0f : value >= 1 ? 1.0f : float(value);
    return true;
}

} // namespace duo
