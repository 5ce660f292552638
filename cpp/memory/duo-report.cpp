#include "duo-report.h"

#include "duo-config.h"

#include "llama-context.h"
#include "llama-cparams.h"
#include "llama-kv-cache-duo.h"
#include "llama-model.h"

#include <algorithm>
#include <stdexcept>

duo_kv_size duo_kv_sizes(
        const llama_model & model, const duo_config * config, uint32_t n_ctx_seq, uint32_t n_seq, ggml_type type_k, ggml_type type_v) {
    const auto & hparams = model.hparams;
    duo_kv_size size;
    size.n_ctx_seq = n_ctx_seq;
    size.n_seq     = n_seq;
    if (config) {
        size.sink   = config->sink;
        size.recent = config->recent;
        size.chunk  = config->chunk;
        size.n_cells_streaming = config->heads.n_streaming() > 0 ? config->n_cells_streaming(n_ctx_seq) : 0;
    }
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        const uint64_t row = ggml_row_size(type_k, hparams.n_embd_head_k(il)) + ggml_row_size(type_v, hparams.n_embd_head_v(il));
        for (uint32_t h = 0; hparams.has_kv(il) && h < hparams.n_head_kv(il); ++h) {
            size.full_bytes += row * n_ctx_seq * n_seq;
            if (config && config->heads.streaming[il][h]) {
                size.n_streaming++;
                size.streaming_bytes += row * size.n_cells_streaming * n_seq;
            } else {
                size.n_retrieval++;
                size.retrieval_bytes += row * n_ctx_seq * n_seq;
            }
        }
    }
    size.total_bytes = size.retrieval_bytes + size.streaming_bytes;
    return size;
}

duo_kv_size duo_kv_size_for(const llama_model * model, const llama_context_params & params) {
    // the sizes that llama_context's constructor works out
    llama_cparams cparams = {};
    cparams.n_seq_max = std::max(1u, params.n_seq_max);
    cparams.n_ctx     = params.n_ctx == 0 ? model->hparams.n_ctx_train : params.n_ctx;
    cparams.n_batch   = std::min(cparams.n_ctx, params.n_batch);
    cparams.n_ubatch  = std::min(cparams.n_batch, params.n_ubatch == 0 ? params.n_batch : params.n_ubatch);
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

    return duo_kv_sizes(*model, cparams.duo.get(), n_ctx_seq, n_seq, params.type_k, params.type_v);
}

duo_kv_size duo_kv_size_of(const llama_context * ctx) {
    const auto & cparams = ctx->get_cparams();
    if (cparams.duo && ctx->get_memory()) {
        return static_cast<const llama_kv_cache_duo *>(ctx->get_memory())->size();
    }
    // stock's standard cache does not tell a row's head: count what its buffers hold
    duo_kv_size size;
    size.n_ctx_seq = cparams.n_ctx_seq;
    size.n_seq     = cparams.kv_unified ? 1 : cparams.n_seq_max;
    for (uint32_t il = 0; il < ctx->get_model().hparams.n_layer(); ++il) {
        size.n_retrieval += ctx->get_model().hparams.n_head_kv(il);
    }
    if (const auto * memory = ctx->get_memory()) {
        for (const auto & [_, bytes] : memory->memory_breakdown()) {
            size.retrieval_bytes += bytes;
        }
    }
    size.total_bytes = size.full_bytes = size.retrieval_bytes;
    return size;
}
