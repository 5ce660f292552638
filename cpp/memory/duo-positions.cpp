#include "duo-positions.h"

#include <algorithm>
#include <cstring>
#include <limits>

duo_positions::token duo_positions::last() const {
    if (runs.empty() || !runs.back().image) {
        const llama_pos p = at(n - 1);
        return { p, p, p };
    }
    return { runs.back().pos, runs.back().y, runs.back().x };
}

llama_pos duo_positions::at(int64_t i) const {
    const auto next = std::upper_bound(runs.begin(), runs.end(), i, [](int64_t i, const run & r) { return i < r.begin; });
    if (next == runs.begin()) {
        return llama_pos(i);
    }
    const run & r = next[-1];
    return r.image ? r.pos : llama_pos(r.pos + (i - r.begin));
}

int64_t duo_positions::n_before(llama_pos pos) const {
    const auto next = std::lower_bound(runs.begin(), runs.end(), pos, [](const run & r, llama_pos pos) { return r.pos < pos; });
    const int64_t end = next == runs.end() ? n : next->begin;
    if (next == runs.begin()) {
        return std::clamp<int64_t>(pos, 0, end);
    }
    const run & r = next[-1];
    return r.image ? end : std::min(end, r.begin + (int64_t(pos) - r.pos));
}

int64_t duo_positions::n_at_last() const {
    return n == 0 ? 0 : runs.empty() || !runs.back().image ? 1 : n - runs.back().begin;
}

void duo_positions::append(const token & next) {
    const token before = last();
    const bool in_image = !runs.empty() && runs.back().image;
    if (n > 0 && next.pos == before.pos) {
        if (!in_image) { // its first token looked like text
            if (!runs.empty() && runs.back().begin == n - 1) {
                runs.pop_back();
            }
            runs.push_back({ n - 1, next.pos, 1, 0, 0 });
        }
        runs.back().y = next.y;
        runs.back().x = next.x;
    } else if (!next.is_text()) {
        runs.push_back({ n, next.pos, 1, next.y, next.x });
    } else if (in_image || next.pos != before.pos + 1) {
        runs.push_back({ n, next.pos, 0, 0, 0 });
    }
    ++n;
}

void duo_positions::truncate(int64_t n_left) {
    int64_t end = n;
    while (!runs.empty() && runs.back().begin >= n_left) {
        end = runs.back().begin;
        runs.pop_back();
    }
    if (n_left < end && !runs.empty() && runs.back().image) {
        runs.back().y = runs.back().x = token::cut; // of the new last token they are not known
    }
    n = n_left;
}

// --- states ---

void duo_positions::append_to(std::vector<uint8_t> & bytes) const {
    const auto * data = (const uint8_t *) runs.data();
    bytes.insert(bytes.end(), data, data + runs.size() * sizeof(run));
}

bool duo_positions::read(int64_t n_tokens, const uint8_t * bytes, int32_t n_runs) {
    n = n_tokens;
    runs.resize(n_runs);
    if (n_runs > 0) {
        memcpy(runs.data(), bytes, n_runs * sizeof(run));
    }
    int64_t after = runs.empty() ? n : runs[0].begin; // the least position that the next run may begin at
    for (size_t i = 0; i < runs.size(); ++i) {
        const run & r = runs[i];
        const int64_t length = end_of(i) - r.begin;
        if (r.begin < 0 || r.begin >= n || length <= 0 || r.pos < after || (r.image != 0 && r.image != 1)) {
            return false;
        }
        after = int64_t(r.pos) + (r.image ? 1 : length);
    }
    return after <= std::numeric_limits<llama_pos>::max();
}
