// Tokens end anywhere in a character; text that leaves the library does not.
#pragma once

#include <string>

namespace duo::abi {

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
