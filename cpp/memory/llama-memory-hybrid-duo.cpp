#include "llama-memory-hybrid-duo.h"

#include "fnv1a.h"

#include "llama-impl.h"
#include "llama-io.h"
#include "llama-model.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <map>
#include <set>
#include <stdexcept>
#include <utility>

llama_memory_hybrid_duo::llama_memory_hybrid_duo(
        const llama_model & model, const llama_cparams & cparams, ggml_type type_k, ggml_type type_v, const layer_filter_cb & recurrent) :
    attn(new llama_kv_cache_duo(model, cparams, type_k, type_v)),
    recr(new llama_memory_recurrent(model, GGML_TYPE_F32, GGML_TYPE_F32, cparams.offload_kqv, std::max(1u, cparams.n_seq_max), cparams.n_seq_max, cparams.n_rs_seq,
            recurrent ? recurrent : [&](int32_t il) { return model.hparams.is_recr(il); })),
    n_back(std::max(1u, cparams.n_seq_max), 0) {}

// --- batches ---

llama_memory_context_ptr llama_memory_hybrid_duo::init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) {
    // the last tokens of a sequence stay in one ubatch, or their snapshots would not be there to roll back to; and a ubatch's sequences have consecutive ids,
    // so that their cells come to lie in that order, and what computes some of them has no need to move those of others, which would lose theirs
    const bool     snapshots   = recr->n_rs_seq > 0;
    const uint32_t n_keep_tail = snapshots ? recr->n_rs_seq + 1 : 0;

    std::vector<llama_ubatch> ubatches;
    balloc.split_reset();
    while (true) {
        auto ubatch = embd_all ? balloc.split_seq(n_ubatch) : balloc.split_equal(n_ubatch, /*sequential =*/ snapshots || attn->needs_sequential(), n_keep_tail);
        if (ubatch.n_tokens == 0) {
            break;
        }
        ubatches.push_back(std::move(ubatch));
    }
    if (balloc.get_n_used() < balloc.get_n_tokens() || !attn->prepare(ubatches) || !recr->prepare(ubatches)) {
        return std::make_unique<llama_kv_cache_duo_context>(LLAMA_MEMORY_STATUS_FAILED_PREPARE);
    }
    return std::make_unique<llama_memory_hybrid_duo_context>(this, std::move(ubatches));
}

llama_memory_context_ptr llama_memory_hybrid_duo::init_full() {
    return std::make_unique<llama_memory_hybrid_duo_context>(attn->init_full(), recr->init_full());
}

llama_memory_context_ptr llama_memory_hybrid_duo::init_update(llama_context * lctx, bool optimize) {
    return std::make_unique<llama_memory_hybrid_duo_context>(attn->init_update(lctx, optimize), recr->init_update(lctx, optimize));
}

bool llama_memory_hybrid_duo_context::next() {
    memory->end();
    attn->next();
    recr->next();
    return ++i_cur < ubatches.size();
}

bool llama_memory_hybrid_duo_context::apply() {
    const bool attn_applied = attn->apply(), recr_applied = recr->apply();
    if (memory) {
        memory->begin(ubatches[i_cur]);
    }
    return attn_applied && recr_applied;
}

llama_memory_status llama_memory_hybrid_duo_context::get_status() const {
    return llama_memory_status_combine(attn->get_status(), recr->get_status());
}

void llama_memory_hybrid_duo::begin(const llama_ubatch & ubatch) {
    computing = true;
    for (uint32_t i = recr->head; i < recr->head + recr->n; ++i) { // the ubatch's cells, and others that are between them
        const auto & cell = recr->cells[i];
        for (const llama_seq_id s : cell.seq_id) {
            if (cell.src0 != int32_t(i) || recr->rs_idx[s] != 0) { // moved, or gone back, which is carried out now
                n_back[s] = 0;
            }
        }
    }
    for (uint32_t i = 0; i < ubatch.n_tokens; i += ubatch.n_seq_tokens) {
        n_back[ubatch.seq_id[i][0]] = std::min(recr->n_rs_seq, ubatch.n_seq_tokens - 1);
    }
}

void llama_memory_hybrid_duo::end() {
    if (!std::exchange(computing, false)) {
        return;
    }
    for (uint32_t i = recr->head; i < recr->head + recr->n; ++i) {
        for (const llama_seq_id s : recr->cells[i].seq_id) {
            recr->set_rs_idx(s, 0); // where copies share a state, llama.cpp takes note of the first only that it has gone back
        }
    }
}

// --- sequences ---

void llama_memory_hybrid_duo::clear(bool data) {
    computing = false;
    attn->clear(data);
    recr->clear(data);
}

bool llama_memory_hybrid_duo::can_go_back(llama_seq_id seq_id, const llama_kv_cache_duo::tokens & last) const {
    const int32_t tail = recr->cells[seq_id].tail;
    if (last.begin == 0 || tail < 0) {
        return true;
    }
    const auto & cell = recr->cells[tail];
    // llama.cpp counts positions, which are as many as tokens in text alone; a state that copies share is one, and a second step back before the next token
    // would be lost
    return last.pos > cell.pos ||
            (cell.pos - last.pos + 1 == last.n && last.n <= n_back[seq_id] && recr->rs_idx[seq_id] == 0 && cell.seq_id.size() == 1);
}

void llama_memory_hybrid_duo::drop_computed() {
    computing = false;
    std::set<llama_seq_id> dropped;
    for (uint32_t i = recr->head; i < recr->head + recr->n; ++i) {
        dropped.insert(recr->cells[i].seq_id.begin(), recr->cells[i].seq_id.end());
    }
    for (uint32_t i = recr->head; i < recr->head + recr->n; ++i) {
        recr->cells[i].src = -1; // llama.cpp takes note that it zeroes free ones among them, too
    }
    for (const llama_seq_id seq_id : dropped) {
        LLAMA_LOG_WARN("%s: a batch was aborted, and what is left of the recurrent states of sequence %d belongs to no position: the sequence is emptied\n", __func__, seq_id);
        attn->seq_rm(seq_id, -1, -1);
        recr->seq_rm(seq_id, -1, -1);
    }
}

bool llama_memory_hybrid_duo::seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    if (computing) {
        drop_computed();
    }
    if (!attn->can_rm(seq_id, p0, p1)) {
        return false;
    }
    std::map<llama_seq_id, llama_kv_cache_duo::tokens> removed; // the tails that sequences lose
    for (llama_seq_id s = std::max(0, seq_id); s <= (seq_id < 0 ? llama_seq_id(recr->size) - 1 : seq_id); ++s) {
        const auto last = attn->tokens_at(s, p0, p1);
        if (last.n > 0) {
            removed[s] = last;
        }
    }
    if (!std::all_of(removed.begin(), removed.end(), [&](const auto & r) { return can_go_back(r.first, r.second); })) {
        return false;
    }
    for (const auto & [s, last] : removed) {
        recr->seq_rm(s, last.begin == 0 ? -1 : last.pos, -1);
        attn->seq_rm(s, p0, -1);
    }
    return true;
}

void llama_memory_hybrid_duo::seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    attn->seq_cp(seq_id_src, seq_id_dst, p0, p1);
    if (attn->seq_pos_max(seq_id_dst) < 0) {
        recr->seq_rm(seq_id_dst, -1, -1); // refused: both are left empty
    } else if (seq_id_src != seq_id_dst) {
        recr->seq_cp(seq_id_src, seq_id_dst, p0, p1);
        n_back[seq_id_dst] = n_back[seq_id_src];
        recr->set_rs_idx(seq_id_dst, recr->rs_idx[seq_id_src]); // how far back of the shared state it is
    }
}

void llama_memory_hybrid_duo::seq_keep(llama_seq_id seq_id) {
    attn->seq_keep(seq_id);
    recr->seq_keep(seq_id);
    for (llama_seq_id s = 0; s < llama_seq_id(n_back.size()); ++s) {
        if (s != seq_id) {
            recr->set_rs_idx(s, 0); // which it leaves for the next sequence of this id to find
        }
    }
}

void llama_memory_hybrid_duo::seq_add(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) {
    attn->seq_add(seq_id, p0, p1, shift); // refuses: the other must not go alone
}

void llama_memory_hybrid_duo::seq_div(llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) {
    attn->seq_div(seq_id, p0, p1, d);
}

llama_pos llama_memory_hybrid_duo::seq_pos_min(llama_seq_id seq_id) const {
    // behind an image, where text was taken back, the recurrent states' position is one that no token has
    return std::min(std::max(attn->seq_pos_min(seq_id), recr->seq_pos_min(seq_id)), seq_pos_max(seq_id));
}

llama_pos llama_memory_hybrid_duo::seq_pos_max(llama_seq_id seq_id) const {
    return std::min(attn->seq_pos_max(seq_id), recr->seq_pos_max(seq_id));
}

std::map<ggml_backend_buffer_type_t, size_t> llama_memory_hybrid_duo::memory_breakdown() const {
    auto sum = attn->memory_breakdown();
    for (const auto & [buft, size] : recr->memory_breakdown()) {
        sum[buft] += size;
    }
    return sum;
}

// --- states ---
//
//   | header | the attention's part | the recurrent part |
//
// The header says how long both are: what is cut off anywhere is refused before either part is changed.

namespace {

struct state_header {
    uint32_t magic;
    uint32_t version;
    uint64_t rows;    // a hash of the sizes of recurrent states
    uint64_t n_bytes; // that follow
    uint64_t check;   // a hash of all above
};

class byte_counter : public llama_io_write_i {
public:
    void   write(const void *, size_t size) override { n += size; }
    void   write_tensor(ggml_tensor *, size_t, size_t size) override { n += size; }
    size_t n_bytes() override { return n; }

private:
    size_t n = 0;
};

state_header make_state_header(const llama_memory_recurrent & recr, uint64_t n_bytes) {
    state_header h = {};
    h.magic   = 0x62796864; // "dhyb"
    h.version = 1;
    h.rows    = duo::fnv1a(nullptr, 0);
    for (size_t il = 0; il < recr.r_l.size(); ++il) {
        for (const ggml_tensor * t : { recr.r_l[il], recr.s_l[il], recr.p_l[il] }) {
            const int64_t row[] = { t ? t->type : 0, t ? t->ne[0] : 0 };
            h.rows = duo::fnv1a(row, sizeof(row), h.rows);
        }
    }
    h.n_bytes = n_bytes;
    h.check   = duo::fnv1a(&h, offsetof(state_header, check));
    return h;
}

} // namespace

void llama_memory_hybrid_duo::state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const {
    byte_counter counter;
    attn->state_write(counter, seq_id, flags);
    recr->state_write(counter, seq_id, flags);
    const state_header h = make_state_header(*recr, counter.n_bytes());

    io.write(&h, sizeof(h));
    attn->state_write(io, seq_id, flags);
    recr->state_write(io, seq_id, flags);
}

void llama_memory_hybrid_duo::state_read(llama_io_read_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) {
    state_header h = {};
    if (io.n_left() >= sizeof(h)) {
        io.read(&h, sizeof(h));
    }
    state_header want = make_state_header(*recr, h.n_bytes);
    if (h.magic != want.magic) {
        throw std::runtime_error("the state is not one of a mixed-head cache beside recurrent layers");
    }
    if (h.version != want.version) {
        throw std::runtime_error(format("the state has version %u of its format; expected %u: it was saved by another version of llama-duo", h.version, want.version));
    }
    if (h.rows != want.rows) {
        throw std::runtime_error("the state is of recurrent layers with other sizes than this context's");
    }
    if (h.check != want.check) {
        throw std::runtime_error("the state is damaged");
    }
    if (h.n_bytes > io.n_left()) {
        throw std::runtime_error("the state is cut off");
    }

    const auto sequences = [&](const auto & f) {
        for (llama_seq_id s = std::max(0, seq_id); s <= (seq_id < 0 ? llama_seq_id(n_back.size()) - 1 : seq_id); ++s) {
            f(s);
        }
    };
    try {
        attn->state_read(io, seq_id, flags);
    } catch (...) {
        // where it failed before anything was changed, both parts are what they were; where rows were lost, neither is of use
        sequences([&](llama_seq_id s) {
            if (size_t(s) < n_back.size() && attn->seq_pos_max(s) < 0) {
                recr->seq_rm(s, -1, -1);
                n_back[s] = 0;
            }
        });
        throw;
    }
    try {
        sequences([&](llama_seq_id s) { n_back[s] = 0; });
        recr->state_read(io, seq_id, flags);
        sequences([&](llama_seq_id s) {
            // a rollback leaves recurrent layers at the position before the one removed, which no token may have (M-RoPE)
            const llama_pos recurrent = recr->seq_pos_max(s), attended = attn->seq_pos_max(s);
            if (recurrent < attended || (recurrent < 0) != (attended < 0)) {
                throw std::runtime_error("the state is damaged");
            }
        });
    } catch (...) {
        // neither is of use without the other
        seq_id < 0 ? clear(false) : (void) (attn->seq_rm(seq_id, -1, -1), recr->seq_rm(seq_id, -1, -1));
        throw;
    }
}

llama_kv_cache_duo * duo_cache_in(llama_memory_i * memory) {
    auto * hybrid = dynamic_cast<llama_memory_hybrid_duo *>(memory);
    return hybrid ? &hybrid->get_attn() : dynamic_cast<llama_kv_cache_duo *>(memory);
}
