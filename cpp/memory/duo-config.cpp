#include "duo-config.h"

#include "gate-gguf.h"
#include "gate-pattern.h"

#include "llama-cparams.h"
#include "llama-impl.h"
#include "llama-kv-cache-duo.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <stdexcept>

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

void duo_check_memory(const llama_cparams & cparams, const llama_memory_i * memory) {
    if (cparams.duo && !dynamic_cast<const llama_kv_cache_duo *>(memory)) {
        throw std::runtime_error("mixed heads cannot be used with this model: its architecture has a cache of its own");
    }
}
