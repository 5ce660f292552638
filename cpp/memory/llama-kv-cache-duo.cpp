#include "llama-kv-cache-duo.h"

#include "fnv1a.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-io.h"
#include "llama-model.h"
#include "mixed-attention.h"
#include "visibility.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <utility>

// --- rows ---

// llama_kv_cache rotates K by the largest matrix that divides the head, V by 64, where they are quantised; LLAMA_ATTN_ROT_DISABLE turns both off.
// head_size 0: the layers' differ, and nothing is rotated.
static llama_kv_cache_duo::rotation make_rotation(ggml_type type, uint32_t head_size, bool largest) {
    const char * disable = getenv("LLAMA_ATTN_ROT_DISABLE");
    if (!ggml_is_quantized(type) || head_size == 0 || head_size % 64 != 0 || (disable && atoi(disable))) {
        return {};
    }
    int64_t n = 64;
    while (largest && head_size % (2 * n) == 0) {
        n *= 2;
    }
    // Sylvester's Hadamard matrix, scaled to be orthonormal: entry (i, j) is (-1)^popcount(i & j) / sqrt(n)
    llama_kv_cache_duo::rotation rot = { n, std::vector<float>(n * n) };
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            bool odd = false;
            for (int64_t bits = i & j; bits != 0; bits &= bits - 1) {
                odd = !odd;
            }
            rot.matrix[i * n + j] = (odd ? -1.0f : 1.0f) / std::sqrt(float(n));
        }
    }
    return rot;
}

// Head sizes of all layers if they are alike, else 0: rotation is one matrix for all.
static uint32_t common_head_size(const llama_hparams & hparams, uint32_t (llama_hparams::*size)(uint32_t) const) {
    for (uint32_t il = 1; il < hparams.n_layer(); ++il) {
        if ((hparams.*size)(il) != (hparams.*size)(0)) {
            return 0;
        }
    }
    return (hparams.*size)(0);
}

llama_kv_cache_duo::llama_kv_cache_duo(const llama_model & model, const llama_cparams & cparams, ggml_type type_k, ggml_type type_v) :
    model(model), cparams(cparams), config(*cparams.duo), type_k(type_k), type_v(type_v),
    n_ctx_seq(cparams.n_ctx_seq), n_cells_streaming(config.n_cells_streaming(cparams.n_ctx_seq)),
    layers(model.hparams.n_layer()), streams(cparams.n_seq_max) {
    std::random_device random;
    next_branch = uint64_t(random()) << 32 | random();

    const auto & hparams = model.hparams;

    rot_k = make_rotation(type_k, common_head_size(hparams, &llama_hparams::n_embd_head_k), true);
    rot_v = make_rotation(type_v, common_head_size(hparams, &llama_hparams::n_embd_head_v), false);

    std::map<ggml_backend_buffer_type_t, ggml_context_ptr> ctxs;
    std::map<ggml_backend_buffer_type_t, ggml_tensor *>    counters; // layers of a device run one after the other, so they share
    auto ctx_for = [&](ggml_backend_buffer_type_t buft) {
        auto & ctx = ctxs[buft];
        if (!ctx) {
            ggml_init_params params = { (3 * layers.size() + 1) * ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true };
            ctx.reset(ggml_init(params));
            counters[buft] = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, GGML_MIXED_ATTN_COUNTERS);
        }
        return ctx.get();
    };

    bool warned = false, warned_slow = false;
    for (uint32_t il = 0; il < layers.size(); ++il) {
        layer & l = layers[il];
        l = {};
        const int64_t n_head_kv = hparams.n_head_kv(il);
        if (n_head_kv == 0) {
            continue;
        }
        for (const uint8_t streaming : config.heads.streaming[il]) {
            (streaming ? l.n_streaming : l.n_retrieval)++;
        }
        l.n_rows = int64_t(l.n_retrieval) * n_ctx_seq + int64_t(l.n_streaming) * n_cells_streaming;

        ggml_backend_buffer_type_t buft = ggml_backend_cpu_buffer_type();
        if (cparams.offload_kqv) {
            ggml_backend_dev_t dev = model.dev_layer(il);
            const ggml_mixed_attn_shape shape = { hparams.n_embd_head_k(il), hparams.n_embd_head_v(il), hparams.n_head(il), n_head_kv, type_k, type_v };
            if (ggml_mixed_attn_supported(dev, shape)) {
                buft = ggml_backend_dev_buffer_type(dev);
                const char * reason = ggml_mixed_attn_slow_reason(dev, shape);
                if (reason && !warned_slow) {
                    LLAMA_LOG_WARN("%s: the attention on %s will be slow: %s (K is %s, V is %s, %d query and %d KV heads of size %d and %d)\n", __func__,
                            ggml_backend_dev_name(dev), reason, ggml_type_name(type_k), ggml_type_name(type_v),
                            int(shape.n_head), int(shape.n_head_kv), int(shape.head_size_k), int(shape.head_size_v));
                    warned_slow = true;
                }
            } else if (!warned) {
                LLAMA_LOG_WARN("%s: %s has no mixed-head attention for these heads and cache types: "
                        "the cache of its layers is in host memory and their attention runs on the CPU\n", __func__, ggml_backend_dev_name(dev));
                warned = true;
            }
        }

        ggml_context * ctx = ctx_for(buft);
        l.k     = ggml_new_tensor_2d(ctx, type_k, hparams.n_embd_head_k(il), l.n_rows * streams.size());
        l.v     = ggml_new_tensor_2d(ctx, type_v, hparams.n_embd_head_v(il), l.n_rows * streams.size());
        l.heads = ggml_new_tensor_2d(ctx, GGML_TYPE_I64, 2, n_head_kv);
        l.counters = counters[buft];
        ggml_format_name(l.k,     "cache_duo_k_l%u",     il);
        ggml_format_name(l.v,     "cache_duo_v_l%u",     il);
        ggml_format_name(l.heads, "cache_duo_heads_l%u", il);
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

    const duo_kv_size s = size();
    LLAMA_LOG_INFO("%s: %u retrieval heads x %u cells, %u streaming heads x %u cells (sink %d, recent %d, chunk %d), %u seqs, K (%s), V (%s)\n",
            __func__, s.n_retrieval, s.n_ctx_seq, s.n_streaming, s.n_cells_streaming, s.sink, s.recent, s.chunk, s.n_seq, ggml_type_name(type_k), ggml_type_name(type_v));
    LLAMA_LOG_INFO("%s: size = %.2f MiB, of %.2f MiB with every head full\n",
            __func__, s.total_bytes / 1024.0 / 1024.0, s.full_bytes / 1024.0 / 1024.0);
}

void llama_kv_cache_duo::upload_heads(uint32_t il) {
    const layer & l = layers[il];
    if (!l.heads) {
        return;
    }
    int64_t next[2] = { 0, int64_t(l.n_retrieval) * n_ctx_seq };
    std::vector<int64_t> map;
    for (size_t h = 0; h < config.heads.streaming[il].size(); ++h) {
        const bool streams     = config.heads.streaming[il][h];
        const bool is_windowed = !windowed.empty() && windowed[il][h];
        map.push_back(next[streams]);
        map.push_back(streams ? GGML_MIXED_ATTN_HEAD_STREAMING : is_windowed ? GGML_MIXED_ATTN_HEAD_WINDOWED : GGML_MIXED_ATTN_HEAD_RETRIEVAL);
        next[streams] += streams ? n_cells_streaming : n_ctx_seq;
    }
    ggml_backend_tensor_set(l.heads, map.data(), 0, map.size() * sizeof(int64_t));
}

void llama_kv_cache_duo::set_windowed(const std::vector<std::vector<uint8_t>> & next) {
    bool fits = next.size() == layers.size() && config.heads.n_streaming() == 0;
    for (size_t il = 0; il < next.size() && fits; ++il) {
        fits = next[il].size() == config.heads.streaming[il].size();
    }
    if (!fits) {
        throw std::runtime_error("heads can be windowed only where all are stored in full, by a mask of the model's shape");
    }
    const auto before = std::exchange(windowed, next);
    for (uint32_t il = 0; il < layers.size(); ++il) {
        if (before.empty() || before[il] != windowed[il]) {
            upload_heads(il);
        }
    }
}

ggml_mixed_attn_params llama_kv_cache_duo::attn_params(int32_t il, float scale) const {
    const auto & hparams = model.hparams;
    ggml_mixed_attn_params p = {};
    p.scale   = scale;
    p.softcap = hparams.attn_soft_cap ? hparams.f_attn_logit_softcapping : 0.0f;
    p.sink    = config.sink;
    p.recent  = config.recent;
    p.chunk   = config.chunk;
    p.ring    = ring();
    p.n_ctx   = n_ctx_seq;
    p.n_rows  = layers[il].n_rows;
    return p;
}

duo_kv_size llama_kv_cache_duo::size() const {
    duo_kv_size size;
    size.n_ctx_seq = n_ctx_seq;
    size.n_seq     = streams.size();
    size.sink      = config.sink;
    size.recent    = config.recent;
    size.chunk     = config.chunk;
    for (const layer & l : layers) {
        if (!l.k) {
            continue;
        }
        const uint64_t row = l.k->nb[1] + l.v->nb[1];
        size.n_retrieval     += l.n_retrieval;
        size.n_streaming     += l.n_streaming;
        size.retrieval_bytes += row * l.n_retrieval * n_ctx_seq * size.n_seq;
        size.streaming_bytes += row * l.n_streaming * n_cells_streaming * size.n_seq;
        size.total_bytes     += ggml_nbytes(l.k) + ggml_nbytes(l.v);
        size.full_bytes      += row * (l.n_retrieval + l.n_streaming) * n_ctx_seq * size.n_seq;
    }
    size.n_cells_streaming = size.n_streaming > 0 ? n_cells_streaming : 0;
    return size;
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

const char * llama_kv_cache_duo::check_batch(const std::vector<llama_ubatch> & ubatches) const {
    if (!cparams.causal_attn) {
        return "attention that is not causal has no recent window";
    }
    std::vector<llama_pos> next;
    for (const stream & s : streams) {
        next.push_back(s.pos_max + 1);
    }
    for (const auto & ubatch : ubatches) {
        for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
            if (ubatch.n_seq_id[i] != 1) {
                return "a token belongs to several sequences";
            }
            const llama_seq_id seq_id = ubatch.seq_id[i][0];
            if (seq_id < 0 || size_t(seq_id) >= streams.size()) {
                return "a token's sequence id is not below the context's number of sequences";
            }
            if (ubatch.pos[i] != next[seq_id]) {
                return "a token's position is not the next of its sequence";
            }
            if (uint32_t(ubatch.pos[i]) >= n_ctx_seq) {
                return "a token's position is beyond the context of its sequence";
            }
            next[seq_id]++;
        }
    }
    return nullptr;
}

llama_memory_context_ptr llama_kv_cache_duo::init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) {
    GGML_UNUSED(embd_all);

    balloc.split_reset();

    std::vector<llama_ubatch> ubatches;
    while (true) {
        auto ubatch = balloc.split_simple(n_ubatch);
        if (ubatch.n_tokens == 0) {
            break;
        }
        ubatches.push_back(std::move(ubatch));
    }
    if (const char * reason = check_batch(ubatches)) {
        LLAMA_LOG_ERROR("%s: the mixed-head cache cannot take this batch: %s\n", __func__, reason);
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
    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        stream & s = streams[ubatch.seq_id[i][0]];
        if (s.pos_max < 0) {
            begin_branch(s);
        }
        s.pos_max = ubatch.pos[i];
        s.written = std::max(s.written, s.pos_max);
    }
}

bool llama_kv_cache_duo_context::next() {
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
    std::fill(streams.begin(), streams.end(), stream());
    copies.clear();
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

// Storing position w overwrote position w - ring: positions sink to written - ring are gone, and the window of p must begin behind them.
bool llama_kv_cache_duo::can_resume(const stream & s, llama_pos p) const {
    const int64_t lost = int64_t(s.written) - ring();
    return p == 0 || config.heads.n_streaming() == 0 || lost < config.sink || p <= config.sink || duo_window_begin(p, config.recent, config.chunk) > lost;
}

bool llama_kv_cache_duo::seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    GGML_ASSERT(seq_id == -1 || (seq_id >= 0 && size_t(seq_id) < streams.size()));

    p0 = std::max(p0, 0);
    p1 = p1 < 0 ? std::numeric_limits<llama_pos>::max() : p1;

    const size_t begin = seq_id < 0 ? 0 : seq_id;
    const size_t end   = seq_id < 0 ? streams.size() : seq_id + 1;

    for (size_t i = begin; i < end; ++i) {
        const stream & s = streams[i];
        if (p0 > s.pos_max || p0 >= p1) {
            continue; // nothing to remove
        }
        if (p1 <= s.pos_max || !can_resume(s, p0)) {
            return false; // a gap, or a tail whose window is gone
        }
    }
    for (size_t i = begin; i < end; ++i) {
        if (p0 <= streams[i].pos_max && p0 < p1) {
            truncate(streams[i], p0);
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
    const stream & src = streams[seq_id_src];
    streams[seq_id_dst] = stream();

    if (p0 > 0 || (p1 >= 0 && p1 <= src.pos_max)) {
        LLAMA_LOG_ERROR("%s: the mixed-head cache copies whole sequences only, not [%d, %d) of %d positions: sequence %d is left empty\n",
                __func__, p0, p1, src.pos_max + 1, seq_id_dst);
        return;
    }
    streams[seq_id_dst] = src;
    begin_branch(streams[seq_id_dst]);
    copies.push_back({ uint32_t(seq_id_src), uint32_t(seq_id_dst), src });
}

void llama_kv_cache_duo::seq_keep(llama_seq_id seq_id) {
    for (size_t i = 0; i < streams.size(); ++i) {
        if (i != size_t(seq_id)) {
            streams[i] = stream();
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
    const stream & s = streams[seq_id];
    if (s.pos_max < 0) {
        return -1;
    }
    const int64_t lost = int64_t(s.written) - ring();
    if (lost < config.sink || config.heads.n_streaming() == 0) {
        return 0;
    }
    // the first p whose window begins behind what is lost
    const int64_t p = (lost + 1 + config.recent + config.chunk - 1) / config.chunk * config.chunk;
    return std::min<int64_t>(p - 1, s.pos_max);
}

llama_pos llama_kv_cache_duo::seq_pos_max(llama_seq_id seq_id) const {
    GGML_ASSERT(seq_id >= 0 && size_t(seq_id) < streams.size());
    return streams[seq_id].pos_max;
}

template <typename F>
void llama_kv_cache_duo::for_each_rows(const stream & s, uint32_t i_stream, bool partial, F && f) const {
    const int64_t n_full = partial ? 0 : s.pos_max + 1;
    const int64_t n_part = std::min<int64_t>(s.written + 1, n_cells_streaming);
    for (const layer & l : layers) {
        for (ggml_tensor * t : { l.k, l.v }) {
            int64_t row = i_stream * l.n_rows;
            for (uint32_t h = 0; t && n_full > 0 && h < l.n_retrieval; ++h) {
                f(t, row + h * int64_t(n_ctx_seq), n_full);
            }
            row += l.n_retrieval * int64_t(n_ctx_seq);
            for (uint32_t h = 0; t && n_part > 0 && h < l.n_streaming; ++h) {
                f(t, row + h * int64_t(n_cells_streaming), n_part);
            }
        }
    }
}

void llama_kv_cache_duo::copy_streams() {
    std::vector<uint8_t> buf;
    for (const stream_copy & c : copies) {
        for_each_rows(c.held, c.dst, false, [&](ggml_tensor * t, int64_t row, int64_t n) {
            const int64_t from  = row + (int64_t(c.src) - c.dst) * (t->ne[1] / int64_t(streams.size()));
            const int64_t piece = std::max<int64_t>(1, (4 << 20) / t->nb[1]); // a head of a long context may be hundreds of MB
            for (int64_t i = 0; i < n; i += piece) {
                buf.resize(std::min(piece, n - i) * t->nb[1]);
                ggml_backend_tensor_get(t, buf.data(), (from + i) * t->nb[1], buf.size());
                ggml_backend_tensor_set(t, buf.data(), (row  + i) * t->nb[1], buf.size());
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

// --- streams ---

void llama_kv_cache_duo::truncate(stream & s, llama_pos n) {
    if (n <= 0) {
        s = stream();
        return;
    }
    s.pos_max = n - 1;
    if (n <= config.sink) {
        s.written = s.pos_max; // what the ring holds is no longer of it
    }
    begin_branch(s);
}

void llama_kv_cache_duo::begin_branch(stream & s) {
    while (!s.branches.empty() && s.branches.back().begin > s.pos_max) {
        s.branches.pop_back();
    }
    s.branches.push_back({ next_branch++, s.pos_max + 1 });
}

llama_pos llama_kv_cache_duo::common_pos_max(const stream & s, const branch & b, llama_pos pos_max) {
    for (size_t i = 0; i < s.branches.size(); ++i) {
        if (s.branches[i].id == b.id) {
            const int64_t end = i + 1 < s.branches.size() ? s.branches[i + 1].begin : int64_t(s.pos_max) + 1;
            return llama_pos(std::min<int64_t>(pos_max, end - 1));
        }
    }
    return -1;
}

// --- state ---

//   | header | what each stream holds | its rows ... |
//
// All that decides which rows follow and what they mean. Sizes that only bound how much fits are not in it or, as n_cells_streaming, do not count until a
// ring has gone round: so a state outlives another -c and -ub.
struct llama_kv_cache_duo::state_header {
    uint32_t magic;
    uint32_t version;
    uint32_t n_layer;
    uint32_t n_cells_streaming; // these four are 0 where no head streams
    int32_t  sink;
    int32_t  recent;
    int32_t  chunk;
    int32_t  type_k;
    int32_t  type_v;
    int32_t  rot_k;
    int32_t  rot_v;
    uint32_t partial;           // 1: rows of streaming heads only
    uint32_t n_stream;          // streams that follow
    uint32_t reserved;
    uint64_t heads;             // a hash of which heads stream
    uint64_t n_held;            // bytes of what the streams hold
    uint64_t check;             // a hash of all above and of those bytes
};

llama_kv_cache_duo::state_header llama_kv_cache_duo::make_state_header(llama_seq_id seq_id, llama_state_seq_flags flags) const {
    if (seq_id >= 0 && size_t(seq_id) >= streams.size()) {
        throw std::runtime_error(format("the sequence id is %d; expected one below the context's %zu sequences", seq_id, streams.size()));
    }
    if (flags & LLAMA_STATE_SEQ_FLAGS_ON_DEVICE) {
        throw std::runtime_error("a mixed-head cache keeps no states on devices; save it without LLAMA_STATE_SEQ_FLAGS_ON_DEVICE");
    }
    state_header h = {};
    h.magic    = 0x6f756475; // "uduo"
    h.version  = 2;
    h.n_layer  = layers.size();
    if (config.heads.n_streaming() > 0) {
        h.n_cells_streaming = n_cells_streaming;
        h.sink              = config.sink;
        h.recent            = config.recent;
        h.chunk             = config.chunk;
    }
    h.type_k   = type_k;
    h.type_v   = type_v;
    h.rot_k    = int32_t(rot_k.n);
    h.rot_v    = int32_t(rot_v.n);
    h.partial  = (flags & LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) != 0;
    h.n_stream = seq_id < 0 ? streams.size() : 1;
    h.heads    = duo::fnv1a(nullptr, 0);
    for (const auto & layer : config.heads.streaming) {
        const uint8_t end = 2;
        h.heads = duo::fnv1a(&end, 1, duo::fnv1a(layer.data(), layer.size(), h.heads));
    }
    return h;
}

namespace {

template <typename T>
void append(std::vector<uint8_t> & bytes, const T * x, size_t n) {
    bytes.insert(bytes.end(), (const uint8_t *) x, (const uint8_t *) (x + n));
}

} // namespace

std::vector<uint8_t> llama_kv_cache_duo::held_to_bytes(const std::vector<stream> & held, bool partial) {
    std::vector<uint8_t> bytes;
    for (const stream & s : held) {
        std::vector<branch> branches = s.branches;
        while (!branches.empty() && branches.back().begin > s.pos_max) {
            branches.pop_back(); // nothing of it yet
        }
        if (partial && !branches.empty()) {
            branches = { branches.back() };
        }
        const int64_t numbers[] = { s.pos_max, s.written, int64_t(branches.size()) };
        append(bytes, numbers, 3);
        append(bytes, branches.data(), branches.size());
    }
    return bytes;
}

std::vector<llama_kv_cache_duo::stream> llama_kv_cache_duo::bytes_to_held(const std::vector<uint8_t> & bytes, size_t n) {
    std::vector<stream> held(n);
    size_t at = 0;
    const auto require = [](bool ok) {
        if (!ok) {
            throw std::runtime_error("the state is damaged");
        }
    };
    const auto take = [&](void * x, size_t size) {
        require(size <= bytes.size() - at);
        memcpy(x, bytes.data() + at, size);
        at += size;
    };
    for (stream & s : held) {
        int64_t numbers[3];
        take(numbers, sizeof(numbers));
        require(numbers[0] >= -1 && numbers[1] >= numbers[0] && numbers[1] < std::numeric_limits<llama_pos>::max()); // written + 1 is one, too
        require(numbers[2] >= 0 && uint64_t(numbers[2]) <= (bytes.size() - at) / sizeof(branch)); // before there is room made for them
        s.pos_max = llama_pos(numbers[0]);
        s.written = llama_pos(numbers[1]);
        s.branches.resize(numbers[2]);
        take(s.branches.data(), s.branches.size() * sizeof(branch));
        for (size_t i = 0; i < s.branches.size(); ++i) {
            require(s.branches[i].begin >= (i == 0 ? 0 : s.branches[i - 1].begin + 1) && s.branches[i].begin <= s.pos_max);
        }
    }
    require(at == bytes.size());
    return held;
}

void llama_kv_cache_duo::state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const {
    state_header h = make_state_header(seq_id, flags);

    const uint32_t first = seq_id < 0 ? 0 : seq_id;
    const std::vector<stream>  saved(streams.begin() + first, streams.begin() + first + h.n_stream);
    const std::vector<uint8_t> held = held_to_bytes(saved, h.partial);
    h.n_held = held.size();
    h.check  = duo::fnv1a(held.data(), held.size(), duo::fnv1a(&h, offsetof(state_header, check)));

    io.write(&h, sizeof(h));
    io.write(held.data(), held.size());
    for (uint32_t i = 0; i < h.n_stream; ++i) {
        for_each_rows(saved[i], home(first + i), h.partial, [&](ggml_tensor * t, int64_t row, int64_t n) {
            io.write_tensor(t, row * t->nb[1], n * t->nb[1]);
        });
    }
}

void llama_kv_cache_duo::state_read(llama_io_read_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) {
    // --- all of it is checked ---
    state_header want = make_state_header(seq_id, flags);
    state_header h    = {};
    if (io.n_left() >= sizeof(h)) {
        io.read(&h, sizeof(h));
    }
    if (h.magic != want.magic) {
        throw std::runtime_error("the state is not one of a mixed-head cache");
    }
    const bool     same_ring = h.n_cells_streaming == want.n_cells_streaming;
    const uint32_t n_alike   = std::min(h.n_cells_streaming, want.n_cells_streaming); // positions that have the same cells in both, as neither ring has gone round
    want.n_cells_streaming = h.n_cells_streaming;
    want.n_held = h.n_held;
    want.check  = h.check;
    if (memcmp(&h, &want, sizeof(h)) != 0) {
        throw std::runtime_error("the state is of a mixed-head cache with other sizes, heads or types than this context's");
    }
    if (h.n_held > io.n_left()) {
        throw std::runtime_error("the state is cut off");
    }
    std::vector<uint8_t> bytes(h.n_held);
    io.read(bytes.data(), bytes.size());
    if (h.check != duo::fnv1a(bytes.data(), bytes.size(), duo::fnv1a(&h, offsetof(state_header, check)))) {
        throw std::runtime_error("the state is damaged");
    }
    const std::vector<stream> saved = bytes_to_held(bytes, h.n_stream);

    const uint32_t first = seq_id < 0 ? 0 : seq_id;
    std::vector<stream> after = streams;
    uint64_t n_rows_bytes = 0;
    for (uint32_t i = 0; i < h.n_stream; ++i) {
        const stream & now = streams[first + i];
        stream &       s   = after[first + i];
        s = saved[i];
        if (!same_ring && int64_t(s.written) >= int64_t(n_alike)) {
            throw std::runtime_error(format("the state's streaming heads have %u cells and this context's %u, which differ from position %u on, and the state has %d; "
                    "use the ubatch and context size that it was saved with", h.n_cells_streaming, n_cells_streaming, n_alike, s.written + 1));
        }
        if (int64_t(s.pos_max) >= int64_t(n_ctx_seq)) {
            throw std::runtime_error(format("the state holds a sequence of %d positions; expected at most the %u of this context", s.pos_max + 1, n_ctx_seq));
        }
        if (h.partial && s.pos_max >= 0) {
            // the rows of retrieval heads must be here still
            s.pos_max  = s.branches.empty() ? -1 : common_pos_max(now, s.branches[0], s.pos_max);
            s.branches = now.branches;
            if (s.pos_max < 0 || !can_resume(s, s.pos_max + 1)) {
                throw std::runtime_error(format("a partial state of %d positions needs the sequence that it was saved from; of this one %d are the same",
                        saved[i].pos_max + 1, s.pos_max + 1));
            }
        }
        truncate(s, s.pos_max + 1);
        for_each_rows(saved[i], first + i, h.partial, [&](ggml_tensor * t, int64_t, int64_t n) { n_rows_bytes += n * t->nb[1]; });
    }
    if (n_rows_bytes > io.n_left()) {
        throw std::runtime_error("the state is cut off");
    }

    // --- and only then read; what is to be replaced is empty until all of it is there, lest a file fails now ---
    copy_streams();
    for (uint32_t i = 0; i < h.n_stream; ++i) {
        streams[first + i] = stream();
    }
    for (uint32_t i = 0; i < h.n_stream; ++i) {
        for_each_rows(saved[i], first + i, h.partial, [&](ggml_tensor * t, int64_t row, int64_t n) {
            io.read_tensor(t, row * t->nb[1], n * t->nb[1]);
        });
    }
    streams = std::move(after);
}
