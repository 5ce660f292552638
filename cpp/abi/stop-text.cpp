#include "stop-text.h"

#include <algorithm>
#include <utility>

namespace duo::abi {

std::string stop_text::feed(const std::string & text) {
    held += text;

    size_t first = std::string::npos;
    for (const auto & stop : stops) {
        const size_t at = held.find(stop);
        if (at < first) {
            first = at;
            match = &stop;
        }
    }
    if (match) {
        held.resize(first);
        return flush();
    }

    size_t keep = 0;
    for (const auto & stop : stops) {
        for (size_t n = std::min(stop.size() - 1, held.size()); n > keep; n--) {
            if (held.compare(held.size() - n, n, stop, 0, n) == 0) {
                keep = n;
            }
        }
    }

    std::string out = held.substr(0, held.size() - keep);
    held.erase(0, out.size());
    return out;
}

std::string stop_text::flush() {
    return std::exchange(held, {});
}

} // namespace duo::abi
