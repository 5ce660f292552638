#include "duo-report.h"

#include "duo-config.h"
#include "duo-layout.h"

#include "llama-arch.h"
#include "llama-context.h"
#include "llama-cparams.h"
#include "llama-memory-hybrid-duo.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-model.h"

#include <algorithm>
#include <memory>
#include <stdexcept>

duo_kv_size duo_kv_sizes(
        const llama_model & model, const duo_config * config, uint32_t n_ctx_seq, uint32_t n_seq, const duo_row_types & types) {
    const auto & hparams = model.hparams;
    duo_kv_size size;
    size.n_ctx_seq = n_ctx_seq;
    size.n_seq     = n_seq;
    static_cast<duo_row_types &>(size) = types;
    if (config) {
        size.expected_loss = config->expected_loss;
        size.sink   = config->sink;
        size.recent = config->recent;
        size.chunk  = config->chunk;
    }
    const auto layout = config ? std::make_unique<duo_layout>(*config, n_ctx_seq) : nullptr;
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        if (!hparams.has_kv(il) || !duo_attends(model, il)) {
            continue;
        }
        const uint64_t row = (ggml_row_size(types.type_k_of(il), hparams.n_embd_head_k(il)) + ggml_row_size(types.type_v, hparams.n_embd_head_v(il))) * n_seq;
        // what a budget is a share of
        const uint64_t full_row = !config || !config->by_budget ? row : (ggml_row_size(GGML_TYPE_F16, hparams.n_embd_head_k(il)) + ggml_row_size(GGML_TYPE_F16, hparams.n_embd_head_v(il))) * n_seq;
        for (uint32_t h = 0; h < (layout ? layout->layers[il].heads.size() : hparams.n_head_kv(il)); ++h) {
            const uint64_t cells = layout ? layout->layers[il].heads[h].n_cells : n_ctx_seq;
            const uint64_t bytes = row * cells;
            size.full_bytes  += full_row * (layout && hparams.is_swa(il) ? cells : n_ctx_seq); // no choice of heads gives a window more
            size.total_bytes += bytes;
            if (layout && hparams.is_swa(il)) {
                size.n_windowed++;
                size.windowed_bytes  += bytes;
                size.n_cells_windowed = uint32_t(bytes / row);
            } else if (layout && layout->layers[il].heads[h].i_ring >= 0) {
                size.n_streaming++;
                size.streaming_bytes  += bytes;
                size.n_cells_streaming = std::max(size.n_cells_streaming, uint32_t(bytes / row));
            } else {
                size.n_retrieval++;
                size.retrieval_bytes += bytes;
            }
        }
    }
    return size;
}

duo_kv_size duo_kv_size_for(const llama_model * model, const llama_context_params & params) {
    // the sizes that llama_context's constructor works out
    llama_cparams cparams = {};
    cparams.n_seq_max = std::max(1u, params.n_seq_max);
    cparams.n_ctx     = params.n_ctx == 0 ? model->hparams.n_ctx_train : params.n_ctx;
    cparams.n_batch   = std::min(cparams.n_ctx, params.n_batch);
    cparams.n_ubatch  = std::min(cparams.n_batch, params.n_ubatch == 0 ? params.n_batch : params.n_ubatch);
    cparams.n_rs_seq  = llm_arch_supports_rs_rollback(model->arch) ? params.n_rs_seq : 0;
    cparams.kv_unified = params.kv_unified;

    if (params.duo.enabled) {
        const std::string reason = duo_unsupported(model, params);
        if (!reason.empty()) {
            throw std::runtime_error(reason);
        }
        duo_init_cparams(cparams, *model, params);
    }

    const uint32_t n_ctx     = GGML_PAD(cparams.n_ctx, 256);
    const uint32_t n_seq     = cparams.kv_unified ? 1 : cparams.n_seq_max;
    const uint32_t n_ctx_seq = GGML_PAD(n_ctx / n_seq, 256);

    const auto & duo = cparams.duo;
    const duo_row_types types = duo ? static_cast<const duo_row_types &>(*duo) : duo_row_types { params.type_k, params.type_v };
    duo_kv_size size = duo_kv_sizes(*model, duo.get(), n_ctx_seq, n_seq, types);
    for (uint32_t il = 0; il < model->hparams.n_layer(); ++il) { // as llama_memory_recurrent keeps them, a copy for each position that can be gone back
        const uint64_t state = duo_recurs(*model, il) ? uint64_t(model->hparams.n_embd_r()) + model->hparams.n_embd_s() : 0;
        size.recurrent_bytes += state * sizeof(float) * cparams.n_seq_max * (1 + cparams.n_rs_seq);
    }
    return size;
}

// The part of a memory that has K and V rows: recurrent states are no rows.
static const llama_memory_i * rows_of(const llama_memory_i * memory) {
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid *>(memory)) {
        return hybrid->get_mem_attn();
    }
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid_iswa *>(memory)) {
        return hybrid->get_mem_attn();
    }
    return dynamic_cast<const llama_memory_recurrent *>(memory) ? nullptr : memory;
}

static const llama_memory_recurrent * states_of(const llama_memory_i * memory) {
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid_duo *>(memory)) {
        return &hybrid->get_recr();
    }
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid *>(memory)) {
        return hybrid->get_mem_recr();
    }
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid_iswa *>(memory)) {
        return hybrid->get_mem_recr();
    }
    return dynamic_cast<const llama_memory_recurrent *>(memory);
}

static uint64_t state_bytes(const llama_memory_i * memory) {
    uint64_t bytes = 0;
    if (const llama_memory_recurrent * states = states_of(memory)) {
        for (const auto * tensors : { &states->r_l, &states->s_l }) {
            for (const ggml_tensor * t : *tensors) {
                bytes += t ? ggml_nbytes(t) : 0;
            }
        }
    }
    return bytes;
}

bool duo_has_mixed_heads(const llama_context * ctx) {
    return ctx->get_cparams().duo != nullptr;
}

duo_pattern_origin duo_pattern_of(const llama_context * ctx) {
    const auto & config = ctx->get_cparams().duo;
    return config ? duo_pattern_origin{ config->pattern, config->provenance } : duo_pattern_origin{};
}

duo_cells duo_cells_held(const llama_context * ctx) {
    const llama_kv_cache_duo * cache = ctx->get_cparams().duo ? duo_cache_in(ctx->get_memory()) : nullptr;
    return cache ? cache->cells_held() : duo_cells{};
}

duo_kv_size duo_kv_size_of(const llama_context * ctx) {
    const auto & cparams = ctx->get_cparams();
    if (cparams.duo && ctx->get_memory()) {
        duo_kv_size size = duo_cache_in(ctx->get_memory())->size();
        size.recurrent_bytes = state_bytes(ctx->get_memory());
        return size;
    }
    // stock's standard cache does not tell a row's head: count what its buffers hold
    duo_kv_size size;
    size.n_ctx_seq = cparams.n_ctx_seq;
    size.n_seq     = cparams.kv_unified ? 1 : cparams.n_seq_max;
    for (uint32_t il = 0; il < ctx->get_model().hparams.n_layer(); ++il) {
        size.n_retrieval += ctx->get_model().hparams.has_kv(il) && duo_attends(ctx->get_model(), il) ? ctx->get_model().hparams.n_head_kv(il) : 0;
    }
    if (const auto * memory = rows_of(ctx->get_memory())) {
        for (const auto & [_, bytes] : memory->memory_breakdown()) {
            size.retrieval_bytes += bytes;
        }
    }
    size.total_bytes = size.full_bytes = size.retrieval_bytes;
    size.recurrent_bytes = state_bytes(ctx->get_memory());
    return size;
}
