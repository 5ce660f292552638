#include "duo-support.h"

#include "llama-arch.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>

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
        case LLM_ARCH_DOTS3NOTE:
        case LLM_ARCH_QWEN4EXP:       return "its sparse attention has a cache of its own";
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

ggml_type duo_type_named(const std::string & name) {
    const auto & types = duo_cache_types();
    const auto it = std::find_if(types.begin(), types.end(), [&](ggml_type t) { return name == ggml_type_name(t); });
    return it == types.end() ? GGML_TYPE_COUNT : *it;
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
    if (llm_arch_is_diffusion(arch)) {
        return the_model + " is a diffusion model: it attends without a KV cache";
    }
    if (const char * reason = arch_reason(arch)) {
        return the_model + " cannot: " + reason;
    }
    if (hparams.is_mla()) {
        return the_model + " has latent attention (MLA): its heads share one cache row";
    }
    if (hparams.swa_type == LLAMA_SWA_TYPE_SYMMETRIC) {
        return the_model + " has windows that look ahead";
    }
    if (hparams.use_alibi || hparams.f_max_alibi_bias > 0.0f) {
        return the_model + " biases attention by distance (ALiBi)";
    }
    if (hparams.router_layer >= 0) {
        return "the model has a router layer that attends on its own";
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
        const uint32_t n_head = hparams.n_head(il);
        const uint32_t n_head_kv = hparams.n_head_kv(il);
        if (n_head_kv == 0) {
            continue; // a layer without attention has nothing to cache
        }
        // as in llama_model::create_memory: the last layer with rows of its own, or the last but one
        const int32_t owner = hparams.n_layer_kv_from_start - (hparams.is_swa(il) ? 2 : 1);
        if (!hparams.has_kv(il) && (owner < 0 || hparams.is_swa(owner) != hparams.is_swa(il))) {
            return format("layer %u has no rows of its own, and layer %d, whose rows it would read, is not one of its kind", il, owner);
        }
        if (n_head % n_head_kv != 0) {
            return format("layer %u has %u heads, which its %u KV heads do not divide", il, n_head, n_head_kv);
        }
        for (const uint32_t size : { hparams.n_embd_head_k(il), hparams.n_embd_head_v(il) }) {
            if (size == 0) {
                return format("layer %u has heads of size 0", il);
            }
        }
        const bool finer = std::count(params.duo.finer_layers, params.duo.finer_layers + params.duo.n_finer_layers, int32_t(il)) > 0;
        for (const std::string & reason : { type_reason("K", finer ? params.duo.finer_k : params.type_k, hparams.n_embd_head_k(il)),
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
