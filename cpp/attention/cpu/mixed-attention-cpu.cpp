// Mixed-head attention on the CPU.
//
// The result for a query depends on its position and on what the cache holds, never on how many threads work nor on how tokens were batched: keys are
// taken in blocks of fixed absolute positions, blocks are summed in segments of fixed absolute positions that each start from nothing, and segments
// are merged in order. Threads only decide who computes which segment. The one exception is decoding, where no sequence brings more than one token:
// it has kernels of its own, which add in another order, as llama.cpp's matrix products have, too.
//
//   position    0        64       128             1024                    2048
//               | block  | block  | ...           |                       |
//               | segment 0                       | segment 1             | ...
//
// All query heads of a KV head, and several tokens, form one tile: a K or V row is read and converted once for all of them.

#include "mixed-attention-cpu.h"

#include "block-decode.h"
#include "block-prefill.h"
#include "cache-rows.h"
#include "mixed-attention.h"
#include "reference.h"
#include "rotation.h"
#include "simd.h"
#include "visibility.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

using namespace duo;

constexpr int64_t min_segment  = 1024; // keys summed from nothing: short enough for threads to share a context of a few thousand evenly
constexpr int64_t max_segments = 256;  // of a context: enough for any number of threads, and what a token's partial sums take has an end
constexpr int     tile_rows    = 64;   // queries of a tile: tokens x query heads of the group
constexpr int     split_tokens = 16;   // up to this many tokens, a retrieval head's segments are shared out among threads

constexpr float neg_inf = -std::numeric_limits<float>::infinity();

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t pad_to(int64_t n, int64_t m)   { return ceil_div(n, m) * m; }

// The operator's tensors and sizes, read once.
struct op {
    explicit op(const ggml_tensor * dst);

    ggml_mixed_attn_params  p;
    ggml_mixed_attn_sources src;

    int64_t dk, dv;       // head sizes
    int64_t ldk, ldv;     // the same, padded to whole vectors
    int64_t n_head, n_head_kv, n_tokens, group;
    int64_t tile_tokens;  // at most, a tile
    int64_t segment_size; // keys; the same for all of a context, so that results do not depend on what is in it
    bool    decode;       // no sequence has more than one of the tokens

    int64_t position(int64_t t) const { return ((const int32_t *) src.tokens->data)[2 * t]; }
    int64_t stream  (int64_t t) const { return ((const int32_t *) src.tokens->data)[2 * t + 1]; }

    const ggml_mixed_attn_head & head(int64_t h) const { return ((const ggml_mixed_attn_head *) src.heads->data)[h]; }

    bool sees_window(int64_t h) const { return head(h).recent < GGML_MIXED_ATTN_ALL; } // sinks and recent keys only

    // First position of the window of a query at a position.
    int64_t window(int64_t h, int64_t position) const { return sees_window(h) ? duo_window_begin(position, head(h).recent, p.chunk) : 0; }

    int64_t row(int64_t t_stream, int64_t h, int64_t position) const {
        return t_stream * p.n_rows + head(h).first_row + duo_ring_cell(position, p.sink, head(h).ring);
    }

    // Of query head h, a learned sink's score; -inf: none.
    float sink_score(int64_t h) const { return src.sinks ? ((const float *) src.sinks->data)[h] : neg_inf; }
};

op::op(const ggml_tensor * dst) :
    p(ggml_mixed_attn_get_params(dst)), src(ggml_mixed_attn_get_sources(dst)),
    dk(src.q->ne[0]), dv(src.v_cache->ne[0]), ldk(pad_to(dk, simd_width)), ldv(pad_to(dv, simd_width)),
    n_head(src.q->ne[1]), n_head_kv(src.heads->ne[1]), n_tokens(src.q->ne[2]), group(n_head / n_head_kv),
    tile_tokens(std::max<int64_t>(1, tile_rows / group)),
    segment_size(pad_to(std::max(min_segment, ceil_div(p.n_ctx, max_segments)), min_segment)),
    decode(p.max_seq_tokens == 1) {}

// Tokens of one stream at consecutive positions.
struct tile {
    int64_t token;     // the first
    int64_t n_tokens;
    int64_t stream;
    int64_t position;  // of the first
};

// Queries' running softmax: scores' maximum, sum of weights, weighted sum of values.
struct partial {
    float * max;  // [rows]
    float * sum;  // [rows]
    float * acc;  // [rows][ldv]

    void clear(int64_t n_rows, int64_t ldv) const {
        std::fill_n(max, n_rows, neg_inf);
        std::fill_n(sum, n_rows, 0.0f);
        std::fill_n(acc, n_rows * ldv, 0.0f);
    }
};

int64_t partial_floats(int64_t n_rows, int64_t ldv) { return n_rows * (2 + ldv); }

partial make_partial(float * mem, int64_t n_rows) { return { mem, mem + n_rows, mem + 2 * n_rows }; }

// to += from, both softmax sums over different keys
void merge_row(const partial & to, const partial & from, int64_t r, int64_t ldv) {
    if (from.max[r] == neg_inf) {
        return;
    }
    const float max = std::max(to.max[r], from.max[r]);
    const float a   = to.max[r] == neg_inf ? 0.0f : expf(to.max[r] - max);
    const float b   = expf(from.max[r] - max);
    float *       x = to.acc + r * ldv;
    const float * y = from.acc + r * ldv;
    for (int64_t d = 0; d < ldv; d += simd_width) {
        simd_store(x + d, simd_fma(simd_load(x + d), simd_set(a), simd_load(y + d) * simd_set(b)));
    }
    to.sum[r] = std::fma(to.sum[r], a, from.sum[r] * b);
    to.max[r] = max;
}

// A thread's own buffers, carved from the work buffer.
struct scratch {
    float * q;       // [tile_rows][ldk], scaled
    float * k;       // [block_size][ldk]
    float * v;       // [block_size][ldv]
    float * kt;      // [ldk][block_size]: k transposed
    float * score;   // [tile_rows][block_size], then the weights
    float * rescale; // [tile_rows]: what the block's maximum makes of the sums so far
    partial segment; // the segment being summed
    partial total;   // the merged segments so far

    static int64_t floats(const op & o) {
        const int64_t rows = max_rows(o);
        return pad_to(rows * o.ldk + block_size * (2 * o.ldk + o.ldv) + rows * (block_size + 1) + 2 * partial_floats(rows, o.ldv), 16);
    }
    static int64_t max_rows(const op & o) { return o.tile_tokens * o.group; }

    scratch(const op & o, float * mem) {
        const int64_t rows = max_rows(o);
        q       = mem;
        k       = q + rows * o.ldk;
        v       = k + block_size * o.ldk;
        kt      = v + block_size * o.ldv;
        score   = kt + block_size * o.ldk;
        rescale = score + rows * block_size;
        segment = make_partial(rescale + rows, rows);
        total   = make_partial(segment.max + partial_floats(rows, o.ldv), rows);
        if (o.ldk != o.dk || o.ldv != o.dv) {
            // the padding takes part in sums: it must be zero, and nothing writes it later
            std::fill_n(q, rows * o.ldk + block_size * (o.ldk + o.ldv), 0.0f);
        }
    }
};

// --- storing ---

void store(const op & o, const scratch & s, int ith, int nth) {
    const auto put = [](const ggml_tensor * cache, int64_t row, const float * src, int32_t rotation, float * mem) {
        if (rotation != 0) {
            rotate(src, mem, cache->ne[0], rotation);
            src = mem;
        }
        duo::store_row(cache, row, src);
    };
    const int64_t n = o.n_tokens * o.n_head_kv;
    for (int64_t i = n * ith / nth; i < n * (ith + 1) / nth; ++i) {
        const int64_t t   = i / o.n_head_kv;
        const int64_t h   = i % o.n_head_kv;
        const int64_t row = o.row(o.stream(t), h, o.position(t));
        put(o.src.k_cache, row, (const float *) o.src.k->data + i * o.dk, o.p.rotation_k, s.k);
        put(o.src.v_cache, row, (const float *) o.src.v->data + i * o.dv, o.p.rotation_v, s.v);
    }
}

// --- one block of keys ---

// Calls f(row, position, n) for the runs of rows that hold positions [begin, end) of one block: cut where the sinks end and where the ring comes round.
template <typename F>
void for_each_run(const op & o, int64_t stream, int64_t h, int64_t begin, int64_t end, F && f) {
    for (int64_t j = begin; j < end;) {
        const int64_t row = o.row(stream, h, j);
        const int64_t n   = j < o.p.sink ? std::min(end, int64_t(o.p.sink)) - j : std::min(end - j, o.head(h).ring - (j - o.p.sink) % o.head(h).ring);
        f(row, j, n);
        j += n;
    }
}

// What a query sees of a block: keys [from, to), counted from its first.
struct span {
    int from, to;
};

span visible(const op & o, const tile & t, int64_t h, int64_t r, int64_t begin, int64_t end, bool sinks) {
    const int64_t block    = begin / block_size * block_size;
    const int64_t position = t.position + r / o.group;
    const int64_t window   = sinks ? 0 : o.window(h, position);
    return { int(std::max(begin, window) - block), int(std::min(end, position + 1) - block) };
}

// Turns row r's scores of the keys it sees into weights, all others' into zeros, and takes them up into the segment's maximum and sum.
void weigh(const op & o, const scratch & s, int64_t r, span seen) {
    float * score = s.score + r * block_size;
    s.rescale[r] = 1.0f;
    if (seen.from >= seen.to) {
        std::fill_n(score, block_size, 0.0f);
        return;
    }
    const int begin = seen.from / simd_width * simd_width;
    const int end   = int(pad_to(seen.to, simd_width));
    if (o.p.softcap != 0.0f) {
        const simd cap = simd_set(o.p.softcap), scale = simd_set(1.0f / o.p.softcap);
        for (int j = begin; j < end; j += simd_width) {
            simd_store(score + j, cap * simd_tanh(simd_load(score + j) * scale));
        }
    }
    std::fill(score, score + begin, 0.0f);
    std::fill(score + begin, score + seen.from, neg_inf);
    std::fill(score + seen.to, score + end, neg_inf);
    std::fill(score + end, score + block_size, 0.0f);

    simd most = simd_load(score + begin);
    for (int j = begin + simd_width; j < end; j += simd_width) {
        most = simd_max(most, simd_load(score + j));
    }
    const float before = s.segment.max[r];
    const float max    = std::max(before, simd_max_lane(most));
    if (before != neg_inf && before != max) {
        s.rescale[r] = expf(before - max);
    }
    simd sum = {};
    for (int j = begin; j < end; j += simd_width) {
        const simd w = simd_exp(simd_load(score + j) - simd_set(max));
        simd_store(score + j, w);
        sum += w;
    }
    s.segment.sum[r] = std::fma(s.segment.sum[r], s.rescale[r], simd_sum(sum));
    s.segment.max[r] = max;
}

// Whether rows are read where they lie: they are converted once for every decode_rows queries, and a second time costs no more than the detour.
bool in_place(const op & o, const ggml_tensor * cache) {
    return cache->type == GGML_TYPE_F32 || o.group <= 2 * decode_rows;
}

// The rows of a block's keys or values, where they lie or converted to scratch.
template <typename F>
void with_block_rows(const op & o, const tile & t, int64_t h, const ggml_tensor * cache, float * mem, int64_t ld, int64_t begin, int64_t end, F && f) {
    const int b = int(begin % block_size);
    block_rows rows;
    rows.n_bytes = cache->nb[1];
    if (in_place(o, cache)) {
        const bool done = with_cached_type(cache->type, cache->ne[0], [&](auto type) {
            for_each_run(o, t.stream, h, begin, end, [&](int64_t row, int64_t j, int64_t n) {
                for (int64_t i = 0; i < n; ++i) {
                    rows.row[j % block_size + i] = (const char *) cache->data + (row + i) * cache->nb[1];
                }
            });
            const int e = b + int(end - begin);
            std::fill(rows.row, rows.row + b, rows.row[b]);
            std::fill(rows.row + e, rows.row + block_size, rows.row[b]);
            f(type, rows, cache->ne[0]);
        });
        if (done) {
            return;
        }
    }
    for_each_run(o, t.stream, h, begin, end, [&](int64_t row, int64_t j, int64_t n) { load_rows(cache, row, n, mem + j % block_size * ld, ld); });
    for (int j = 0; j < block_size; ++j) {
        rows.row[j] = (const char *) (mem + j * ld);
    }
    rows.n_bytes = 0;
    f(std::integral_constant<ggml_type, GGML_TYPE_F32>(), rows, ld);
}

// Adds keys [begin, end) of one block to the segment's sums of one token's queries.
void add_block_decode(const op & o, const scratch & s, const tile & t, int64_t h, int64_t begin, int64_t end, bool sinks) {
    const span seen = visible(o, t, h, 0, begin, end, sinks);
    if (seen.from >= seen.to) {
        return;
    }
    with_block_rows(o, t, h, o.src.k_cache, s.k, o.ldk, begin, end, [&](auto type, const block_rows & rows, int64_t n) {
        for_row_groups<decode_rows>(o.group, [&](int64_t r, auto n_rows) {
            decode_scores<type.value, n_rows.value>(s.q + r * o.ldk, o.ldk, n, rows, s.score + r * block_size, seen.from, seen.to);
        });
    });
    for (int64_t r = 0; r < o.group; ++r) {
        weigh(o, s, r, seen);
    }
    with_block_rows(o, t, h, o.src.v_cache, s.v, o.ldv, begin, end, [&](auto type, const block_rows & rows, int64_t n) {
        for_row_groups<decode_rows>(o.group, [&](int64_t r, auto n_rows) {
            decode_values<type.value, n_rows.value>(
                    s.score + r * block_size, rows, n, s.segment.acc + r * o.ldv, s.rescale + r, o.ldv, seen.from, seen.to);
        });
    });
}

// Adds keys [begin, end) of one block to the segment's sums. A query may see fewer of them.
void add_block_prefill(const op & o, const scratch & s, const tile & t, int64_t h, int64_t begin, int64_t end, bool sinks) {
    const int b = int(begin % block_size);
    const int e = b + int(end - begin);
    for_each_run(o, t.stream, h, begin, end, [&](int64_t row, int64_t j, int64_t n) {
        load_rows(o.src.k_cache, row, n, s.k + j % block_size * o.ldk, o.ldk);
        load_rows(o.src.v_cache, row, n, s.v + j % block_size * o.ldv, o.ldv);
    });
    transpose_block(s.k, s.kt, o.ldk);

    // all scores, then all sums: the keys, then the values, stay in the first cache
    const int64_t n_rows = t.n_tokens * o.group;
    for_row_groups<prefill_rows>(n_rows, [&](int64_t r, auto n) {
        const int from = visible(o, t, h, r, begin, end, sinks).from;
        const int to   = visible(o, t, h, r + n.value - 1, begin, end, sinks).to;
        prefill_scores<n.value>(s.q + r * o.ldk, o.ldk, o.dk, s.kt, s.score + r * block_size, from, to);
    });
    for (int64_t r = 0; r < n_rows; ++r) {
        weigh(o, s, r, visible(o, t, h, r, begin, end, sinks));
    }
    for_row_groups<prefill_rows>(n_rows, [&](int64_t r, auto n) {
        prefill_values<n.value>(s.score + r * block_size, s.v, s.segment.acc + r * o.ldv, s.rescale + r, o.ldv, b, e);
    });
}

void add_block(const op & o, const scratch & s, const tile & t, int64_t h, int64_t begin, int64_t end, bool sinks) {
    (o.decode ? add_block_decode : add_block_prefill)(o, s, t, h, begin, end, sinks);
}

void add_range(const op & o, const scratch & s, const tile & t, int64_t h, int64_t begin, int64_t end, bool sinks) {
    for (int64_t j = begin; j < end; j = (j / block_size + 1) * block_size) {
        add_block(o, s, t, h, j, std::min(end, (j / block_size + 1) * block_size), sinks);
    }
}

// Sums segment i of the tile's keys into s.segment.
void sum_segment(const op & o, const scratch & s, const tile & t, int64_t h, int64_t i) {
    const int64_t begin = i * o.segment_size;
    const int64_t end   = std::min(begin + o.segment_size, t.position + t.n_tokens);

    s.segment.clear(t.n_tokens * o.group, o.ldv);
    if (!o.sees_window(h)) {
        add_range(o, s, t, h, begin, end, false);
        return;
    }
    // the sinks, as far as they go, then what the first query's window adds
    const int64_t sink   = std::min<int64_t>(o.p.sink, t.position + t.n_tokens);
    const int64_t window = std::max(sink, o.window(h, t.position));
    add_range(o, s, t, h, begin, std::min(end, sink), true);
    add_range(o, s, t, h, std::max(begin, window), end, false);
}

// --- tiles ---

void load_queries(const op & o, const scratch & s, const tile & t, int64_t h) {
    for (int64_t r = 0; r < t.n_tokens * o.group; ++r) {
        const float * src = (const float *) o.src.q->data + ((t.token + r / o.group) * o.n_head + h * o.group + r % o.group) * o.dk;
        float * q = s.q + r * o.ldk;
        if (o.p.rotation_k != 0) {
            rotate(src, q, o.dk, o.p.rotation_k);
            src = q;
        }
        for (int64_t d = 0; d < o.dk; ++d) {
            q[d] = src[d] * o.p.scale;
        }
    }
}

void write_row(const op & o, ggml_tensor * dst, const partial & p, int64_t r, int64_t token, int64_t head) {
    float * out = (float *) dst->data + (token * o.n_head + head) * o.dv;
    const float sink  = o.sink_score(head);
    const float max   = std::max(p.max[r], sink);
    const float scale = max == p.max[r] ? 1.0f : expf(p.max[r] - max);
    const float sum   = sink == neg_inf ? p.sum[r] : std::fma(p.sum[r], scale, expf(sink - max));
    for (int64_t d = 0; d < o.dv; ++d) {
        out[d] = p.acc[r * o.ldv + d] * scale / sum;
    }
    if (o.p.rotation_v != 0) {
        rotate(out, out, o.dv, o.p.rotation_v);
    }
}

void compute_tile(const op & o, const scratch & s, const tile & t, int64_t h, ggml_tensor * dst) {
    const int64_t n_rows = t.n_tokens * o.group;
    load_queries(o, s, t, h);
    s.total.clear(n_rows, o.ldv);

    // a streaming head sees nothing between its sinks' last segment and its window's first
    const int64_t n_segment = ceil_div(t.position + t.n_tokens, o.segment_size);
    for (int64_t i = 0; i < n_segment; ++i) {
        if (o.sees_window(h) && i * o.segment_size >= o.p.sink) {
            i = std::max(i, o.window(h, t.position) / o.segment_size);
        }
        sum_segment(o, s, t, h, i);
        for (int64_t r = 0; r < n_rows; ++r) {
            merge_row(s.total, s.segment, r, o.ldv);
        }
    }
    for (int64_t r = 0; r < n_rows; ++r) {
        write_row(o, dst, s.total, r, t.token + r / o.group, h * o.group + r % o.group);
    }
}

// Calls f(tile) for the tiles of the batch, in order.
template <typename F>
void for_each_tile(const op & o, F && f) {
    for (int64_t t = 0; t < o.n_tokens;) {
        int64_t n = 1;
        while (n < o.tile_tokens && t + n < o.n_tokens && o.stream(t + n) == o.stream(t) && o.position(t + n) == o.position(t) + n) {
            ++n;
        }
        f(tile { t, n, o.stream(t), o.position(t) });
        t += n;
    }
}

// Whether the segments of retrieval heads are shared out. Depends on the sizes alone, as the work buffer does.
bool splits(const op & o) { return o.n_tokens <= split_tokens; }

int64_t n_segments(const op & o) { return ceil_div(o.p.n_ctx, o.segment_size); }

// Partial sums of all segments of a token's query heads: [n_tokens * n_head][n_segments]
int64_t split_floats(const op & o) {
    return splits(o) ? o.n_tokens * o.n_head * n_segments(o) * partial_floats(1, o.ldv) : 0;
}

partial split_partial(const op & o, float * mem, int64_t token, int64_t head, int64_t segment) {
    return make_partial(mem + ((token * o.n_head + head) * n_segments(o) + segment) * partial_floats(1, o.ldv), 1);
}

void compute_split(const op & o, const scratch & s, const tile & t, int64_t h, int64_t segment, float * mem) {
    load_queries(o, s, t, h);
    sum_segment(o, s, t, h, segment);
    for (int64_t r = 0; r < t.n_tokens * o.group; ++r) {
        const partial p = split_partial(o, mem, t.token + r / o.group, h * o.group + r % o.group, segment);
        p.clear(1, o.ldv);
        merge_row(p, { s.segment.max + r, s.segment.sum + r, s.segment.acc + r * o.ldv }, 0, o.ldv);
    }
}

void merge_split(const op & o, const scratch & s, int64_t token, int64_t head, float * mem, ggml_tensor * dst) {
    s.total.clear(1, o.ldv);
    for (int64_t i = 0; i < ceil_div(o.position(token) + 1, o.segment_size); ++i) {
        merge_row(s.total, split_partial(o, mem, token, head, i), 0, o.ldv);
    }
    write_row(o, dst, s.total, 0, token, head);
}

// --- ggml's reference implementation, which other backends are compared with ---

// One query, in float64 over an explicit mask. The rules are written here anew, so that a mistake of the kernels is not shared.
void compute_reference(const op & o, int64_t token, int64_t head, ggml_tensor * dst) {
    const int64_t h = head / o.group, p = o.position(token), window = p - p % o.p.chunk - o.head(h).recent;
    std::vector<std::vector<float>> keys(p + 1), values(p + 1);
    std::vector<uint8_t> visible(p + 1);
    for (int64_t j = 0; j <= p; ++j) {
        visible[j] = j < o.p.sink || j >= window;
        values[j].resize(o.dv);
        if (visible[j]) {
            const int64_t cell = j >= o.p.sink ? o.p.sink + (j - o.p.sink) % o.head(h).ring : j;
            const int64_t row  = o.stream(token) * o.p.n_rows + o.head(h).first_row + cell;
            keys[j].resize(o.dk);
            load_rows(o.src.k_cache, row, 1, keys[j].data(), o.dk);
            load_rows(o.src.v_cache, row, 1, values[j].data(), o.dv);
        }
    }
    const std::vector<double> rotated = reference_rotation((const float *) o.src.q->data + (token * o.n_head + head) * o.dk, o.dk, o.p.rotation_k);
    const std::vector<float> q(rotated.begin(), rotated.end());
    std::vector<double> out = reference_attention(q.data(), o.dk, keys, values, visible, o.p.scale, o.p.softcap, o.sink_score(head));
    out = reference_rotation(out.data(), o.dv, o.p.rotation_v);
    std::copy(out.begin(), out.end(), (float *) dst->data + (token * o.n_head + head) * o.dv);
}

} // namespace

size_t ggml_mixed_attn_cpu_work_size(const ggml_tensor * dst, int n_threads) {
    const op o(dst);
    return sizeof(float) * (scratch::floats(o) * n_threads + split_floats(o)) + 64; // 64: to align the first thread's
}

void ggml_compute_forward_mixed_attn(const ggml_compute_params * params, ggml_tensor * dst) {
    const op o(dst);

    const int ith = params->ith;
    const int nth = params->nth;

    float * mem   = (float *) GGML_PAD((uintptr_t) params->wdata, 64);
    float * split = mem + scratch::floats(o) * nth;
    const scratch s(o, mem + scratch::floats(o) * ith);

    if (o.src.k) {
        store(o, s, ith, nth);
    }
    if (ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, nth);
    }
    ggml_barrier(params->threadpool);

    if (params->use_ref) {
        for (int64_t i = ith; i < o.n_tokens * o.n_head; i += nth) {
            compute_reference(o, i / o.n_head, i % o.n_head, dst);
        }
        return;
    }

    // Work is taken item by item, in one order that all threads know: whoever is free takes the next.
    int64_t next = ith;
    int64_t item = 0;
    auto mine = [&] {
        if (item++ != next) {
            return false;
        }
        next = ggml_threadpool_chunk_add(params->threadpool, 1);
        return true;
    };

    for (const bool windows : { false, true }) { // the long ones first
        for_each_tile(o, [&](const tile & t) {
            const int64_t n_segment = ceil_div(t.position + t.n_tokens, o.segment_size);
            for (int64_t h = 0; h < o.n_head_kv; ++h) {
                if (o.sees_window(h) != windows) {
                    continue;
                }
                if (windows || !splits(o) || n_segment == 1) {
                    if (mine()) {
                        compute_tile(o, s, t, h, dst);
                    }
                    continue;
                }
                for (int64_t i = 0; i < n_segment; ++i) {
                    if (mine()) {
                        compute_split(o, s, t, h, i, split);
                    }
                }
            }
        });
    }

    if (!splits(o)) {
        return;
    }
    ggml_barrier(params->threadpool);

    int64_t n = 0;
    for_each_tile(o, [&](const tile & t) {
        if (ceil_div(t.position + t.n_tokens, o.segment_size) == 1) {
            return;
        }
        for (int64_t r = 0; r < t.n_tokens * o.n_head; ++r) {
            const int64_t head = r % o.n_head;
            if (!o.sees_window(head / o.group) && n++ % nth == ith) {
                merge_split(o, s, t.token + r / o.n_head, head, split, dst);
            }
        }
    });
}
