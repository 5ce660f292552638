// UTF-8 text: where it breaks off, where it may be cut, and how a message shows it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace duo {

// The beginning of a text.
struct utf8_start {
    size_t length; // bytes of a character that begins with the first byte; 0: none does
    size_t fit;    // of them, those that are there and can belong to one character: at least 1

    bool whole() const { return fit == length; }
};

// text is not empty.
utf8_start utf8_begin(std::string_view text);

// Offset of the first byte that is not UTF-8, npos if there is none.
size_t find_not_utf8(std::string_view text);

// The largest size of at most max bytes that does not end within a character of text, which is UTF-8.
size_t utf8_cut(std::string_view text, size_t max);

// Input as a message may show it: always valid UTF-8 on one line. Control characters and bytes that are not UTF-8 are escaped.
std::string printable(std::string_view piece);

// The same, cut where it is long.
std::string excerpt(std::string_view piece, size_t longest = 40);

} // namespace duo
