#include "duo-primitives.h"

#include "visibility.h"

#include "ggml-cpp.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

// --- layers ---

static bool same(const ggml_mixed_attn_head & a, const ggml_mixed_attn_head & b) { return a.first_row == b.first_row && a.recent == b.recent && a.ring == b.ring; }

bool duo_primitives::layer::in_order() const { return std::is_sorted(order.begin(), order.end()); }

bool duo_primitives::layer::operator==(const layer & other) const {
    const auto alike = [](const group & a, const group & b) { return a.i_mask == b.i_mask && a.n_head_kv == b.n_head_kv && a.first_row == b.first_row; };
    return n_head == other.n_head && n_rows == other.n_rows && sink == other.sink &&
           std::equal(heads.begin(), heads.end(), other.heads.begin(), other.heads.end(), same) &&
           std::equal(groups.begin(), groups.end(), other.groups.begin(), other.groups.end(), alike);
}

int32_t duo_primitives::add(int64_t n_head, const std::vector<ggml_mixed_attn_head> & heads, const ggml_mixed_attn_params & params) {
    layer l = { n_head, params.n_rows, params.sink, heads, {}, {} };
    l.order.resize(heads.size());
    std::iota(l.order.begin(), l.order.end(), 0);
    std::sort(l.order.begin(), l.order.end(), [&](int32_t a, int32_t b) { return heads[a].first_row < heads[b].first_row; });

    const ggml_mixed_attn_head * last = nullptr; // the group's
    for (const int32_t h : l.order) {
        const ggml_mixed_attn_head & head = heads[h];
        const int64_t n_cells = std::min<int64_t>(int64_t(params.sink) + head.ring, params.n_ctx);
        if (last && head.recent == last->recent && head.ring == last->ring && head.first_row == last->first_row + n_cells) {
            l.groups.back().n_head_kv++;
        } else {
            const mask m = { params.sink, head.recent, params.chunk, head.ring, n_cells };
            const auto alike = [&](const mask & o) { return o.sink == m.sink && o.recent == m.recent && o.chunk == m.chunk && o.ring == m.ring && o.n_cells == m.n_cells; };
            const auto it = std::find_if(masks.begin(), masks.end(), alike);
            l.groups.push_back({ 1, head.first_row, int32_t(it - masks.begin()) });
            if (it == masks.end()) {
                masks.push_back(m);
            }
        }
        last = &head;
    }
    const auto it = std::find(layers.begin(), layers.end(), l);
    if (it != layers.end()) {
        return int32_t(it - layers.begin());
    }
    layers.push_back(std::move(l));
    return int32_t(layers.size()) - 1;
}

// --- inputs ---

bool duo_primitives_input::size::operator==(const size & other) const {
    return n_seq_tokens == other.n_seq_tokens && n_seq == other.n_seq && first_seq == other.first_seq && n_kv == other.n_kv;
}

duo_primitives_input::size duo_primitives_input::size_of(const std::vector<int32_t> & tokens, int64_t n_seq, int64_t n_seq_tokens, int64_t n_ctx) {
    size n = { n_seq_tokens, n_seq, 0, n_ctx };
    if (!tokens.empty()) {
        int64_t last = 0;
        for (size_t i = 0; i < tokens.size(); i += 2) {
            last = std::max<int64_t>(last, tokens[i]);
        }
        n.first_seq = tokens[1];
        n.n_kv      = std::min<int64_t>(GGML_PAD(last + 1, 256), n_ctx);
    }
    return n;
}

duo_primitives_input::duo_primitives_input(ggml_context * ctx, const duo_primitives & what, const size & n) : what(what), n(n) {
    const int64_t n_tokens = n.n_seq * n.n_seq_tokens;
    int64_t n_ids = 0;
    for (const duo_primitives::layer & l : what.layers) {
        const auto next = [&](int64_t n) { // of so many; views begin where any device lets them
            const int64_t begin = n_ids;
            n_ids += GGML_PAD(n, 64);
            return begin;
        };
        const int64_t n_moved = l.in_order() ? 0 : l.n_head * n_tokens;
        at.push_back({ next(int64_t(l.heads.size()) * n_tokens), next(n_moved), next(n_moved), next(l.n_head) });
    }
    ids = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n_ids);
    ggml_set_input(ids);
    ggml_set_name(ids, "duo_inp_ids");
    for (const duo_primitives::mask & m : what.masks) {
        masks.push_back(ggml_new_tensor_4d(ctx, GGML_TYPE_F16, std::min(m.n_cells, n.n_kv), n.n_seq_tokens, 1, n.n_seq));
        ggml_set_input(masks.back());
        ggml_format_name(masks.back(), "duo_inp_mask_%zu", masks.size() - 1);
    }
}

// Cells of the positions from begin up to end become visible.
static void show(ggml_fp16_t * cells, const duo_primitives::mask & m, int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end;) {
        const int64_t cell = duo_ring_cell(j, m.sink, m.ring);
        const int64_t next = j < m.sink ? m.sink : j + m.sink + m.ring - cell; // where the ring begins, or comes round
        const int64_t run  = std::min(end, next) - j;
        std::fill_n(cells + cell, run, ggml_fp16_t(0));
        j += run;
    }
}

void duo_primitives_input::set(const std::vector<int32_t> & tokens) const {
    const int64_t n_tokens = n.n_seq * n.n_seq_tokens;
    GGML_ASSERT(int64_t(tokens.size()) == 2 * n_tokens);
    for (int64_t i = 0; i < n_tokens; ++i) {
        GGML_ASSERT(tokens[2 * i + 1] == n.first_seq + i / n.n_seq_tokens && tokens[2 * i] < n.n_kv);
    }
    for (size_t il = 0; il < at.size() && ids->buffer; ++il) {
        set_indices(il, tokens);
    }
    for (size_t im = 0; im < masks.size(); ++im) {
        if (masks[im]->buffer) {
            set_mask(im, tokens);
        }
    }
}

void duo_primitives_input::set_indices(size_t il, const std::vector<int32_t> & tokens) const {
    const duo_primitives::layer & l = what.layers[il];
    const int64_t n_tokens = n.n_seq * n.n_seq_tokens;
    const int64_t ratio    = l.n_head / int64_t(l.heads.size());
    int32_t * data = (int32_t *) ids->data;

    int32_t * rows = data + at[il].rows;
    for (int64_t i = 0; i < n_tokens; ++i) {
        for (const ggml_mixed_attn_head & head : l.heads) {
            *rows++ = int32_t(tokens[2 * i + 1] * l.n_rows + head.first_row + duo_ring_cell(tokens[2 * i], l.sink, head.ring));
        }
    }

    int32_t * heads = data + at[il].heads;
    for (const int32_t h : l.order) {
        for (int64_t r = 0; r < ratio; ++r) {
            *heads++ = int32_t(h * ratio + r);
        }
    }
    if (l.in_order()) {
        return;
    }
    heads = data + at[il].heads;
    int32_t * q   = data + at[il].q;
    int32_t * out = data + at[il].out;
    int32_t moved = 0;
    for (const duo_primitives::group & g : l.groups) {
        for (int64_t i = 0; i < n_tokens; ++i) {
            for (int64_t h = 0; h < g.n_head_kv * ratio; ++h) {
                const int64_t models = i * l.n_head + heads[h];
                q[moved]    = int32_t(models);
                out[models] = moved++;
            }
        }
        heads += g.n_head_kv * ratio;
    }
}

void duo_primitives_input::set_mask(size_t im, const std::vector<int32_t> & tokens) const {
    static const ggml_fp16_t hidden = ggml_fp32_to_fp16(-std::numeric_limits<float>::infinity());

    const duo_primitives::mask & m = what.masks[im];
    ggml_fp16_t * cells = (ggml_fp16_t *) masks[im]->data;
    std::fill_n(cells, ggml_nelements(masks[im]), hidden);
    for (size_t i = 0; i < tokens.size(); i += 2, cells += masks[im]->ne[0]) {
        const int64_t p     = tokens[i];
        const int64_t begin = m.recent == GGML_MIXED_ATTN_ALL ? 0 : duo_window_begin(p, m.recent, m.chunk);
        show(cells, m, 0, std::min<int64_t>(m.sink, p + 1));
        show(cells, m, std::max<int64_t>(m.sink, begin), p + 1);
    }
}

// --- the graph ---

ggml_tensor * duo_primitives_input::build(ggml_context * ctx, const std::function<void(ggml_tensor *)> & node, ggml_tensor * ids, int32_t i_layer,
        const duo_primitives_tensors & t, float scale, float softcap) const {
    const duo_primitives::layer & l = what.layers[i_layer];
    const int64_t n_tokens = n.n_seq * n.n_seq_tokens;
    const int64_t ratio    = l.n_head / int64_t(l.heads.size());
    const auto computed = [&](ggml_tensor * x) {
        node(x);
        return x;
    };
    const auto indices = [&](int64_t first, int64_t count) { return ggml_view_1d(ctx, ids, count, first * ids->nb[0]); };

    for (const auto & [rows, cache] : { std::pair(t.k, t.k_cache), std::pair(t.v, t.v_cache) }) {
        if (rows) {
            const int64_t n_rows = int64_t(l.heads.size()) * n_tokens;
            computed(ggml_set_rows(ctx, cache, ggml_reshape_2d(ctx, rows, rows->ne[0], n_rows), indices(at[i_layer].rows, n_rows)));
        }
    }

    ggml_tensor * q = ggml_reshape_2d(ctx, t.q, t.q->ne[0], l.n_head * n_tokens); // a row is a head of a token
    if (!l.in_order()) {
        q = computed(ggml_get_rows(ctx, q, indices(at[i_layer].q, q->ne[1])));
    }

    ggml_tensor * result = nullptr;
    int64_t first = 0;
    for (const duo_primitives::group & g : l.groups) {
        const int64_t n_head = g.n_head_kv * ratio;
        const duo_primitives::mask & m = what.masks[g.i_mask];

        // [head size, tokens, heads, sequences]
        const int64_t token = l.in_order() ? l.n_head : n_head; // rows from one token to the next
        ggml_tensor * q_group = ggml_view_4d(ctx, q, q->ne[0], n.n_seq_tokens, n_head, n.n_seq, token * q->nb[1], q->nb[1], token * n.n_seq_tokens * q->nb[1],
                (l.in_order() ? first * ratio : first * ratio * n_tokens) * q->nb[1]);
        const auto cells = [&](ggml_tensor * cache) {
            return ggml_view_4d(ctx, cache, cache->ne[0], masks[g.i_mask]->ne[0], g.n_head_kv, n.n_seq,
                    cache->nb[1], m.n_cells * cache->nb[1], l.n_rows * cache->nb[1], (n.first_seq * l.n_rows + g.first_row) * cache->nb[1]);
        };
        ggml_tensor * sinks = t.sinks;
        if (sinks && l.groups.size() > 1) {
            sinks = computed(ggml_get_rows(ctx, ggml_reshape_2d(ctx, sinks, 1, l.n_head), indices(at[i_layer].heads + first * ratio, n_head)));
            sinks = ggml_reshape_1d(ctx, sinks, n_head);
        }
        ggml_tensor * cur = ggml_flash_attn_ext(ctx, q_group, cells(t.k_cache), cells(t.v_cache), masks[g.i_mask], scale, 0.0f, softcap);
        ggml_flash_attn_ext_add_sinks(cur, sinks);
        ggml_prec_set_acc(cur, GGML_PREC_F32);
        node(cur);

        // [head size, heads of all tokens] group after group, or, where the order is the model's, heads beside each other
        cur = l.in_order() ? ggml_reshape_3d(ctx, cur, cur->ne[0], n_head, n_tokens) : ggml_reshape_2d(ctx, cur, cur->ne[0], n_head * n_tokens);
        result = result ? computed(ggml_concat(ctx, result, cur, 1)) : cur;
        first += g.n_head_kv;
    }
    if (!l.in_order()) {
        result = computed(ggml_get_rows(ctx, result, indices(at[i_layer].out, result->ne[1])));
    }
    return ggml_reshape_2d(ctx, result, t.v_cache->ne[0] * l.n_head, n_tokens);
}

// --- devices ---

bool duo_primitives_supported(ggml_backend_dev_t dev, const ggml_mixed_attn_shape & shape, const std::vector<ggml_mixed_attn_head> & heads,
        const ggml_mixed_attn_params & params, bool has_sinks, int64_t n_seq, int64_t n_ubatch) {
    const int64_t n_rows = params.n_rows * n_seq;
    if (n_rows > std::numeric_limits<int32_t>::max()) {
        return false; // an index could not name the last
    }
    duo_primitives what;
    what.add(shape.n_head, heads, params);

    bool supported = true;
    const auto ask = [&](ggml_tensor * t) { supported = supported && ggml_backend_dev_supports_op(dev, t); };
    for (const int64_t n_kv : { std::min(256, params.n_ctx), params.n_ctx }) {
        for (const int64_t n_tokens : { int64_t(1), n_ubatch }) {
            ggml_init_params memory = { (64 + 16 * heads.size()) * ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true };
            ggml_context_ptr ctx { ggml_init(memory) };
            const auto f32 = [&](int64_t a, int64_t b) { return ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, a, b, n_tokens); };

            const duo_primitives_input input(ctx.get(), what, { n_tokens, 1, 0, n_kv });
            ggml_tensor * ids = ggml_cont(ctx.get(), input.indices());
            ask(ids);
            input.build(ctx.get(), ask, ids, 0, {
                    f32(shape.head_size_k, shape.n_head), f32(shape.head_size_k, shape.n_head_kv), f32(shape.head_size_v, shape.n_head_kv),
                    ggml_new_tensor_2d(ctx.get(), shape.type_k, shape.head_size_k, n_rows), ggml_new_tensor_2d(ctx.get(), shape.type_v, shape.head_size_v, n_rows),
                    has_sinks ? ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, shape.n_head) : nullptr }, params.scale, params.softcap);
        }
    }
    return supported;
}
