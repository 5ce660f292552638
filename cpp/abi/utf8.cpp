#include "utf8.h"

#include <cstdint>

namespace duo::abi {

static const char replacement[] = "\xEF\xBF\xBD";

static bool is_continuation(char c) {
    return (uint8_t(c) & 0xC0) == 0x80;
}

size_t utf8_cut(const std::string & text, size_t max) {
    if (text.size() <= max) {
        return text.size();
    }
    while (max > 0 && is_continuation(text[max])) {
        max--;
    }
    return max;
}

// Bytes of a character that begins with this byte; 0: none does.
static size_t length_of(uint8_t lead) {
    return lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
}

// Whether a character that begins with lead can go on with second: rules out overlong forms, surrogates and what lies above U+10FFFF.
static bool may_follow(uint8_t lead, uint8_t second) {
    const uint8_t min = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const uint8_t max = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    return second >= min && second <= max;
}

std::string utf8_assembler::feed(const std::string & bytes) {
    const std::string in = held + bytes;
    held.clear();

    std::string out;
    for (size_t i = 0; i < in.size();) {
        const uint8_t lead = uint8_t(in[i]);
        const size_t  len  = length_of(lead);

        size_t n = 1;  // bytes that fit together
        while (n < len && i + n < in.size() && (n == 1 ? may_follow(lead, uint8_t(in[i + 1])) : is_continuation(in[i + n]))) {
            n++;
        }

        if (n == len) {
            out.append(in, i, n);
        } else if (len > 0 && i + n == in.size()) {
            held = in.substr(i);
        } else {
            out += replacement;
        }
        i += n;
    }
    return out;
}

std::string utf8_assembler::flush() {
    const std::string out = held.empty() ? "" : replacement;
    held.clear();
    return out;
}

} // namespace duo::abi
