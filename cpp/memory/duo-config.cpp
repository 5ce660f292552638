#include "duo-config.h"
#include "duo-heads.h"

#include "gate-gguf.h"
#include "gate-pattern.h"

#include "llama-arch.h"
#include "llama-context.h"
#include "llama-cparams.h"
#include "llama-impl.h"
#include "llama-kv-cache-duo.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <stdexcept>

// --- what can have mixed heads ---

// Architectures that llama.cpp gives the standard cache to, but that do more with it than build_attn does.
static const char * arch_reason(llm_arch arch) {
    switch (arch) {
        case LLM_ARCH_T5:             return "it has an encoder and relative position biases";
        case LLM_ARCH_GROK:           return "llama.cpp runs it without flash attention";
        case LLM_ARCH_EAGLE3:
        case LLM_ARCH_DFLASH:
        case LLM_ARCH_GEMMA4_ASSISTANT:
                                      return "it is a draft model that shares its target's cache";
        case LLM_ARCH_MINIMAX_M3:
        case LLM_ARCH_GLM_DSA:
        case LLM_ARCH_DEEPSEEK32:
        case LLM_ARCH_DEEPSEEK4:
        case LLM_ARCH_HY_V4:
        case LLM_ARCH_DOTS3NOTE:      return "its sparse attention has a cache of its own";
        case LLM_ARCH_BERT:
        case LLM_ARCH_JINA_BERT_V2:
        case LLM_ARCH_JINA_BERT_V3:
        case LLM_ARCH_NOMIC_BERT:
        case LLM_ARCH_NOMIC_BERT_MOE:
        case LLM_ARCH_NEO_BERT:
        case LLM_ARCH_EUROBERT:
        case LLM_ARCH_MODERN_BERT:
        case LLM_ARCH_GEMMA_EMBEDDING:
        case LLM_ARCH_WAVTOKENIZER_DEC:
        case LLM_ARCH_LLAMA_EMBED:
        case LLM_ARCH_T5ENCODER:
                                      return "it attends without a KV cache";
        case LLM_ARCH_AFMOE:          return "llama.cpp builds it for sliding-window layers, even where it has none";
        default:                      return nullptr;
    }
}

const std::vector<ggml_type> & duo_cache_types() {
    static const std::vector<ggml_type> types = {
        GGML_TYPE_F32,  GGML_TYPE_F16,    GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0,
        GGML_TYPE_Q4_1, GGML_TYPE_IQ4_NL, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1,
    };
    return types;
}

static std::string type_reason(const char * what, ggml_type type, uint32_t head_size) {
    const auto & types = duo_cache_types();
    if (std::find(types.begin(), types.end(), type) == types.end()) {
        return format("the %s cache type %s is not one that llama.cpp's -ctk and -ctv accept", what, ggml_type_name(type));
    }
    if (head_size % ggml_blck_size(type) != 0) {
        return format("the %s cache type %s holds blocks of %d values, which do not divide the head size %u; use f16",
                what, ggml_type_name(type), (int) ggml_blck_size(type), head_size);
    }
    return "";
}

std::string duo_unsupported(const llama_model * model, const llama_context_params & params) {
    const auto & hparams = model->hparams;
    const auto   arch    = model->arch;

    const std::string the_model = "the architecture " + model->arch_name();

    if (hparams.vocab_only) {
        return "the model was loaded with its vocabulary only";
    }
    if (llm_arch_is_recurrent(arch)) {
        return the_model + " is recurrent: it has no attention heads with a KV cache";
    }
    if (llm_arch_is_hybrid(arch)) {
        return the_model + " mixes attention with recurrent layers";
    }
    if (llm_arch_is_diffusion(arch)) {
        return the_model + " is a diffusion model: it attends without a KV cache";
    }
    if (const char * reason = arch_reason(arch)) {
        return the_model + " cannot: " + reason;
    }
    if (hparams.is_mla()) {
        return the_model + " has latent attention (MLA): its heads share one cache row";
    }
    if (hparams.swa_type != LLAMA_SWA_TYPE_NONE || hparams.is_swa_any()) {
        return the_model + " has sliding-window layers";
    }
    if (hparams.use_alibi || hparams.f_max_alibi_bias > 0.0f) {
        return the_model + " biases attention by distance (ALiBi)";
    }
    if (hparams.n_pos_per_embd() > 1) {
        return the_model + " has several positions a token (M-RoPE)";
    }
    if (hparams.router_layer >= 0) {
        return "the model has a router layer that attends on its own";
    }
    if (hparams.n_layer_kv_from_start >= 0) {
        return the_model + " shares cache rows between layers";
    }
    for (const auto & layer : model->layers) {
        if (layer.attn_sinks) {
            return the_model + " has learned attention sinks";
        }
    }
    const bool causal = params.attention_type == LLAMA_ATTENTION_TYPE_UNSPECIFIED ? hparams.causal_attn :
                                                                                    params.attention_type == LLAMA_ATTENTION_TYPE_CAUSAL;
    if (!causal) {
        return "attention that is not causal has no recent window";
    }
    if (params.ctx_type != LLAMA_CONTEXT_TYPE_DEFAULT) {
        return "a context for multi-token prediction keeps its own cache";
    }
    if (model->split_mode() == LLAMA_SPLIT_MODE_TENSOR) {
        return "the model's tensors are split over devices (-sm tensor); use -sm layer";
    }
    if (params.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_DISABLED) {
        return "flash attention is off (-fa off); mixed heads have their own attention, which needs it on or auto";
    }
    if (hparams.n_layer() == 0) {
        return "the model has no layers but those that predict ahead";
    }
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        if (!hparams.has_kv(il)) {
            return format("layer %u has no KV cache of its own", il);
        }
        const uint32_t n_head = hparams.n_head(il);
        const uint32_t n_head_kv = hparams.n_head_kv(il);
        if (n_head_kv == 0) {
            continue; // a layer without attention has nothing to cache
        }
        if (n_head % n_head_kv != 0) {
            return format("layer %u has %u heads, which its %u KV heads do not divide", il, n_head, n_head_kv);
        }
        for (const uint32_t size : { hparams.n_embd_head_k(il), hparams.n_embd_head_v(il) }) {
            if (size == 0) {
                return format("layer %u has heads of size 0", il);
            }
        }
        for (const std::string & reason : { type_reason("K", params.type_k, hparams.n_embd_head_k(il)),
                                            type_reason("V", params.type_v, hparams.n_embd_head_v(il)) }) {
            if (!reason.empty()) {
                return reason;
            }
        }
    }
    return "";
}

bool duo_check_supported(const llama_model * model, const llama_context_params & params) {
    const std::string reason = duo_unsupported(model, params);
    if (!reason.empty()) {
        LLAMA_LOG_ERROR("%s: mixed heads cannot be used with this model and these parameters: %s\n", __func__, reason.c_str());
    }
    return reason.empty();
}

// --- resolving ---

static duo::gate_pattern model_gates(const llama_model & model) {
    const auto it = model.gguf_kv.find(duo::gguf_pattern_key);
    if (it != model.gguf_kv.end()) {
        return duo::parse_gate_pattern(it->second, std::string("the model's metadata key ") + duo::gguf_pattern_key);
    }
    const std::string sidecar = model.path.empty() ? "" : std::filesystem::path(model.path).replace_extension(".duo.json").string();
    if (!sidecar.empty() && std::filesystem::exists(sidecar)) {
        return duo::load_gate_pattern(sidecar);
    }
    throw duo::gate_error("the gates are \"auto\", but the model has none: neither the metadata key " + std::string(duo::gguf_pattern_key) +
            (sidecar.empty() ? "" : " nor the file " + sidecar) + "; give a gate file, or sparsity 0 or 1, which need none");
}

static duo::gate_pattern resolve_gates(const llama_model & model, const char * gates) {
    const std::string spec = gates;
    if (spec == "auto") {
        return model_gates(model);
    }
    if (!spec.empty() && spec[0] == '{') {
        return duo::parse_gate_pattern(spec, "<json>");
    }
    return duo::load_gate_pattern(spec);
}

static duo::head_selection select_heads(const llama_duo_params & p, const duo::gate_pattern * pattern, const std::vector<int32_t> & n_head_kv) {
    if (p.threshold >= 0.0f) {
        if (!pattern) {
            throw duo::gate_error(format("a threshold (%g) needs gates to compare with: give a gate file", p.threshold));
        }
        return duo::select_by_threshold(*pattern, n_head_kv, p.threshold);
    }
    const float sparsity = p.sparsity >= 0.0f ? p.sparsity : 0.5f;
    if (pattern) {
        return duo::select_by_sparsity(*pattern, n_head_kv, sparsity);
    }
    if (sparsity > 0.0f && sparsity < 1.0f) {
        throw duo::gate_error(format("sparsity %g needs gates to choose heads by: give a gate file, or sparsity 0 or 1, which need none", sparsity));
    }
    return duo::select_all(n_head_kv, sparsity >= 1.0f);
}

static int32_t first_given(int32_t given, int32_t pattern, int32_t fallback) {
    return given >= 0 ? given : pattern >= 0 ? pattern : fallback;
}

static void check_params(const llama_duo_params & p) {
    auto check = [](bool ok, const char * name, double value, const char * expected) {
        if (!ok) {
            throw std::runtime_error(format("%s is %g; expected %s", name, value, expected));
        }
    };
    check(!std::isnan(p.sparsity) && p.sparsity <= 1.0f, "duo sparsity", p.sparsity, "0 to 1");
    check(!std::isnan(p.threshold), "duo threshold", p.threshold, "a number");
    check(p.chunk != 0, "duo chunk", p.chunk, "1 or more");
    if (p.sparsity >= 0.0f && p.threshold >= 0.0f) {
        throw std::runtime_error(format("both a duo sparsity (%g) and a threshold (%g) are given; give one", p.sparsity, p.threshold));
    }
}

// Sizes beyond this would overflow 32-bit cell arithmetic; no model has such a context.
static constexpr int64_t max_window = 1 << 30;

void duo_init_cparams(llama_cparams & cparams, const llama_model & model, const llama_context_params & params) {
    const llama_duo_params & p = params.duo;
    if (!p.enabled) {
        return;
    }
    check_params(p);

    const auto & hparams = model.hparams;
    std::vector<int32_t> n_head_kv;
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        n_head_kv.push_back(hparams.n_head_kv(il));
    }

    duo::gate_pattern pattern;
    if (p.gates) {
        pattern = resolve_gates(model, p.gates);
    }

    auto config = std::make_shared<duo_config>();
    config->heads    = select_heads(p, p.gates ? &pattern : nullptr, n_head_kv);
    config->sink     = first_given(p.sink,   pattern.sink,   64);
    config->recent   = first_given(p.recent, pattern.recent, 256);
    config->chunk    = first_given(p.chunk, -1, 1);
    config->rollback = std::max(64u, params.n_rs_seq);

    // graphs are reserved for a multiple of n_seq_max tokens
    const int64_t n_ubatch = (int64_t(cparams.n_ubatch) + cparams.n_seq_max - 1) / cparams.n_seq_max * cparams.n_seq_max;
    const int64_t ring     = int64_t(config->recent) + config->chunk + n_ubatch + config->rollback;
    const int64_t cells    = GGML_PAD(config->sink + ring, int64_t(64));
    if (cells > max_window) {
        throw std::runtime_error(format("a streaming head would need %lld cells (sink %d, recent %d, chunk %d, ubatch %lld); expected at most %lld",
                (long long) cells, config->sink, config->recent, config->chunk, (long long) n_ubatch, (long long) max_window));
    }
    config->ring = cells - config->sink;

    if (cparams.kv_unified) {
        LLAMA_LOG_WARN("%s: sequences of a mixed-head cache have cells of their own: the context of %u tokens is divided by %u, not unified\n",
                __func__, cparams.n_ctx, cparams.n_seq_max);
        cparams.kv_unified = false;
    }
    if (config->heads.n_streaming() > 0) {
        cparams.n_rs_seq = config->rollback; // tells stock code that a rollback has bounds
    }
    cparams.duo = std::move(config);
}

uint32_t duo_config::n_cells_streaming(uint32_t n_ctx_seq) const {
    return std::min(sink + ring, n_ctx_seq);
}

// --- at run time ---

void duo_set_windowed(llama_context * ctx, const std::vector<std::vector<uint8_t>> & windowed) {
    if (!ctx->get_cparams().duo || !ctx->get_memory()) {
        throw std::runtime_error("heads can be windowed only in a context with mixed heads");
    }
    ctx->synchronize();
    static_cast<llama_kv_cache_duo *>(ctx->get_memory())->set_windowed(windowed);
}

// --- sizes ---

// Adds up the rows that a context of n_seq sequences of n_ctx_seq cells keeps. config: null for stock.
static duo_kv_size kv_size(const llama_hparams & hparams, const duo_config * config, uint32_t n_ctx_seq, uint32_t n_seq, ggml_type type_k, ggml_type type_v) {
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

    return kv_size(model->hparams, cparams.duo.get(), n_ctx_seq, n_seq, params.type_k, params.type_v);
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
