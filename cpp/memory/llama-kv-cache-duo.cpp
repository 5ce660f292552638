#include "llama-kv-cache-duo.h"

#include "duo-placement.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-model.h"
#include "mixed-attention.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

// --- rows ---

// Quantised rows are rotated first, as llama_kv_cache rotates them: K by the largest matrix that divides the head, V by 64. LLAMA_ATTN_ROT_DISABLE turns it off.
// Returns the matrix's side, 0: none.
static int32_t rotation_size(ggml_type type, uint32_t head_size, bool largest) {
    const char * disable = getenv("LLAMA_ATTN_ROT_DISABLE");
    if (!ggml_is_quantized(type) || head_size % 64 != 0 || (disable && atoi(disable))) {
        return 0;
    }
    int32_t n = 64;
    while (largest && head_size % (2 * n) == 0) {
        n *= 2;
    }
    return n;
}

// Sylvester's Hadamard matrix, scaled to be orthonormal: entry (i, j) is (-1)^popcount(i & j) / sqrt(n).
static std::vector<float> hadamard(int64_t n) {
    std::vector<float> m(n * n);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            bool odd = false;
            for (int64_t bits = i & j; bits != 0; bits &= bits - 1) {
                odd = !odd;
            }
            m[i * n + j] = (odd ? -1.0f : 1.0f) / std::sqrt(float(n));
        }
    }
    return m;
}

llama_kv_cache_duo::llama_kv_cache_duo(const llama_model & model, const llama_cparams & cparams, ggml_type type_k, ggml_type type_v) :
    model(model), cparams(cparams), config(*cparams.duo), type_k(type_k), type_v(type_v),
    n_ctx_seq(cparams.n_ctx_seq), layout(config, n_ctx_seq), rings(layout.rings),
    layers(model.hparams.n_layer()), streams(cparams.n_seq_max), primitives_of(model.hparams.n_layer(), -1) {
    const auto & hparams = model.hparams;

    // by name, so that logs and memory_breakdown have the same order each time
    const auto by_name = [](ggml_backend_buffer_type_t a, ggml_backend_buffer_type_t b) { return strcmp(ggml_backend_buft_name(a), ggml_backend_buft_name(b)) < 0; };
    std::map<ggml_backend_buffer_type_t, ggml_context_ptr, decltype(by_name)> ctxs(by_name);
    auto ctx_for = [&](ggml_backend_buffer_type_t buft) {
        auto & ctx = ctxs[buft];
        if (!ctx) {
            ggml_init_params params = { 5 * layers.size() * ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true };
            ctx.reset(ggml_init(params));
        }
        return ctx.get();
    };
    std::map<std::pair<ggml_context *, int64_t>, ggml_tensor *> rotations;
    auto rotation_for = [&](ggml_context * ctx, int64_t n) -> ggml_tensor * {
        if (n == 0) {
            return nullptr;
        }
        ggml_tensor *& t = rotations[{ ctx, n }];
        if (!t) {
            t = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n, n);
            ggml_format_name(t, "cache_duo_rot_%d", int(n));
        }
        return t;
    };

    duo_placer placer(config.operator_only);
    std::vector<bool> by_primitives(layers.size(), false);
    for (uint32_t il = 0; il < layers.size(); ++il) {
        layer & l = layers[il];
        l = {};
        const duo_layout::layer & rows = layout.layers[il];
        if (rows.heads.empty()) {
            continue;
        }
        ggml_backend_dev_t dev = cparams.offload_kqv ? model.dev_layer(il) : ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        const duo_placement placement = placer.place(dev, attn_shape(il), [&](ggml_backend_dev_t d) { return has_primitives(d, il); });
        by_primitives[il] = placement.primitives;
        const bool on_host = ggml_backend_dev_type(placement.dev) == GGML_BACKEND_DEVICE_TYPE_CPU;

        const ggml_type layer_type_k = config.type_k_of(il);
        ggml_context * ctx = ctx_for(on_host ? ggml_backend_cpu_buffer_type() : ggml_backend_dev_buffer_type(placement.dev));
        l.k     = ggml_new_tensor_2d(ctx, layer_type_k, hparams.n_embd_head_k(il), rows.n_rows * streams.size());
        l.v     = ggml_new_tensor_2d(ctx, type_v, hparams.n_embd_head_v(il), rows.n_rows * streams.size());
        l.heads = placement.primitives ? nullptr : ggml_new_tensor_2d(ctx, GGML_TYPE_I32, 4, int64_t(rows.heads.size()));
        l.rotation_k = rotation_size(layer_type_k, hparams.n_embd_head_k(il), true);
        l.rotation_v = rotation_size(type_v, hparams.n_embd_head_v(il), false);
        if (placement.primitives) {
            l.rot_k = rotation_for(ctx, l.rotation_k);
            l.rot_v = rotation_for(ctx, l.rotation_v);
        }
        ggml_format_name(l.k,     "cache_duo_k_l%u",     il);
        ggml_format_name(l.v,     "cache_duo_v_l%u",     il);
        if (l.heads) {
            ggml_format_name(l.heads, "cache_duo_heads_l%u", il);
        }
    }
    for (uint32_t il = 0; il < layers.size(); ++il) {
        if (by_primitives[layout.layers[il].stored_by] && !config.layers[il].recent.empty()) {
            primitives_of[il] = primitives.add(model.hparams.n_head(il), head_map(layout.layers[il].stored_by), attn_params(il, 1.0f));
        }
    }

    for (auto & [buft, ctx] : ctxs) {
        ggml_backend_buffer_t buf;
        if (hparams.no_alloc) {
            buf = ggml_backend_buft_alloc_buffer(buft, 0);
            for (ggml_tensor * t = ggml_get_first_tensor(ctx.get()); t; t = ggml_get_next_tensor(ctx.get(), t)) {
                t->buffer = buf; // so that the scheduler does not allocate it
            }
        } else {
            buf = ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), buft);
        }
        if (!buf) {
            const duo_kv_size s = size();
            throw std::runtime_error(format("failed to allocate the mixed-head KV cache of %.1f MiB in %s; use a smaller context, a higher sparsity or a smaller cache type",
                    s.total_bytes / 1024.0 / 1024.0, ggml_backend_buft_name(buft)));
        }
        ggml_backend_buffer_clear(buf, 0);
        ctxs_bufs.emplace_back(std::move(ctx), buf);
    }

    for (uint32_t il = 0; il < layers.size() && !hparams.no_alloc; ++il) {
        upload_heads(il);
    }
    for (const auto & [key, t] : rotations) {
        if (!hparams.no_alloc) {
            const std::vector<float> m = hadamard(t->ne[0]);
            ggml_backend_tensor_set(t, m.data(), 0, ggml_nbytes(t));
        }
    }

    const duo_kv_size s = size();
    LLAMA_LOG_INFO("%s: %u retrieval heads x %u cells, %u streaming heads x %u cells (sink %d, recent %d, chunk %d), %u seqs, K (%s), V (%s)\n",
            __func__, s.n_retrieval, s.n_ctx_seq, s.n_streaming, s.n_cells_streaming, s.sink, s.recent, s.chunk, s.n_seq, config.type_k_name().c_str(), ggml_type_name(type_v));
    if (s.n_windowed > 0) {
        LLAMA_LOG_INFO("%s: %u heads of the model's own sliding windows x %u cells\n", __func__, s.n_windowed, s.n_cells_windowed);
    }
    LLAMA_LOG_INFO("%s: size = %.2f MiB, of %.2f MiB with every head full\n",
            __func__, s.total_bytes / 1024.0 / 1024.0, s.full_bytes / 1024.0 / 1024.0);
}

std::vector<ggml_mixed_attn_head> llama_kv_cache_duo::head_map(uint32_t il) const {
    std::vector<ggml_mixed_attn_head> map;
    for (size_t h = 0; h < layout.layers[il].heads.size(); ++h) {
        const duo_layout::head & rows = layout.layers[il].heads[h];
        const bool is_set = !windows.empty() && !windows[il].empty();
        map.push_back({ rows.first_row, is_set ? windows[il][h] : config.layers[il].recent[h], rows.i_ring < 0 ? int32_t(n_ctx_seq) : rings[rows.i_ring].n_ring, 0 });
    }
    return map;
}

void llama_kv_cache_duo::upload_heads(uint32_t il) {
    if (layers[il].heads) {
        const auto map = head_map(il);
        ggml_backend_tensor_set(layers[il].heads, map.data(), 0, map.size() * sizeof(map[0]));
    }
}

ggml_mixed_attn_shape llama_kv_cache_duo::attn_shape(uint32_t il) const {
    const auto & hparams = model.hparams;
    return { hparams.n_embd_head_k(il), hparams.n_embd_head_v(il), hparams.n_head(il), hparams.n_head_kv(il), config.type_k_of(config.layers[il].stored_by), type_v };
}

bool llama_kv_cache_duo::has_primitives(ggml_backend_dev_t dev, uint32_t il) const {
    for (uint32_t other = il; other < layers.size(); ++other) {
        if (layout.layers[other].stored_by == il && !config.layers[other].recent.empty() && !duo_primitives_supported(dev, attn_shape(other), head_map(il), attn_params(other, 1.0f),
                model.layers[other].attn_sinks != nullptr, streams.size(), config.n_ubatch)) {
            return false;
        }
    }
    return true;
}

void llama_kv_cache_duo::set_windows(const std::vector<std::vector<int32_t>> & next) {
    bool fits = next.size() == layers.size() && config.heads.n_streaming() == 0;
    for (size_t il = 0; il < next.size() && fits; ++il) {
        fits = next[il].size() == config.heads.streaming[il].size();
    }
    if (!fits) {
        throw std::runtime_error("heads can be given windows only where all are stored in full, and by a table of the model's shape");
    }
    if (!primitives.layers.empty()) {
        throw std::runtime_error("heads can be given windows only where GGML_OP_MIXED_ATTN attends: make the context with operator_only");
    }
    const auto before = std::exchange(windows, next);
    for (uint32_t il = 0; il < layers.size(); ++il) {
        if (before.empty() || before[il] != windows[il]) {
            upload_heads(il);
        }
    }
}

ggml_mixed_attn_params llama_kv_cache_duo::attn_params(int32_t il, float scale) const {
    const auto & hparams = model.hparams;
    ggml_mixed_attn_params p = {};
    p.scale   = scale;
    p.softcap = hparams.attn_soft_cap ? hparams.f_attn_logit_softcapping : 0.0f;
    p.sink    = config.layers[il].sink;
    p.chunk   = config.layers[il].chunk;
    p.n_ctx   = n_ctx_seq;
    p.layer   = layout.layers[il].stored_by;
    p.n_rows  = layout.layers[p.layer].n_rows;
    p.rotation_k = layers[p.layer].rotation_k;
    p.rotation_v = layers[p.layer].rotation_v;
    return p;
}

std::map<ggml_backend_buffer_type_t, size_t> llama_kv_cache_duo::memory_breakdown() const {
    std::map<ggml_backend_buffer_type_t, size_t> res;
    for (const auto & [ctx, buf] : ctxs_bufs) {
        ggml_backend_buffer_type_t buft = ggml_backend_buffer_get_type(buf.get());
        res[buft] += model.hparams.no_alloc ? ggml_backend_alloc_ctx_tensors_from_buft_size(ctx.get(), buft) : ggml_backend_buffer_get_size(buf.get());
    }
    return res;
}

// --- batches ---

// What llama.cpp takes a token's row and column from, text's too.
static duo_positions::token token_of(const llama_ubatch & u, uint32_t i) {
    return u.is_pos_2d() ? duo_positions::token { u.pos[i], u.pos[i + u.n_tokens], u.pos[i + 2 * u.n_tokens] } : duo_positions::token { u.pos[i], u.pos[i], u.pos[i] };
}

std::string llama_kv_cache_duo::check_batch(const std::vector<llama_ubatch> & ubatches) const {
    if (!cparams.causal_attn) {
        return "its attention is not causal, as that of some models' images is, and then there is no recent window; "
               "leave the images out, or use the model without mixed heads (--duo-*)";
    }
    // Where positions may be repeated and left out, all that counts is that tokens come in the order in which llama.cpp has them see each other.
    const bool  any_order = model.hparams.n_pos_per_embd() > 1;
    const bool  windows   = model.hparams.swa_type != LLAMA_SWA_TYPE_NONE; // which count positions
    std::vector<int64_t>              next;
    std::vector<duo_positions::token> last;
    for (const duo_stream & s : streams) {
        next.push_back(s.size());
        last.push_back(s.get_positions().last());
    }
    for (const auto & ubatch : ubatches) {
        for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
            if (ubatch.n_seq_id[i] != 1) {
                return format("a token belongs to %d sequences; expected one", ubatch.n_seq_id[i]);
            }
            const llama_seq_id seq_id = ubatch.seq_id[i][0];
            if (seq_id < 0 || size_t(seq_id) >= streams.size()) {
                return format("a token's sequence is %d; expected one below the context's %zu", seq_id, streams.size());
            }
            const duo_positions::token token = token_of(ubatch, i);
            if (token.pos != next[seq_id] && (!any_order || windows)) {
                return format("a token's position is %d; expected %" PRId64 ", the next of sequence %d%s", token.pos, next[seq_id], seq_id, !any_order ? "" :
                        ": the model's sliding windows count positions, which images (M-RoPE) share and leave out; leave the images out");
            }
            const duo_positions::token & before = last[seq_id];
            if (token.pos == before.pos && before.is_cut()) {
                return format("a token's position is %d, that of an image of which sequence %d has a part, and where that ends is not known; "
                        "remove the part and decode the whole image, or decode what comes behind it", token.pos, seq_id);
            }
            if (token.pos < 0 || !(before < token)) {
                return format("a token's position is %d, its row %d and its column %d; expected one behind position %d, row %d and column %d, where sequence %d ends: "
                        "decode tokens in their order, an image row by row", token.pos, token.y, token.x, before.pos, before.y, before.x, seq_id);
            }
            if (next[seq_id] >= n_ctx_seq) {
                return format("the context of sequence %d has room for %u tokens, which are there; use a larger context", seq_id, n_ctx_seq);
            }
            next[seq_id]++;
            last[seq_id] = token;
        }
    }
    return "";
}

bool llama_kv_cache_duo::prepare(const std::vector<llama_ubatch> & ubatches) const {
    const std::string reason = check_batch(ubatches);
    if (!reason.empty()) {
        LLAMA_LOG_ERROR("%s: the mixed-head cache cannot take this batch: %s\n", __func__, reason.c_str());
    }
    return reason.empty();
}

llama_memory_context_ptr llama_kv_cache_duo::init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) {
    balloc.split_reset();

    // A pool is made of the tokens of a ubatch, so it has all of a sequence's; the last token alone is in the last ubatch anyway.
    const bool pools = embd_all && cparams.pooling_type != LLAMA_POOLING_TYPE_NONE && cparams.pooling_type != LLAMA_POOLING_TYPE_LAST;

    // As stock does for several streams, sequences have equally many of a ubatch's tokens: those that decode keep the kernels for that while another's prompt
    // is processed. Which ids they have does not matter to our operator.
    std::vector<llama_ubatch> ubatches;
    while (true) {
        auto ubatch = streams.size() == 1 ? balloc.split_simple(n_ubatch) :
                                    pools ? balloc.split_seq(n_ubatch)    : balloc.split_equal(n_ubatch, needs_sequential(), 0);
        if (ubatch.n_tokens == 0) {
            break;
        }
        ubatches.push_back(std::move(ubatch));
    }
    if (balloc.get_n_used() < balloc.get_n_tokens() || !prepare(ubatches)) { // some fit no ubatch: they belong to several sequences
        return std::make_unique<llama_kv_cache_duo_context>(LLAMA_MEMORY_STATUS_FAILED_PREPARE);
    }
    return std::make_unique<llama_kv_cache_duo_context>(this, std::move(ubatches));
}

llama_memory_context_ptr llama_kv_cache_duo::init_full() {
    return std::make_unique<llama_kv_cache_duo_context>(this);
}

llama_memory_context_ptr llama_kv_cache_duo::init_update(llama_context * lctx, bool optimize) {
    GGML_UNUSED(optimize);
    if (copies.empty()) {
        return std::make_unique<llama_kv_cache_duo_context>(LLAMA_MEMORY_STATUS_NO_UPDATE);
    }
    return std::make_unique<llama_kv_cache_duo_context>(this, lctx);
}

void llama_kv_cache_duo::apply_ubatch(const llama_ubatch & ubatch) {
    sizes_before.clear();
    for (const duo_stream & s : streams) {
        sizes_before.push_back(s.size());
    }
    ordinals.clear();
    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        duo_stream & s = streams[ubatch.seq_id[i][0]];
        ordinals.push_back(int32_t(s.size()));
        s.append(rings, branch_ids, token_of(ubatch, i)); // check_batch saw that it comes behind the last
    }
}

bool llama_kv_cache_duo_context::next() {
    kv->end_ubatch();
    return ++i_cur < ubatches.size();
}

bool llama_kv_cache_duo_context::apply() {
    if (lctx) {
        llama_synchronize(lctx);
        kv->copy_streams();
    } else if (!ubatches.empty()) {
        kv->apply_ubatch(ubatches[i_cur]);
    }
    return true;
}

// --- sequences ---

void llama_kv_cache_duo::clear(bool data) {
    std::fill(streams.begin(), streams.end(), duo_stream());
    copies.clear();
    end_ubatch();
    if (data) {
        for (const layer & l : layers) {
            for (ggml_tensor * t : { l.k, l.v }) { // not the head map
                if (t && t->data) {
                    ggml_backend_tensor_memset(t, 0, 0, ggml_nbytes(t));
                }
            }
        }
    }
}

// The streams that a sequence id means: -1 all.
static std::pair<size_t, size_t> streams_of(llama_seq_id seq_id, size_t n) {
    GGML_ASSERT(seq_id == -1 || (seq_id >= 0 && size_t(seq_id) < n));
    return seq_id < 0 ? std::pair(size_t(0), n) : std::pair(size_t(seq_id), size_t(seq_id) + 1);
}

bool llama_kv_cache_duo::can_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const {
    for (auto [i, end] = streams_of(seq_id, streams.size()); i < end; ++i) {
        const duo_stream & s = streams[i];
        const tokens removed = tokens_at(i, p0, p1);
        if (removed.n > 0 && (removed.begin + removed.n < s.size() || !s.can_resume(rings, removed.begin))) {
            return false; // a gap, or a tail whose window is gone
        }
    }
    return true;
}

llama_kv_cache_duo::tokens llama_kv_cache_duo::tokens_at(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const {
    const duo_positions & positions = streams[seq_id].get_positions();
    const int64_t begin = positions.n_before(p0), end = p1 < 0 ? positions.size() : positions.n_before(p1);
    return begin < end ? tokens { begin, end - begin, positions.at(begin) } : tokens { begin, 0, -1 };
}

bool llama_kv_cache_duo::seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    // A ubatch that was aborted goes, and no more of an image than it had: llama.cpp asks for all that has its positions, and takes no refusal.
    for (size_t i = 0; i < sizes_before.size(); ++i) {
        streams[i].truncate(rings, sizes_before[i]);
    }
    end_ubatch();
    if (!can_rm(seq_id, p0, p1)) {
        return false;
    }
    for (auto [i, end] = streams_of(seq_id, streams.size()); i < end; ++i) {
        if (const tokens removed = tokens_at(i, p0, p1); removed.n > 0) {
            streams[i].truncate(rings, removed.begin);
        }
    }
    return true;
}

void llama_kv_cache_duo::seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    GGML_ASSERT(seq_id_src >= 0 && size_t(seq_id_src) < streams.size());
    GGML_ASSERT(seq_id_dst >= 0 && size_t(seq_id_dst) < streams.size());
    if (seq_id_src == seq_id_dst) {
        return;
    }
    const duo_stream & src = streams[seq_id_src];
    streams[seq_id_dst] = {};

    if (src.get_positions().n_before(p0) > 0 || (p1 >= 0 && p1 <= src.pos_max())) {
        LLAMA_LOG_ERROR("%s: the mixed-head cache copies whole sequences only, not positions [%d, %d) of one that ends at %d: sequence %d is left empty\n",
                __func__, p0, p1, src.pos_max(), seq_id_dst);
        return;
    }
    streams[seq_id_dst] = src.copy();
    copies.push_back({ uint32_t(seq_id_src), uint32_t(seq_id_dst), src });
}

void llama_kv_cache_duo::seq_keep(llama_seq_id seq_id) {
    for (size_t i = 0; i < streams.size(); ++i) {
        if (i != size_t(seq_id)) {
            streams[i] = {};
        }
    }
}

void llama_kv_cache_duo::seq_add(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) {
    GGML_UNUSED(p0);
    GGML_UNUSED(p1);
    if (shift != 0) {
        LLAMA_LOG_ERROR("%s: the mixed-head cache cannot shift positions: sequence %d is left as it is\n", __func__, seq_id);
    }
}

void llama_kv_cache_duo::seq_div(llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) {
    GGML_UNUSED(p0);
    GGML_UNUSED(p1);
    if (d != 1) {
        LLAMA_LOG_ERROR("%s: the mixed-head cache cannot divide positions: sequence %d is left as it is\n", __func__, seq_id);
    }
}

llama_pos llama_kv_cache_duo::seq_pos_min(llama_seq_id seq_id) const {
    GGML_ASSERT(seq_id >= 0 && size_t(seq_id) < streams.size());
    return streams[seq_id].pos_min(rings);
}

llama_pos llama_kv_cache_duo::seq_pos_max(llama_seq_id seq_id) const {
    GGML_ASSERT(seq_id >= 0 && size_t(seq_id) < streams.size());
    return streams[seq_id].pos_max();
}

void llama_kv_cache_duo::for_each_head(uint32_t i_stream, const std::function<void(ggml_tensor * t, int64_t row, const duo_layout::head & head)> & f) const {
    for (size_t il = 0; il < layers.size(); ++il) {
        const duo_layout::layer & rows = layout.layers[il];
        for (ggml_tensor * t : { layers[il].k, layers[il].v }) {
            for (const duo_layout::head & h : rows.heads) {
                f(t, i_stream * rows.n_rows + h.first_row, h);
            }
        }
    }
}

duo_cells llama_kv_cache_duo::cells_held() const {
    duo_cells held;
    for (size_t il = 0; il < layout.layers.size(); ++il) {
        for (const duo_layout::head & head : layout.layers[il].heads) {
            uint64_t & n = config.layers[il].windowed ? held.windowed : head.i_ring >= 0 ? held.streaming : held.retrieval;
            for (const duo_stream & stream : streams) {
                n += head.i_ring >= 0 ? stream.n_cells_used(rings, head.i_ring) : stream.size();
            }
        }
    }
    return held;
}

// A device's own copy where source and target are on it; through the host, by itself, where they are not.
static void copy_rows(ggml_tensor * t, int64_t from, int64_t to, int64_t n) {
    ggml_init_params params = { 2 * ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true };
    ggml_context_ptr ctx { ggml_init(params) };
    const auto rows = [&](int64_t first) {
        ggml_tensor * view = ggml_view_2d(ctx.get(), t, t->ne[0], n, t->nb[1], first * t->nb[1]);
        ggml_backend_view_init(view);
        return view;
    };
    ggml_backend_tensor_copy(rows(from), rows(to));
}

void llama_kv_cache_duo::copy_streams() {
    for (const stream_copy & c : copies) {
        for_each_head(c.dst, [&](ggml_tensor * t, int64_t row, const duo_layout::head & h) {
            const int64_t from = row + (int64_t(c.src) - c.dst) * (t->ne[1] / int64_t(streams.size()));
            const int64_t n    = h.i_ring < 0 ? c.held.size() : c.held.n_cells_used(rings, h.i_ring);
            if (n > 0) {
                copy_rows(t, from, row, n);
            }
        });
    }
    copies.clear();
}

uint32_t llama_kv_cache_duo::home(uint32_t i) const {
    for (auto c = copies.rbegin(); c != copies.rend(); ++c) {
        if (c->dst == i) {
            i = c->src;
        }
    }
    return i;
}

