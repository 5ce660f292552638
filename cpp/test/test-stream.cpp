// The bookkeeping of streams alone, against one that remembers every token's position and which token every cell was last written for.
#include "check.h"

#include "duo-stream.h"

#include <algorithm>
#include <random>
#include <vector>

using token = duo_positions::token;

namespace {

bool same(const token & a, const token & b) { return a.pos == b.pos && a.y == b.y && a.x == b.x; }

// What a stream's rows are, cell by cell: every token has a number of its own each time it is decoded.
struct cells {
    struct cell { int position = -1; }; // of the token in its sequence

    std::vector<token> tokens; // with their positions
    std::vector<int>   rows;   // [tokens]: which decoding a retrieval head's row comes from
    std::vector<std::vector<cell>> rings;

    explicit cells(const duo_stream::rings & r) {
        for (const duo_ring & ring : r) {
            rings.emplace_back(ring.n_ring);
        }
    }

    token last() const { return tokens.empty() ? token { -1, -1, -1 } : tokens.back(); }

    int n_before(int pos) const { return int(std::count_if(tokens.begin(), tokens.end(), [&](const token & t) { return t.pos < pos; })); }

    void append(const duo_stream::rings & r, const token & t, int decoding) {
        const int p = int(rows.size());
        rows.push_back(decoding);
        tokens.push_back(t);
        for (size_t i = 0; i < r.size(); ++i) {
            if (p >= r[i].sink) {
                rings[i][(p - r[i].sink) % r[i].n_ring].position = p;
            }
        }
    }

    void truncate(int n) {
        if (n > 0 && n < int(tokens.size()) && tokens[n].pos == tokens[n - 1].pos) {
            tokens[n - 1].y = tokens[n - 1].x = token::cut; // which nothing comes behind
        }
        rows.resize(n);
        tokens.resize(n);
    }

    // Whether all that the p'th token sees of a ring is there.
    bool sees_all(const duo_stream::rings & r, int p) const {
        for (size_t i = 0; i < r.size(); ++i) {
            for (int j = std::max(r[i].sink, p / r[i].chunk * r[i].chunk - r[i].recent); j < p; ++j) {
                if (rings[i][(j - r[i].sink) % r[i].n_ring].position != j) {
                    return false;
                }
            }
        }
        return true;
    }

    // What a state holds: of each ring the tokens from its stream's saved_from on.
    cells saved(const duo_stream::rings & r, const duo_stream & s) const {
        cells c = *this;
        for (size_t i = 0; i < r.size(); ++i) {
            for (cell & x : c.rings[i]) {
                x.position = x.position < s.saved_from(r, i) || x.position >= s.size() ? -1 : x.position;
            }
        }
        return c;
    }
};

duo_stream::rings random_rings(std::mt19937_64 & rng) {
    duo_stream::rings rings(rng() % 3);
    for (duo_ring & r : rings) {
        r = { int(rng() % 9), int(rng() % 20), rng() % 2 ? 1 : 1 + int(rng() % 12), 0 };
        r.n_ring = r.recent + r.chunk + 8 + int(rng() % 20);
    }
    return rings;
}

// The next tokens of a sequence: a text, or an image, or a part of one, that M-RoPE gives its positions; has_images: not text alone.
std::vector<token> next_tokens(const token & last, int n, bool has_images, std::mt19937_64 & rng) {
    std::vector<token> out;
    const auto pick = [&](int n) { return int(rng() % n); };
    int pos = last.pos + 1;
    if (has_images && !last.is_cut() && last.pos >= 0 && pick(4) == 0) { // more of the last image; after a text, its first token looked like one
        token t = last;
        for (int i = 0; i < n; ++i) {
            t = pick(3) ? token { t.pos, t.y, t.x + 1 } : token { t.pos, t.y + 1, pick(5) };
            out.push_back(t);
        }
        return out;
    }
    pos += has_images && pick(3) == 0 ? pick(9) : 0; // behind an image
    if (has_images && pick(2)) {
        const int width = 1 + pick(7), at = pick(2) ? pos : 0; // rows and columns as mtmd has them, and others
        for (int i = 0; i < n; ++i) {
            out.push_back({ pos, at + i / width, at + i % width });
        }
        return out;
    }
    const bool odd = has_images && pick(6) == 0; // positions go up by one, with rows and columns of their own, as HunyuanVL has them
    for (int i = 0; i < n; ++i) {
        out.push_back(odd ? token { pos + i, i % 3, i / 3 } : token { pos + i, pos + i, pos + i });
    }
    return out;
}

void test_random_walks() {
    const uint64_t seed = check::seed();
    int n_partly = 0, n_refused = 0, n_cut = 0;
    for (int round = 0; round < 300; ++round) {
        std::mt19937_64 rng(seed + round);
        const auto rings = random_rings(rng);
        const bool has_images = round % 2;
        struct held { duo_stream s; cells c; };
        struct state { duo_stream s; cells c; bool partial; };
        std::vector<held>  streams(3, { {}, cells(rings) });
        std::vector<state> states;
        duo_branch_ids ids;
        int n_decodings = 0;
        const auto pick = [&](size_t n) { return int(rng() % n); };
        for (int step = 0; step < 300; ++step) {
            held & h = streams[pick(3)];
            switch (pick(8)) {
                case 0: case 1: case 2:
                    for (const token & t : next_tokens(h.c.last(), pick(2) ? 1 : 1 + pick(40), has_images, rng)) {
                        CHECK(h.s.get_positions().last() < t);
                        h.s.append(rings, ids, t);
                        h.c.append(rings, t, n_decodings++);
                    }
                    break;
                case 3: { // a tail is taken back, where that is exact: from a position on, or, as after an aborted batch, from any token on
                    const int size = int(h.s.size());
                    const int n = pick(3) ? h.c.n_before(h.s.pos_max() + 1 - pick(30)) : std::max(0, size - pick(30));
                    CHECK_EQ(h.s.can_resume(rings, n), h.c.sees_all(rings, n));
                    if (h.s.can_resume(rings, n)) {
                        h.s.truncate(rings, n);
                        h.c.truncate(n);
                        n_cut += h.c.last().is_cut();
                    }
                    break;
                }
                case 4: {
                    held & to = streams[pick(3)];
                    if (&to != &h) {
                        to = { h.s.copy(), h.c };
                    }
                    break;
                }
                case 5: case 6: {
                    const bool partial = pick(3) != 0;
                    const duo_stream s = h.s.to_save(rings, partial ? 1 : 8);
                    states.push_back({ s, h.c.saved(rings, s), partial });
                    // what a state promises: what it holds of a ring was there, and whatever of the last positions could be decoded again still can
                    for (int p = int(s.size()); p >= std::max(0, int(s.size()) - (partial ? 1 : 8)) && h.c.sees_all(rings, p); --p) {
                        CHECK(states.back().c.sees_all(rings, p));
                    }
                    for (size_t i = 0; i < rings.size(); ++i) {
                        for (int64_t j = s.saved_from(rings, i); j < s.size(); ++j) {
                            CHECK_EQ(h.c.rings[i][(j - rings[i].sink) % rings[i].n_ring].position, j);
                        }
                    }
                    break;
                }
                case 7: {
                    if (states.empty()) {
                        break;
                    }
                    const state & from = states[pick(states.size())];
                    std::vector<uint8_t> bytes;
                    from.s.append_to(bytes);
                    size_t at = 0;
                    const duo_stream s = duo_stream::from_bytes(rings, bytes, at);
                    CHECK_EQ(at, bytes.size());
                    if (!from.partial || s.size() == 0) {
                        h = { s, from.c };
                        break;
                    }
                    int common = 0;
                    while (common < int(std::min(h.c.rows.size(), from.c.rows.size())) && h.c.rows[common] == from.c.rows[common]) {
                        ++common;
                    }
                    CHECK_EQ(h.s.n_common(s), common);
                    const bool possible = common > 0 && from.c.sees_all(rings, common);
                    const duo_stream after = h.s.with_rings_of(rings, s);
                    CHECK_EQ(after.size(), possible ? common : 0);
                    n_refused += !possible;
                    if (possible) {
                        n_partly += common < int(from.c.rows.size());
                        h.s = after;
                        h.c.truncate(common);
                        h.c.rings = from.c.rings;
                    }
                    break;
                }
            }
            CHECK_EQ(h.s.size(), int64_t(h.c.rows.size()));
            CHECK(same(h.s.get_positions().last(), h.c.last()));
            CHECK_EQ(h.s.pos_max(), h.c.last().pos);
            CHECK(has_images || h.s.get_positions().n_runs() == 0);
            for (int i = 0; i < int(h.c.tokens.size()); i += 1 + pick(20)) {
                CHECK_EQ(h.s.get_positions().at(i), h.c.tokens[i].pos);
            }
            for (int i = 0; i < 3; ++i) {
                const int pos = pick(h.c.last().pos + 5) - 1;
                CHECK_EQ(h.s.get_positions().n_before(pos), h.c.n_before(pos));
            }
            CHECK_EQ(h.s.get_positions().n_at_last(), std::count_if(h.c.tokens.begin(), h.c.tokens.end(), [&](const token & t) { return t.pos == h.c.last().pos; }));
            int first = int(h.c.rows.size());
            while (first > 0 && h.c.sees_all(rings, first - 1)) {
                --first;
            }
            CHECK_EQ(h.s.pos_min(rings), h.c.rows.empty() ? -1 : first == 0 ? 0 : h.c.tokens[first - 1].pos);
            CHECK(h.c.n_before(h.s.pos_min(rings) + 1) >= first);
            if (check::n_failed > 0) {
                fprintf(stderr, "  in step %d of the walk with seed %llu\n", step, (unsigned long long) (seed + round));
                return;
            }
        }
    }
    printf("%d restored in part, %d refused, %d images cut\n", n_partly, n_refused, n_cut);
    CHECK(n_partly > 0 && n_refused > 0 && n_cut > 0);
}

void grow(const duo_stream::rings & rings, duo_stream & s, duo_branch_ids & ids, int n) {
    for (int i = 0; i < n; ++i) {
        const llama_pos p = s.pos_max() + 1;
        s.append(rings, ids, { p, p, p });
    }
}

// A state whose last position is decoded again still shares what comes before it with the sequence.
void test_state_at_its_branch() {
    const duo_stream::rings rings = { { 16, 48, 1, 200 } };
    for (const int p : { 1, 100 }) {
        duo_branch_ids ids;
        duo_stream s;
        grow(rings, s, ids, p + 50);
        s.to_save(rings, 1);
        s.truncate(rings, p); // shared: another branch begins at p
        grow(rings, s, ids, 1);
        const duo_stream state = s.to_save(rings, 1);
        s.truncate(rings, p);
        grow(rings, s, ids, 1000);
        CHECK_EQ(s.n_common(state), p);
        CHECK_EQ(s.with_rings_of(rings, state).size(), p);
    }
}

// A rollback a step, as speculative decoding has, leaves no trace.
void test_rollbacks_take_no_room() {
    const duo_stream::rings rings = { { 16, 48, 1, 200 } };
    duo_branch_ids ids;
    duo_stream s;
    const auto bytes = [&] {
        std::vector<uint8_t> b;
        s.append_to(b);
        return b.size();
    };
    grow(rings, s, ids, 100);
    s.to_save(rings, 1);
    for (int i = 0; i < 10000; ++i) {
        grow(rings, s, ids, 5);
        s.truncate(rings, s.pos_max() - 2);
    }
    CHECK_EQ(bytes(), 3 * sizeof(int64_t) + sizeof(duo_stream::branch));
    // where each step is saved, too, the oldest are forgotten in the end
    for (int i = 0; i < 10000; ++i) {
        grow(rings, s, ids, 5);
        s.to_save(rings, 1);
        s.truncate(rings, s.pos_max() - 2);
    }
    CHECK(bytes() <= 3 * sizeof(int64_t) + 4096 * sizeof(duo_stream::branch));
}

} // namespace

int main() {
    test_state_at_its_branch();
    test_rollbacks_take_no_room();
    test_random_walks();
    return check::result();
}
