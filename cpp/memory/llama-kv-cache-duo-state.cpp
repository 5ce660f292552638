// States of a mixed-head cache:
//
//   | header | what each stream holds | its rows ... |
//
// They hold tokens, not cells: of a retrieval head all, of others the sinks and what the window sees. So a state outlives another -c and -ub, and
// takes no more than resuming needs.
#include "llama-kv-cache-duo.h"

#include "fnv1a.h"
#include "mixed-attention.h"
#include "visibility.h"

#include "llama-impl.h"
#include "llama-io.h"

#include <algorithm>
#include <cinttypes>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <utility>

// All that decides which rows follow and what they mean. Sizes that only bound how much fits are not in it.
struct llama_kv_cache_duo::state_header {
    uint32_t magic;
    uint32_t version;
    uint32_t n_layer;
    int32_t  type_k;
    int32_t  type_v;
    uint32_t partial;  // 1: not the rows of heads that keep every token
    uint32_t n_stream; // streams that follow
    uint32_t reserved;
    uint64_t rows;     // a hash of the layers' types of K, of the sizes of rows, and of how they are rotated
    uint64_t windows;  // a hash of what each head sees
    uint64_t n_held;   // bytes of what the streams hold
    uint64_t check;    // a hash of all above and of those bytes
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
    h.version  = 6;
    h.n_layer  = layers.size();
    h.type_k   = type_k;
    h.type_v   = type_v;
    h.partial  = (flags & LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) != 0;
    h.n_stream = seq_id < 0 ? streams.size() : 1;
    h.rows     = h.windows = duo::fnv1a(nullptr, 0);
    for (size_t il = 0; il < layers.size(); ++il) {
        const layer & l = layers[il];
        const int64_t sizes[] = { l.k ? int64_t(l.k->type) : 0, l.k ? l.k->ne[0] : 0, l.v ? l.v->ne[0] : 0, l.rotation_k, l.rotation_v };
        h.rows = duo::fnv1a(sizes, sizeof(sizes), h.rows);
        for (const duo_layout::head & head : layout.layers[il].heads) {
            int32_t window[] = { GGML_MIXED_ATTN_ALL, 0, 0 };
            if (head.i_ring >= 0) {
                const duo_ring & r = rings[head.i_ring];
                window[0] = r.recent, window[1] = r.chunk, window[2] = r.sink;
            }
            h.windows = duo::fnv1a(window, sizeof(window), h.windows);
        }
        h.windows = duo::fnv1a("", 1, h.windows); // the layer's end
    }
    return h;
}

// The checks' hash of the header and of what the streams hold.
static uint64_t hash_of(const void * header, size_t n_header, const std::vector<uint8_t> & held) {
    return duo::fnv1a(held.data(), held.size(), duo::fnv1a(header, n_header));
}

void llama_kv_cache_duo::for_each_saved_run(
        const duo_stream & saved, uint32_t i_stream, bool partial, const std::function<void(ggml_tensor * t, int64_t row, int64_t n)> & f) const {
    const int64_t end = saved.size();
    for_each_head(i_stream, [&](ggml_tensor * t, int64_t row, const duo_layout::head & h) {
        if (h.i_ring < 0) {
            if (!partial && end > 0) {
                f(t, row, end);
            }
            return;
        }
        const duo_ring & r = rings[h.i_ring];
        if (const int64_t n_sink = std::min<int64_t>(r.sink, end); n_sink > 0) {
            f(t, row, n_sink);
        }
        for (int64_t j = saved.saved_from(rings, h.i_ring); j < end;) {
            if (const int64_t n_lost = end - r.n_ring - j; n_lost > 0) {
                f(t, -1, n_lost);
                j += n_lost;
                continue;
            }
            const int64_t cell = duo_ring_cell(j, r.sink, r.n_ring);
            const int64_t n    = std::min(end - j, r.sink + r.n_ring - cell); // to where the ring comes round
            f(t, row + cell, n);
            j += n;
        }
    });
}

void llama_kv_cache_duo::state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const {
    state_header h = make_state_header(seq_id, flags);

    const uint32_t first = seq_id < 0 ? 0 : seq_id;

    std::vector<duo_stream> saved;
    std::vector<uint8_t>    held;
    for (uint32_t i = 0; i < h.n_stream; ++i) {
        // The server restores a checkpoint to decode its last position again; who loads a whole state may roll back as from where it was saved.
        const duo_stream & s = streams[first + i];
        saved.push_back(s.to_save(rings, h.partial ? s.get_positions().n_at_last() : int64_t(config.rollback)));
        saved.back().append_to(held);
    }
    h.n_held = held.size();
    h.check  = hash_of(&h, offsetof(state_header, check), held);

    io.write(&h, sizeof(h));
    io.write(held.data(), held.size());
    for (uint32_t i = 0; i < h.n_stream; ++i) {
        for_each_saved_run(saved[i], home(first + i), h.partial, [&](ggml_tensor * t, int64_t row, int64_t n) {
            if (row < 0) {
                throw std::runtime_error("a token that the sequence can be resumed from is not in the cache"); // never: can_resume says that it is
            }
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
    if (h.version != want.version) {
        throw std::runtime_error(format("the state has version %u of its format; expected %u: it was saved by another version of llama-duo", h.version, want.version));
    }
    want.n_held = h.n_held;
    want.check  = h.check;
    if (memcmp(&h, &want, sizeof(h)) != 0) {
        throw std::runtime_error("the state is of a mixed-head cache with other layers, heads, windows or types than this context's");
    }
    if (h.n_held > io.n_left()) {
        throw std::runtime_error("the state is cut off");
    }
    std::vector<uint8_t> held(h.n_held);
    io.read(held.data(), held.size());
    if (h.check != hash_of(&h, offsetof(state_header, check), held)) {
        throw std::runtime_error("the state is damaged");
    }

    const uint32_t first = seq_id < 0 ? 0 : seq_id;
    std::vector<duo_stream> saved;
    std::vector<duo_stream> after = streams;
    uint64_t n_rows_bytes = 0;
    size_t   at = 0;
    for (uint32_t i = 0; i < h.n_stream; ++i) {
        saved.push_back(duo_stream::from_bytes(rings, held, at));
        const duo_stream & s   = saved.back();
        const duo_stream & now = streams[first + i];
        if (s.size() > int64_t(n_ctx_seq)) {
            throw std::runtime_error(format("the state holds a sequence of %" PRId64 " tokens; expected at most the %u of this context", s.size(), n_ctx_seq));
        }
        after[first + i] = s.in(rings);
        if (h.partial && s.size() > 0) {
            // the rows of retrieval heads must be here still
            after[first + i] = now.with_rings_of(rings, s);
            if (after[first + i].size() < (config.recurrent ? s.size() : 1)) {
                throw std::runtime_error(format("a partial state of %" PRId64 " tokens needs the sequence that it was saved from; of this one %" PRId64 " are the same",
                        s.size(), now.n_common(s)));
            }
        }
        for_each_saved_run(s, first + i, h.partial, [&](ggml_tensor * t, int64_t, int64_t n) { n_rows_bytes += n * t->nb[1]; });
    }
    if (at != held.size()) {
        throw std::runtime_error("the state is damaged");
    }
    if (n_rows_bytes > io.n_left()) {
        throw std::runtime_error("the state is cut off");
    }

    // --- and only then read; what is to be replaced is empty until all of it is there, lest a file fails now ---
    copy_streams();
    for (uint32_t i = 0; i < h.n_stream; ++i) {
        streams[first + i] = {};
    }
    std::vector<uint8_t> skipped;
    for (uint32_t i = 0; i < h.n_stream; ++i) {
        for_each_saved_run(saved[i], first + i, h.partial, [&](ggml_tensor * t, int64_t row, int64_t n) {
            if (row < 0) {
                skipped.resize(n * t->nb[1]);
                io.read(skipped.data(), skipped.size());
            } else {
                io.read_tensor(t, row * t->nb[1], n * t->nb[1]);
            }
        });
    }
    streams = std::move(after);
}
