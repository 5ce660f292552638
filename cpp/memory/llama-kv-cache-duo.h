// The mixed-head KV cache: retrieval heads keep every position, streaming heads keep sinks and a ring, and so do the heads of a model's sliding windows.
//
// A sequence has a stream of rows of its own (duo-layout.h), and a token's ordinal in its sequence determines its cell (attention/visibility.h), so there is no
// search and no cell metadata: duo-stream.h says what a stream holds, and which ordinal a position is.
#pragma once

#include "duo-config.h"
#include "duo-layout.h"
#include "duo-primitives.h"
#include "duo-report.h"
#include "duo-stream.h"

#include "ggml-cpp.h"
#include "llama-batch.h"
#include "llama-cparams.h"
#include "llama-memory.h"

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

struct llama_model;
struct ggml_mixed_attn_params;

class llama_kv_cache_duo : public llama_memory_i {
public:
    // cparams is kept: it is the context's own, which outlives its memory
    llama_kv_cache_duo(const llama_model & model, const llama_cparams & cparams, ggml_type type_k, ggml_type type_v);

    llama_memory_context_ptr init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) override;
    llama_memory_context_ptr init_full() override;
    llama_memory_context_ptr init_update(llama_context * lctx, bool optimize) override;

    bool get_can_shift() const override { return false; }

    void clear(bool data) override;

    // Whether the batch's tokens continue what is held; else an error in the log says why.
    bool prepare(const std::vector<llama_ubatch> & ubatches) const;

    // Whether a ubatch's sequences must have ids that follow each other: to ggml's own operators they are one tensor.
    bool needs_sequential() const { return streams.size() > 1 && !primitives.layers.empty(); }

    // Whether seq_rm would be true.
    bool can_rm  (llama_seq_id seq_id,                          llama_pos p0, llama_pos p1) const;
    // True where the sequence can go on from p0 exactly: tails within the rollback slack, and whole sequences. Else false, and nothing changes.
    bool seq_rm  (llama_seq_id seq_id,                          llama_pos p0, llama_pos p1) override;
    // Whole sequences only; what it cannot honour leaves the target empty, with an error. Rows are copied before the next decode.
    void seq_cp  (llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) override;
    void seq_keep(llama_seq_id seq_id) override;
    void seq_add (llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) override;
    void seq_div (llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) override;

    // The smallest position that the sequence can resume from exactly, minus one: what stock code compares to decide whether to reprocess.
    llama_pos seq_pos_min(llama_seq_id seq_id) const override;
    llama_pos seq_pos_max(llama_seq_id seq_id) const override;

    std::map<ggml_backend_buffer_type_t, size_t> memory_breakdown() const override;

    // Throw std::runtime_error for what cannot be: on-device states, a buffer that is cut off or of another cache. A state is checked before anything
    // is written. A partial state (the rings alone) takes its sequence back to the last position up to which it still is what it was then.
    void state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const override;
    void state_read (llama_io_read_i  & io, llama_seq_id seq_id, llama_state_seq_flags flags) override;

    // --- for the graph ---

    struct layer {
        ggml_tensor * k;     // [head size K, rows of a stream * n_stream]
        ggml_tensor * v;     // [head size V, ...]
        ggml_tensor * heads; // [4, n_head_kv] i32: ggml_mixed_attn_head; null where ggml's own operators attend

        // Sides of the Hadamard matrices that K and V are rotated by before they are quantised; 0: they are not.
        int32_t rotation_k;
        int32_t rotation_v;
        // Those matrices, beside the cache, where ggml's own operators attend; else null: our operator rotates by itself.
        ggml_tensor * rot_k;
        ggml_tensor * rot_v;
    };

    // The layer that has the rows: an earlier one, where layers share them.
    const layer & get_layer(int32_t il) const { return layers[layout.layers[il].stored_by]; }

    // Of the tokens of the ubatch that is computed, in their sequences: what the operator calls their positions. None while nothing is computed.
    const std::vector<int32_t> & get_ordinals() const { return ordinals; }

    // All but max_seq_tokens, which is the ubatch's.
    ggml_mixed_attn_params attn_params(int32_t il, float scale) const;

    // Of layers where ggml's own operators attend.
    const duo_primitives & get_primitives() const { return primitives; }

    // The layer's number there; -1: our operator attends.
    int32_t i_primitives(int32_t il) const { return primitives_of[il]; }

    // --- for the report ---

    duo_kv_size size() const { return duo_kv_sizes(model, &config, n_ctx_seq, streams.size(), config); }

    duo_cells cells_held() const;

    // --- for calibration ---

    // duo-heads.h says what this does.
    void set_windows(const std::vector<std::vector<int32_t>> & windows);

    // --- for the contexts ---

    // Marks the ubatch's tokens as held; it is computed.
    void apply_ubatch(const llama_ubatch & ubatch);
    void end_ubatch() {
        sizes_before.clear();
        ordinals.clear();
    }

    // What removing positions from p0 up to p1 (-1: all) takes from a sequence: n tokens, the first of this ordinal and position.
    struct tokens {
        int64_t   begin, n;
        llama_pos pos;
    };
    tokens tokens_at(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const;

    // Carries out the copies that seq_cp asked for. Nothing may be computing.
    void copy_streams();

private:
    // A copy as it was asked for: whatever becomes of the two streams before it is carried out, carrying them all out in order is right.
    struct stream_copy {
        uint32_t   src;
        uint32_t   dst;
        duo_stream held;
    };

    // Empty where the batch's tokens continue what is held, else what is wrong.
    std::string check_batch(const std::vector<llama_ubatch> & ubatches) const;

    // Calls f(tensor, first row, head) for each head's K rows and V rows of a stream.
    void for_each_head(uint32_t i_stream, const std::function<void(ggml_tensor * t, int64_t row, const duo_layout::head & head)> & f) const;

    // Calls f(tensor, first row, rows) for the rows that a state of a stream has, in their order; partial: not those of heads that keep every position.
    // A row of -1 says that the token is in the state and has no cell here: it is further back than the ring goes.
    void for_each_saved_run(const duo_stream & saved, uint32_t i_stream, bool partial, const std::function<void(ggml_tensor * t, int64_t row, int64_t n)> & f) const;

    std::vector<ggml_mixed_attn_head> head_map(uint32_t il) const;

    // Uploads a layer's head map.
    void upload_heads(uint32_t il);

    // Whether a device has ggml's own operators for a layer, and for those that share its rows.
    bool has_primitives(ggml_backend_dev_t dev, uint32_t il) const;
    ggml_mixed_attn_shape attn_shape(uint32_t il) const;

    // The stream whose rows are the i'th's while copies wait.
    uint32_t home(uint32_t i) const;

    struct state_header;
    state_header make_state_header(llama_seq_id seq_id, llama_state_seq_flags flags) const;

    const llama_model   & model;
    const llama_cparams & cparams;
    const duo_config    & config;

    const ggml_type type_k;
    const ggml_type type_v;
    const uint32_t  n_ctx_seq;

    const duo_layout          layout;
    const duo_stream::rings & rings; // the layout's

    std::vector<layer>      layers;  // [n_layer]
    std::vector<duo_stream> streams; // [n_seq_max]

    duo_primitives       primitives;
    std::vector<int32_t> primitives_of; // [n_layer]

    std::vector<stream_copy> copies; // not yet carried out

    std::vector<int32_t> ordinals;     // [tokens of the ubatch that is computed]
    std::vector<int64_t> sizes_before; // of the streams, before the ubatch that is computed; empty: none is

    duo_branch_ids branch_ids;

    std::vector<std::vector<int32_t>> windows; // [n_layer][n_head_kv] as set last; empty: none was

    std::vector<std::pair<ggml_context_ptr, ggml_backend_buffer_ptr>> ctxs_bufs;
};

// One of: the batch's ubatches, a whole cache to reserve graphs for, or an update.
class llama_kv_cache_duo_context : public llama_memory_context_i {
public:
    llama_kv_cache_duo_context(llama_memory_status status) : status(status) {}
    llama_kv_cache_duo_context(llama_kv_cache_duo * kv) : status(LLAMA_MEMORY_STATUS_SUCCESS), kv(kv) {}
    llama_kv_cache_duo_context(llama_kv_cache_duo * kv, llama_context * lctx) : status(LLAMA_MEMORY_STATUS_SUCCESS), kv(kv), lctx(lctx) {}
    llama_kv_cache_duo_context(llama_kv_cache_duo * kv, std::vector<llama_ubatch> ubatches) :
        status(LLAMA_MEMORY_STATUS_SUCCESS), kv(kv), ubatches(std::move(ubatches)) {}

    bool next() override;
    bool apply() override;

    const llama_ubatch & get_ubatch() const override { return ubatches[i_cur]; }
    llama_memory_status  get_status() const override { return status; }

    const llama_kv_cache_duo & get_kv() const { return *kv; }

private:
    const llama_memory_status status;

    llama_kv_cache_duo * kv = nullptr;
    llama_context * lctx = nullptr;

    std::vector<llama_ubatch> ubatches;
    size_t i_cur = 0;
};
