#include "utf8-assembler.h"

#include "utf8.h"

namespace duo::abi {

static const char replacement[] = "\xEF\xBF\xBD";

std::string utf8_assembler::feed(const std::string & bytes) {
    const std::string in = held + bytes;
    held.clear();

    std::string out;
    for (size_t i = 0; i < in.size();) {
        const auto s = utf8_begin(std::string_view(in).substr(i));
        if (s.whole()) {
            out.append(in, i, s.length);
        } else if (s.length > 0 && i + s.fit == in.size()) {
            held = in.substr(i);
        } else {
            out += replacement;
        }
        i += s.fit;
    }
    return out;
}

std::string utf8_assembler::flush() {
    const std::string out = held.empty() ? "" : replacement;
    held.clear();
    return out;
}

} // namespace duo::abi
