// The memory of models that mix attention with recurrent layers: the mixed-head cache for the one, llama.cpp's own recurrent states for the other.
#pragma once

#include "llama-kv-cache-duo.h"

#include "llama-memory-recurrent.h"

#include <memory>
#include <vector>

class llama_memory_hybrid_duo : public llama_memory_i {
public:
    // recurrent: which layers have a recurrent state; null: those that llama.cpp says are recurrent
    llama_memory_hybrid_duo(
            const llama_model & model, const llama_cparams & cparams, ggml_type type_k, ggml_type type_v, const layer_filter_cb & recurrent);

    llama_memory_context_ptr init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) override;
    llama_memory_context_ptr init_full() override;
    llama_memory_context_ptr init_update(llama_context * lctx, bool optimize) override;

    bool get_can_shift() const override { return false; }

    void clear(bool data) override;

    // As far as both can go back. What one refuses changes neither. After a ubatch that was aborted: the sequences that share its recurrent states are emptied.
    bool seq_rm  (llama_seq_id seq_id,                          llama_pos p0, llama_pos p1) override;
    void seq_cp  (llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) override;
    void seq_keep(llama_seq_id seq_id) override;
    void seq_add (llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) override;
    void seq_div (llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) override;

    llama_pos seq_pos_min(llama_seq_id seq_id) const override;
    llama_pos seq_pos_max(llama_seq_id seq_id) const override;

    std::map<ggml_backend_buffer_type_t, size_t> memory_breakdown() const override;

    // Both parts; a partial state has the rings and the recurrent state. What is cut off, or of another context, is refused and changes neither.
    void state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const override;
    void state_read (llama_io_read_i  & io, llama_seq_id seq_id, llama_state_seq_flags flags) override;

    llama_kv_cache_duo     & get_attn() const { return *attn; }
    llama_memory_recurrent & get_recr() const { return *recr; }

    // --- for the contexts ---

    // A ubatch has its cells and is about to be computed; it is done.
    void begin(const llama_ubatch & ubatch);
    void end();

private:
    // Whether the recurrent states of a sequence can go back to before its last tokens.
    bool can_go_back(llama_seq_id seq_id, const llama_kv_cache_duo::tokens & last) const;

    // Empties what an aborted ubatch leaves undefined: it may have moved and changed states in some layers and not in others.
    void drop_computed();

    const std::unique_ptr<llama_kv_cache_duo>     attn;
    const std::unique_ptr<llama_memory_recurrent> recr;

    bool computing = false; // a ubatch was begun and is not done

    // Of each sequence, how many tokens its recurrent states can go back: llama.cpp keeps those of the last ubatch's tokens, in the sequence's cell, and does
    // not take them along where it moves the cell.
    std::vector<uint32_t> n_back;
};

class llama_memory_hybrid_duo_context : public llama_memory_context_i {
public:
    llama_memory_hybrid_duo_context(llama_memory_context_ptr attn, llama_memory_context_ptr recr) : attn(std::move(attn)), recr(std::move(recr)) {}
    llama_memory_hybrid_duo_context(llama_memory_hybrid_duo * memory, std::vector<llama_ubatch> ubatches) :
        attn(std::make_unique<llama_kv_cache_duo_context>(&memory->get_attn(), ubatches)),
        recr(std::make_unique<llama_memory_recurrent_context>(&memory->get_recr(), ubatches)), memory(memory), ubatches(std::move(ubatches)) {}

    bool next()  override;
    bool apply() override;

    const llama_ubatch & get_ubatch() const override { return ubatches[i_cur]; }
    llama_memory_status  get_status() const override;

    const llama_kv_cache_duo             & get_kv()   const { return static_cast<const llama_kv_cache_duo_context *>(attn.get())->get_kv(); }
    const llama_memory_recurrent_context * get_recr() const { return static_cast<const llama_memory_recurrent_context *>(recr.get()); }

private:
    const llama_memory_context_ptr attn;
    const llama_memory_context_ptr recr;

    llama_memory_hybrid_duo * memory = nullptr; // where there are ubatches

    std::vector<llama_ubatch> ubatches;
    size_t i_cur = 0;
};

// The mixed-head cache in a context's memory; null: it has none.
llama_kv_cache_duo * duo_cache_in(llama_memory_i * memory);
