#include "gate-text.h"

#include <algorithm>

namespace duo {

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
