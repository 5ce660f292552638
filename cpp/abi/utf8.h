// Tokens end anywhere in a character; text that leaves the library does not.
#pragma once

#include <cstddef>
#include <string>

namespace duo::abi {

// The largest size of at most max bytes that does not end within a character of text, which is UTF-8.
size_t utf8_cut(const std::string & text, size_t max);

// Makes UTF-8 of bytes that come in pieces. Holds back the beginning of a character; bytes that cannot become one turn into U+FFFD,
// one for each maximal beginning of a character, as TextDecoder does.
class utf8_assembler {
public:
    std::string feed(const std::string & bytes);
    std::string flush();

private:
    std::string held;
};

} // namespace duo::abi
