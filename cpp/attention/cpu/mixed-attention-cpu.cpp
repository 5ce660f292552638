// Mixed-head attention on the CPU.
//
// The result for a query depends on its position and on what the cache holds, never on how tokens were batched or how many threads work: keys are
// taken in blocks of fixed absolute positions, blocks are summed in segments of fixed absolute positions that each start from nothing, and segments
// are merged in order. Threads only decide who computes which segment.
//
//   position    0        64       128             1024                    2048
//               | block  | block  | ...           |                       |
//               | segment 0                       | segment 1             | ...
//
// All query heads of a KV head, and several tokens, form one tile: a K or V row is read and converted once for all of them.

#include "mixed-attention-cpu.h"

#include "cache-rows.h"
#include "mixed-attention.h"
#include "simd.h"
#include "visibility.h"

#include "ggml-cpu-impl.h"
#include "ggml-impl.h"
#include "vec.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

using duo::simd;
using duo::simd_fma;
using duo::simd_load;
using duo::simd_max;
using duo::simd_set;
using duo::simd_store;
using duo::simd_width;

constexpr int     block_size   = 64;   // keys converted at a time
constexpr int64_t segment_size = 1024; // keys summed from nothing: short enough for threads to share a context of a few thousand evenly
constexpr int     tile_rows    = 64;   // queries of a tile: tokens x query heads of the group
constexpr int     split_tokens = 16;   // up to this many tokens, a retrieval head's segments are shared out among threads

constexpr float neg_inf = -std::numeric_limits<float>::infinity();

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t pad_to(int64_t n, int64_t m)   { return ceil_div(n, m) * m; }

// The operator's tensors and sizes, read once.
struct op {
    explicit op(const ggml_tensor * dst);

    ggml_mixed_attn_params p;
    const ggml_tensor *q, *k, *v, *k_cache, *v_cache, *tokens, *heads;

    int64_t dk, dv;       // head sizes
    int64_t ldk, ldv;     // the same, padded to whole vectors
    int64_t n_head, n_head_kv, n_tokens, group;
    int64_t tile_tokens;  // at most, a tile

    int64_t position(int64_t t) const { return ((const int32_t *) tokens->data)[2 * t]; }
    int64_t stream  (int64_t t) const { return ((const int32_t *) tokens->data)[2 * t + 1]; }
    int64_t first_row(int64_t h) const { return ((const int64_t *) heads->data)[2 * h]; }
    int64_t kind     (int64_t h) const { return ((const int64_t *) heads->data)[2 * h + 1]; }
    bool    windowed (int64_t h) const { return kind(h) != GGML_MIXED_ATTN_HEAD_RETRIEVAL; } // sees sinks and recent keys only

    int64_t row(int64_t t_stream, int64_t h, int64_t position) const {
        return t_stream * p.n_rows + first_row(h) + (kind(h) == GGML_MIXED_ATTN_HEAD_STREAMING ? duo_ring_cell(position, p.sink, p.ring) : position);
    }
};

op::op(const ggml_tensor * dst) :
    q(dst->src[0]), k(dst->src[1]), v(dst->src[2]), k_cache(dst->src[3]), v_cache(dst->src[4]), tokens(dst->src[5]), heads(dst->src[6]),
    dk(q->ne[0]), dv(v->ne[0]), ldk(pad_to(dk, simd_width)), ldv(pad_to(dv, simd_width)),
    n_head(q->ne[1]), n_head_kv(k->ne[1]), n_tokens(q->ne[2]), group(n_head / n_head_kv),
    tile_tokens(std::max<int64_t>(1, tile_rows / group)) {
    memcpy(&p, dst->op_params, sizeof(p));
}

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
    float * score;   // [tile_rows][block_size], then the weights
    partial segment; // the segment being summed
    partial total;   // the merged segments so far

    static int64_t floats(const op & o) {
        const int64_t rows = max_rows(o);
        return pad_to(rows * o.ldk + block_size * (o.ldk + o.ldv) + rows * block_size + 2 * partial_floats(rows, o.ldv), 16);
    }
    static int64_t max_rows(const op & o) { return o.tile_tokens * o.group; }

    scratch(const op & o, float * mem) {
        const int64_t rows = max_rows(o);
        q       = mem;
        k       = q + rows * o.ldk;
        v       = k + block_size * o.ldk;
        score   = v + block_size * o.ldv;
        segment = make_partial(score + rows * block_size, rows);
        total   = make_partial(segment.max + partial_floats(rows, o.ldv), rows);
        if (o.ldk != o.dk || o.ldv != o.dv) {
            // the padding takes part in sums: it must be zero, and nothing writes it later
            std::fill_n(q, rows * o.ldk + block_size * (o.ldk + o.ldv), 0.0f);
        }
    }
};

// --- storing ---

void store(const op & o, int ith, int nth) {
    const int64_t n = o.n_tokens * o.n_head_kv;
    for (int64_t i = n * ith / nth; i < n * (ith + 1) / nth; ++i) {
        const int64_t t   = i / o.n_head_kv;
        const int64_t h   = i % o.n_head_kv;
        const int64_t row = o.row(o.stream(t), h, o.position(t));
        duo::store_row(o.k_cache, row, (const float *) o.k->data + i * o.dk);
        duo::store_row(o.v_cache, row, (const float *) o.v->data + i * o.dv);
    }
}

// --- one block of keys ---

// Converts the rows of positions [begin, end) of one block to s.k and s.v: one run of cells, or two where the ring comes round.
void load_block(const op & o, const scratch & s, int64_t stream, int64_t h, int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end;) {
        const int64_t row = o.row(stream, h, j);
        int64_t n = 1;
        while (j + n < end && o.row(stream, h, j + n) == row + n) {
            ++n;
        }
        duo::load_rows(o.k_cache, row, n, s.k + j % block_size * o.ldk, o.ldk);
        duo::load_rows(o.v_cache, row, n, s.v + j % block_size * o.ldv, o.ldv);
        j += n;
    }
}

// score[j] = q . k[j] for the vectors of keys that hold keys begin to end
void score_row(const float * q, const float * k, float * score, int64_t ldk, int begin, int end) {
    for (int j = begin / simd_width * simd_width; j < end; j += simd_width) {
        simd dot[simd_width] = {};
        for (int64_t d = 0; d < ldk; d += simd_width) {
            const simd x = simd_load(q + d);
            for (int i = 0; i < simd_width; ++i) {
                dot[i] = simd_fma(x, simd_load(k + (j + i) * ldk + d), dot[i]);
            }
        }
        simd_store(score + j, duo::simd_sum_each(dot));
    }
}

// acc[r] = acc[r] * rescale[r] + sum over j of weight[r][j] * v[j], for ROWS rows and VECS vectors of the head at a time, so that sums stay in registers
template <int ROWS, int VECS>
void add_values(const float * weight, const float * v, float * acc, const float * rescale, int64_t ldv, int begin, int end) {
    simd sum[ROWS][VECS] = {};
    for (int j = begin; j < end; ++j) {
        simd x[VECS];
        for (int i = 0; i < VECS; ++i) {
            x[i] = simd_load(v + j * ldv + i * simd_width);
        }
        for (int r = 0; r < ROWS; ++r) {
            const simd w = simd_set(weight[r * block_size + j]);
            for (int i = 0; i < VECS; ++i) {
                sum[r][i] = simd_fma(x[i], w, sum[r][i]);
            }
        }
    }
    for (int r = 0; r < ROWS; ++r) {
        for (int i = 0; i < VECS; ++i) {
            float * a = acc + r * ldv + i * simd_width;
            simd_store(a, simd_fma(simd_load(a), simd_set(rescale[r]), sum[r][i]));
        }
    }
}

template <int ROWS>
void add_values_rows(const float * weight, const float * v, float * acc, const float * rescale, int64_t ldv, int begin, int end) {
    int64_t d = 0;
    for (; d + 4 * simd_width <= ldv; d += 4 * simd_width) {
        add_values<ROWS, 4>(weight, v + d, acc + d, rescale, ldv, begin, end);
    }
    for (; d < ldv; d += simd_width) {
        add_values<ROWS, 1>(weight, v + d, acc + d, rescale, ldv, begin, end);
    }
}

// Written out: compilers leave a loop of std::max scalar, for the sake of NaN (attention in prefill: 3.86 s so, 3.69 s in vectors).
float block_max(const float * score) {
    simd max = simd_load(score);
    for (int j = simd_width; j < block_size; j += simd_width) {
        max = simd_max(max, simd_load(score + j));
    }
    float lanes[simd_width];
    simd_store(lanes, max);
    return *std::max_element(lanes, lanes + simd_width);
}

// Adds keys [begin, end) of one block to the segment's sums. A query may see fewer of them: row r sees positions [window(r), position(r)] only.
void add_block(const op & o, const scratch & s, const tile & t, int64_t h, int64_t begin, int64_t end, bool sinks) {
    const int64_t block = begin / block_size * block_size;
    const int     b = int(begin - block);
    const int     e = int(end - block);

    load_block(o, s, t.stream, h, begin, end);

    const int64_t n_rows = t.n_tokens * o.group;
    float rescale[4];
    for (int64_t r0 = 0; r0 < n_rows; r0 += 4) {
        const int n = int(std::min<int64_t>(4, n_rows - r0));
        for (int i = 0; i < n; ++i) {
            const int64_t r = r0 + i;
            float * score = s.score + r * block_size;

            const int64_t position = t.position + r / o.group;
            const int64_t window   = sinks || !o.windowed(h) ? 0 : duo_window_begin(position, o.p.recent, o.p.chunk);
            const int     from = int(std::max(begin, window) - block);
            const int     to   = int(std::min(end, position + 1) - block);

            rescale[i] = 1.0f;
            if (from >= to) {
                std::fill_n(score, block_size, 0.0f);
                continue;
            }

            score_row(s.q + r * o.ldk, s.k, score, o.ldk, from, to);
            if (o.p.softcap != 0.0f) {
                for (int j = from; j < to; ++j) {
                    score[j] = o.p.softcap * tanhf(score[j] / o.p.softcap);
                }
            }
            std::fill(score, score + from, neg_inf);
            std::fill(score + to, score + block_size, neg_inf);

            const float max = std::max(s.segment.max[r], block_max(score));
            if (s.segment.max[r] != neg_inf) {
                rescale[i] = expf(s.segment.max[r] - max);
            }
            const float sum = float(ggml_vec_soft_max_f32(block_size, score, score, max));
            s.segment.sum[r] = std::fma(s.segment.sum[r], rescale[i], sum);
            s.segment.max[r] = max;
        }

        const float * weight = s.score + r0 * block_size;
        float *       acc    = s.segment.acc + r0 * o.ldv;
        switch (n) {
            case 4: add_values_rows<4>(weight, s.v, acc, rescale, o.ldv, b, e); break;
            case 3: add_values_rows<3>(weight, s.v, acc, rescale, o.ldv, b, e); break;
            case 2: add_values_rows<2>(weight, s.v, acc, rescale, o.ldv, b, e); break;
            case 1: add_values_rows<1>(weight, s.v, acc, rescale, o.ldv, b, e); break;
        }
    }
}

void add_range(const op & o, const scratch & s, const tile & t, int64_t h, int64_t begin, int64_t end, bool sinks) {
    for (int64_t j = begin; j < end; j = (j / block_size + 1) * block_size) {
        add_block(o, s, t, h, j, std::min(end, (j / block_size + 1) * block_size), sinks);
    }
}

// Sums segment i of the tile's keys into s.segment.
void sum_segment(const op & o, const scratch & s, const tile & t, int64_t h, int64_t i) {
    const int64_t begin = i * segment_size;
    const int64_t end   = std::min(begin + segment_size, t.position + t.n_tokens);

    s.segment.clear(t.n_tokens * o.group, o.ldv);
    if (!o.windowed(h)) {
        add_range(o, s, t, h, begin, end, false);
        return;
    }
    // the sinks, as far as they go, then what the first query's window adds
    const int64_t sink   = std::min<int64_t>(o.p.sink, t.position + t.n_tokens);
    const int64_t window = std::max(sink, duo_window_begin(t.position, o.p.recent, o.p.chunk));
    add_range(o, s, t, h, begin, std::min(end, sink), true);
    add_range(o, s, t, h, std::max(begin, window), end, false);
}

// --- tiles ---

void load_queries(const op & o, const scratch & s, const tile & t, int64_t h) {
    for (int64_t r = 0; r < t.n_tokens * o.group; ++r) {
        const float * src = (const float *) o.q->data + ((t.token + r / o.group) * o.n_head + h * o.group + r % o.group) * o.dk;
        for (int64_t d = 0; d < o.dk; ++d) {
            s.q[r * o.ldk + d] = src[d] * o.p.scale;
        }
    }
}

void write_row(const op & o, ggml_tensor * dst, const partial & p, int64_t r, int64_t token, int64_t head) {
    float * out = (float *) dst->data + (token * o.n_head + head) * o.dv;
    for (int64_t d = 0; d < o.dv; ++d) {
        out[d] = p.acc[r * o.ldv + d] / p.sum[r];
    }
}

void compute_tile(const op & o, const scratch & s, const tile & t, int64_t h, ggml_tensor * dst) {
    const int64_t n_rows = t.n_tokens * o.group;
    load_queries(o, s, t, h);
    s.total.clear(n_rows, o.ldv);

    // a streaming head sees nothing between its sinks' last segment and its window's first
    const int64_t n_segment = ceil_div(t.position + t.n_tokens, segment_size);
    for (int64_t i = 0; i < n_segment; ++i) {
        if (o.windowed(h) && i * segment_size >= o.p.sink) {
            i = std::max(i, duo_window_begin(t.position, o.p.recent, o.p.chunk) / segment_size);
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

int64_t max_segments(const op & o) { return ceil_div(o.p.n_ctx, segment_size); }

// Partial sums of all segments of a token's query heads: [n_tokens * n_head][max_segments]
int64_t split_floats(const op & o) {
    return splits(o) ? o.n_tokens * o.n_head * max_segments(o) * partial_floats(1, o.ldv) : 0;
}

partial split_partial(const op & o, float * mem, int64_t token, int64_t head, int64_t segment) {
    return make_partial(mem + ((token * o.n_head + head) * max_segments(o) + segment) * partial_floats(1, o.ldv), 1);
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
    for (int64_t i = 0; i < ceil_div(o.position(token) + 1, segment_size); ++i) {
        merge_row(s.total, split_partial(o, mem, token, head, i), 0, o.ldv);
    }
    write_row(o, dst, s.total, 0, token, head);
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

    store(o, ith, nth);
    if (ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, nth);
    }
    ggml_barrier(params->threadpool);

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

    for (const bool windowed : { false, true }) { // the long ones first
        for_each_tile(o, [&](const tile & t) {
            const int64_t n_segment = ceil_div(t.position + t.n_tokens, segment_size);
            for (int64_t h = 0; h < o.n_head_kv; ++h) {
                if (o.windowed(h) != windowed) {
                    continue;
                }
                if (windowed || !splits(o) || n_segment == 1) {
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
        if (ceil_div(t.position + t.n_tokens, segment_size) == 1) {
            return;
        }
        for (int64_t r = 0; r < t.n_tokens * o.n_head; ++r) {
            const int64_t head = r % o.n_head;
            if (!o.windowed(head / o.group) && n++ % nth == ith) {
                merge_split(o, s, t.token + r / o.n_head, head, split, dst);
            }
        }
    });
}
