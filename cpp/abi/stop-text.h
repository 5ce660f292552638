// Ends a text before the first of some strings, without ever letting out part of one.
#pragma once

#include <string>
#include <vector>

namespace duo::abi {

class stop_text {
public:
    explicit stop_text(std::vector<std::string> stops) : stops(std::move(stops)) {}

    // Takes more text and returns what is safe to let out: all but an end that could be the beginning of a stop string.
    std::string feed(const std::string & text);

    // What is held back, once the text has ended without a stop string.
    std::string flush();

    // The stop string that was found, else null.
    const std::string * found() const { return match; }

private:
    std::vector<std::string> stops;
    std::string              held;
    const std::string *      match = nullptr;
};

} // namespace duo::abi
