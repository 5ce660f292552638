#include "duo-stream.h"

#include "visibility.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>

// More than any run of rollbacks to shared positions makes; beyond it the oldest are forgotten, and states that end in them are refused.
static constexpr size_t max_branches = 4096;

duo_branch_ids::duo_branch_ids() {
    std::random_device random;
    last = uint64_t(random()) << 32 | random();
}

// The first token after the sinks that the p'th sees.
static int64_t first_seen(const duo_ring & ring, int64_t p) {
    return std::max<int64_t>(ring.sink, duo_window_begin(p, ring.recent, ring.chunk));
}

bool duo_stream::can_resume(const rings & rings, int64_t n) const {
    for (size_t i = 0; i < rings.size(); ++i) {
        if (n > rings[i].sink && first_seen(rings[i], n) < std::min(n, first_kept(rings, i))) {
            return false;
        }
    }
    return true;
}

int64_t duo_stream::first_resumable(const rings & rings) const {
    int64_t first = 0;
    for (size_t i = 0; i < rings.size(); ++i) {
        const duo_ring & r = rings[i];
        const int64_t k = first_kept(rings, i);
        const int64_t p = (k + r.recent + r.chunk - 1) / r.chunk * r.chunk; // the first whose window begins there or later
        if (k > r.sink && p > r.sink + 1 && (r.recent > 0 || r.chunk > 1)) { // up to the sinks' end all can be resumed; what sees only itself always can
            first = std::max(first, p);
        }
    }
    return first;
}

llama_pos duo_stream::pos_min(const rings & rings) const {
    const int64_t first = std::min(first_resumable(rings), size());
    return size() == 0 ? -1 : first == 0 ? 0 : positions.at(first - 1); // tokens behind that position are that one and later ones
}

void duo_stream::append(const rings & rings, duo_branch_ids & ids, const duo_positions::token & next) {
    positions.append(next);
    kept.resize(rings.size());
    for (size_t i = 0; i < rings.size(); ++i) {
        kept[i] = std::max<int64_t>({ kept[i], rings[i].sink, size() - rings[i].n_ring });
    }
    if (branches.empty() || new_branch) {
        branches.push_back({ ids.next(), last() });
        if (branches.size() > max_branches) {
            branches.erase(branches.begin());
        }
        new_branch = false;
        shared     = -1;
    }
}

void duo_stream::truncate(const rings & rings, int64_t n) {
    if (n < size()) {
        cut(rings, n);
    }
}

void duo_stream::cut(const rings & rings, int64_t n) {
    if (n <= 0) {
        *this = {};
        return;
    }
    positions.truncate(n);
    for (size_t i = 0; i < kept.size(); ++i) {
        kept[i] = std::min<int64_t>(kept[i], std::max<int64_t>(n, rings[i].sink)); // what comes next will be there
    }
    while (!branches.empty() && branches.back().begin > last()) {
        branches.pop_back();
        shared = std::numeric_limits<int64_t>::max(); // another began where tokens were shared
    }
    new_branch = new_branch || branches.empty() || shared > last();
}

duo_stream duo_stream::copy() const {
    share();
    duo_stream result = *this;
    result.new_branch = true;
    return result;
}

int64_t duo_stream::n_common(const duo_stream & other) const {
    const auto end = [](const duo_stream & s, size_t i) { return i + 1 < s.branches.size() ? s.branches[i + 1].begin : s.size(); };
    for (size_t i = other.branches.size(); i-- > 0;) { // the last that both have: what comes before it is the same, too
        for (size_t j = branches.size(); j-- > 0;) {
            if (branches[j].id == other.branches[i].id) {
                return std::min(end(*this, j), end(other, i));
            }
        }
    }
    return 0;
}

// --- states ---

duo_stream duo_stream::to_save(const rings & rings, int64_t n_back) const {
    share();
    duo_stream s = *this;
    const int64_t first = std::max(first_resumable(rings), size() - n_back);
    s.kept.resize(rings.size());
    for (size_t i = 0; i < rings.size(); ++i) {
        s.kept[i] = std::max(first_kept(rings, i), first_seen(rings[i], first));
    }
    return s;
}

int64_t duo_stream::saved_from(const rings & rings, size_t i) const {
    return std::min(first_kept(rings, i), std::max<int64_t>(rings[i].sink, size()));
}

duo_stream duo_stream::with_rings_of(const rings & rings, const duo_stream & saved) const {
    const int64_t n = n_common(saved);
    duo_stream s = *this;
    s.kept = saved.in(rings).kept;
    if (n == 0 || !s.can_resume(rings, n)) {
        return {};
    }
    s.cut(rings, n);
    s.new_branch = true;
    return s;
}

duo_stream duo_stream::in(const rings & rings) const {
    duo_stream s = *this;
    for (size_t i = 0; i < s.kept.size(); ++i) {
        s.kept[i] = std::max<int64_t>(s.kept[i], size() - rings[i].n_ring);
    }
    return s;
}

namespace {

// What a stream's bytes begin with.
struct numbers {
    int64_t last;
    int32_t n_branches;
    int32_t n_runs;
};

template <typename T>
void put(std::vector<uint8_t> & bytes, const T * x, size_t n) {
    bytes.insert(bytes.end(), (const uint8_t *) x, (const uint8_t *) (x + n));
}

void require(bool ok) {
    if (!ok) {
        throw std::runtime_error("the state is damaged");
    }
}

} // namespace

void duo_stream::append_to(std::vector<uint8_t> & bytes) const {
    const numbers x = { last(), int32_t(branches.size()), positions.n_runs() };
    put(bytes, &x, 1);
    put(bytes, kept.data(), kept.size());
    put(bytes, branches.data(), branches.size());
    positions.append_to(bytes);
}

duo_stream duo_stream::from_bytes(const rings & rings, const std::vector<uint8_t> & bytes, size_t & at) {
    const auto take = [&](void * x, size_t size) {
        require(size <= bytes.size() - at);
        std::copy_n(bytes.data() + at, size, static_cast<uint8_t *>(x)); // unlike memcpy none to a null pointer, too
        at += size;
    };
    numbers x;
    take(&x, sizeof(x));
    const auto [last, n_branches, n_runs] = x;
    require(last >= -1 && last < std::numeric_limits<llama_pos>::max()); // cells are counted by 32 bits

    duo_stream s;
    s.kept.resize(rings.size());
    take(s.kept.data(), s.kept.size() * sizeof(int64_t));
    for (size_t i = 0; i < rings.size(); ++i) {
        require(s.kept[i] >= rings[i].sink && s.kept[i] <= std::max<int64_t>(rings[i].sink, last + 1));
    }
    require(n_branches >= 0 && uint64_t(n_branches) <= (bytes.size() - at) / sizeof(branch)); // before there is room made for them

    s.new_branch = true; // a state may be read more than once
    s.branches.resize(n_branches);
    take(s.branches.data(), s.branches.size() * sizeof(branch));
    for (size_t i = 0; i < s.branches.size(); ++i) {
        require(s.branches[i].begin >= (i == 0 ? 0 : s.branches[i - 1].begin + 1) && s.branches[i].begin <= last);
    }
    require(n_runs >= 0 && uint64_t(n_runs) <= (bytes.size() - at) / duo_positions::run_bytes);
    require(s.positions.read(last + 1, bytes.data() + at, n_runs));
    at += n_runs * duo_positions::run_bytes;
    return s;
}

int64_t duo_stream::n_cells_used(const rings & rings, size_t i) const {
    const int64_t n_cells = int64_t(rings[i].sink) + rings[i].n_ring;
    return first_kept(rings, i) > rings[i].sink ? n_cells : std::min(size(), n_cells); // as long as it has not gone round
}
