#include "utf8.h"

#include <cstdint>

namespace duo {

static bool is_continuation(char c) {
    return (uint8_t(c) & 0xC0) == 0x80;
}

// Whether a character that begins with lead can go on with second: rules out overlong forms, surrogates and what lies above U+10FFFF.
static bool may_follow(uint8_t lead, uint8_t second) {
    const uint8_t min = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const uint8_t max = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    return second >= min && second <= max;
}

utf8_start utf8_begin(std::string_view text) {
    const uint8_t lead = uint8_t(text[0]);
    utf8_start s = { size_t(lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0), 1 };
    while (s.fit < s.length && s.fit < text.size() && (s.fit == 1 ? may_follow(lead, uint8_t(text[1])) : is_continuation(text[s.fit]))) {
        s.fit++;
    }
    return s;
}

size_t find_not_utf8(std::string_view text) {
    for (size_t i = 0; i < text.size();) {
        const auto s = utf8_begin(text.substr(i));
        if (!s.whole()) {
            return i;
        }
        i += s.length;
    }
    return std::string_view::npos;
}

size_t utf8_cut(std::string_view text, size_t max) {
    if (text.size() <= max) {
        return text.size();
    }
    while (max > 0 && is_continuation(text[max])) {
        max--;
    }
    return max;
}

std::string printable(std::string_view piece) {
    static const char digits[] = "0123456789abcdef";
    std::string out;
    while (!piece.empty()) {
        const uint8_t byte = uint8_t(piece[0]);
        const auto    s    = utf8_begin(piece);
        const size_t  n    = s.whole() ? s.length : 1;
        if (!s.whole() || byte < 0x20 || byte == 0x7F) {
            out += { '\\', 'x', digits[byte >> 4], digits[byte & 15] };
        } else {
            out += piece.substr(0, n);
        }
        piece.remove_prefix(n);
    }
    return out;
}

std::string excerpt(std::string_view piece, size_t longest) {
    if (piece.size() <= longest) {
        return printable(piece);
    }
    return printable(piece.substr(0, utf8_cut(piece, longest))) + "... (" + std::to_string(piece.size()) + " bytes)";
}

} // namespace duo
