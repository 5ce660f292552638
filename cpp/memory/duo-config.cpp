#include "duo-config.h"

#include "budget-selection.h"
#include "gate-gguf.h"
#include "gate-pattern.h"

#include "llama-arch.h"
#include "llama-context.h"
#include "llama-cparams.h"
#include "llama-impl.h"
#include "llama-memory-hybrid-duo.h"
#include "llama-model.h"
#include "mixed-attention.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <regex>
#include <set>
#include <stdexcept>
#include <tuple>

// model.duo.json for model.gguf, and for model-00001-of-00003.gguf.
static std::string sidecar_of(const std::string & path) {
    static const std::regex part("-[0-9]{5}-of-[0-9]{5}$");
    const std::filesystem::path model = std::filesystem::u8path(path);
    return path.empty() ? "" : model.parent_path().append(std::regex_replace(model.stem().u8string(), part, "") + ".duo.json").u8string();
}

static duo::gate_pattern model_gates(const llama_model & model) {
    const auto it = model.gguf_kv.find(duo::gguf_pattern_key);
    if (it != model.gguf_kv.end()) {
        return duo::parse_gate_pattern(it->second, std::string("the model's metadata key ") + duo::gguf_pattern_key);
    }
    const std::string sidecar = sidecar_of(model.path);
    if (!sidecar.empty() && std::filesystem::exists(std::filesystem::u8path(sidecar))) {
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
    for (size_t i = 0; i < p.n_finer_layers; ++i) {
        check(p.finer_layers[i] >= (i == 0 ? 0 : p.finer_layers[i - 1] + 1), "a layer of finer K rows", p.finer_layers[i], "numbers that rise from 0 on");
    }
    check(!std::isnan(p.budget) && p.budget != 0, "duo budget", p.budget, "a share of a full f16 cache up to 1, or bytes");
    if (p.budget > 0 && (p.sparsity >= 0.0f || p.threshold >= 0.0f)) {
        throw std::runtime_error(format("a duo budget (%g) is given beside a %s; each says which heads stream: give one", p.budget, p.sparsity >= 0.0f ? "sparsity" : "threshold"));
    }
    if (p.sparsity >= 0.0f && p.threshold >= 0.0f) {
        throw std::runtime_error(format("both a duo sparsity (%g) and a threshold (%g) are given; give one", p.sparsity, p.threshold));
    }
}

// Sizes beyond this would overflow 32-bit cell arithmetic; no model has such a context.
static constexpr int64_t max_window = 1 << 29;

int64_t duo_config::n_cells(const duo_layer & layer, int32_t recent) const {
    return GGML_PAD(int64_t(layer.sink) + recent + layer.chunk + n_ubatch + rollback, int64_t(64));
}

static void check_window(const duo_config & config, const duo_layer & layer, int32_t recent) {
    if (const int64_t cells = config.n_cells(layer, recent); cells > max_window) {
        throw std::runtime_error(format("a head that sees a window would need %lld cells (sink %d, recent %d, chunk %d, ubatch %u); expected at most %lld",
                (long long) cells, layer.sink, recent, layer.chunk, config.n_ubatch, (long long) max_window));
    }
}

bool duo_attends(const llama_model & model, uint32_t il) {
    switch (model.arch) {
        case LLM_ARCH_FALCON_H1:      return true; // beside the recurrent part
        case LLM_ARCH_NEMOTRON_H:
        case LLM_ARCH_NEMOTRON_H_MOE: return !model.hparams.is_recr(il) && model.hparams.n_ff(il) == 0;
        default:                      return !llm_arch_is_recurrent(model.arch) && (!llm_arch_is_hybrid(model.arch) || !model.hparams.is_recr(il));
    }
}

bool duo_recurs(const llama_model & model, uint32_t il) {
    switch (model.arch) {
        case LLM_ARCH_FALCON_H1:      return true;
        case LLM_ARCH_NEMOTRON_H:
        case LLM_ARCH_NEMOTRON_H_MOE: return model.hparams.is_recr(il) && model.hparams.n_ff(il) == 0;
        default:                      return llm_arch_is_recurrent(model.arch) || (llm_arch_is_hybrid(model.arch) && model.hparams.is_recr(il));
    }
}

// The layer whose rows a layer attends to, where llama.cpp's cache shares them (llama_model::create_memory).
static uint32_t stored_by(const llama_hparams & hparams, uint32_t il) {
    return hparams.has_kv(il) ? il : hparams.n_layer_kv_from_start - (hparams.is_swa(il) ? 2 : 1);
}

std::vector<int32_t> duo_gated_heads(const llama_model & model) {
    const auto & hparams = model.hparams;
    std::vector<int32_t> n;
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        n.push_back(hparams.is_swa(il) || !duo_attends(model, il) || !hparams.has_kv(il) ? 0 : int32_t(hparams.n_head_kv(il)));
    }
    return n;
}

// A published pattern may have rows for all layers: those without gates here say nothing.
static void drop_rows_without_gates(duo::gate_pattern & pattern, const llama_hparams & hparams, const std::vector<int32_t> & n_gated) {
    if (pattern.n_layer != int32_t(n_gated.size())) {
        return; // refused later, with both shapes
    }
    std::vector<int32_t> n_head;
    for (int32_t il = 0; il < pattern.n_layer; ++il) {
        const bool all = n_gated[il] == 0 && pattern.n_head(il) == int32_t(hparams.n_head_kv(il));
        n_head.push_back(all ? 0 : pattern.n_head(il));
        for (int32_t ih = 0; all && ih < pattern.n_head_kv; ++ih) {
            pattern.gates[size_t(il) * pattern.n_head_kv + ih] = 0.0f;
        }
    }
    pattern.n_head_layer = std::move(n_head);
}

// --- a budget ---

static_assert(duo::every_key == GGML_MIXED_ATTN_ALL);

// What the context is asked for.
static duo_row_types given_types(const llama_context_params & params) {
    const llama_duo_params & p = params.duo;
    return { params.type_k, params.type_v, p.finer_k, { p.finer_layers, p.finer_layers + p.n_finer_layers } };
}

// What was measured of such rows; null: nothing was.
static const duo::cache_type_loss * measured_k(const duo::gate_pattern & pattern, const duo_row_types & t) {
    const auto & types = pattern.k_types;
    const auto it = std::find_if(types.begin(), types.end(), [&](const duo::cache_type_loss & l) {
        return l.type == ggml_type_name(t.type_k) && l.finer_layers == t.finer_layers && (l.finer_layers.empty() || l.finer == ggml_type_name(t.finer_k));
    });
    return it == types.end() ? nullptr : &*it;
}

// Types that a budget may choose, and what they lose.
struct row_types_loss : duo_row_types {
    double loss = 0;
};

static row_types_loss given_types_loss(const duo::gate_pattern & pattern, const llama_context_params & params) {
    const duo_row_types t = given_types(params);
    const duo::cache_type_loss * k = measured_k(pattern, t), * v = duo::find_type(pattern.v_types, ggml_type_name(t.type_v));
    return { t, (k ? double(k->loss) : 0.0) + (v ? double(v->loss) : 0.0) };
}

// The types that a budget chooses from: those that were measured and don't break the model, unless other than f16 is asked for.
static std::vector<row_types_loss> types_to_choose_from(const duo::gate_pattern & pattern, const llama_model & model, const llama_context_params & params) {
    std::vector<row_types_loss> types = { given_types_loss(pattern, params) };
    if (params.type_k != GGML_TYPE_F16 || params.type_v != GGML_TYPE_F16) {
        return types;
    }
    const auto fit = [&](ggml_type k, ggml_type v) {
        llama_context_params typed = params;
        typed.type_k = k;
        typed.type_v = v;
        return k != GGML_TYPE_COUNT && v != GGML_TYPE_COUNT && duo_unsupported(&model, typed).empty();
    };
    for (const duo::cache_type_loss & k : pattern.k_types) {
        for (const duo::cache_type_loss & v : pattern.v_types) {
            const bool mixed = !k.finer_layers.empty();
            row_types_loss t = { { duo_type_named(k.type), duo_type_named(v.type), mixed ? duo_type_named(k.finer) : GGML_TYPE_F16, k.finer_layers }, double(k.loss) + double(v.loss) };
            const bool is_given = t.type_k == GGML_TYPE_F16 && t.type_v == GGML_TYPE_F16 && !mixed;
            if (!is_given && !duo::breaks_model(pattern.k_types[0], k) && !duo::breaks_model(pattern.v_types[0], v) && fit(t.type_k, t.type_v) && (!mixed || fit(t.finer_k, t.type_v))) {
                types.push_back(std::move(t));
            }
        }
    }
    return types;
}

// Lets the budget choose types, heads and windows of a configuration in which every head with a gate sees everything. Losses say nothing of a window that they
// were not measured with: where one is given, or a pattern only ranks, the lowest gates stream, and types stay.
static void choose_for_budget(duo_config & config, const duo::gate_pattern & pattern, const llama_model & model, const llama_context_params & params, uint32_t n_ctx_seq, uint32_t n_seq) {
    const auto & hparams = model.hparams;
    const bool own_windows = params.duo.recent < 0 && !pattern.windows.empty(), by_loss = params.duo.recent < 0 && !pattern.loss_windows.empty();
    const auto types = by_loss ? types_to_choose_from(pattern, model, params) : std::vector { given_types_loss(pattern, params) };
    const auto bytes_of = [&](uint32_t il, const duo_row_types & t, int32_t window) {
        const int64_t cells = window == GGML_MIXED_ATTN_ALL ? n_ctx_seq : std::min<int64_t>(config.n_cells(config.layers[il], window), n_ctx_seq);
        return uint64_t(cells) * n_seq * (ggml_row_size(t.type_k_of(il), hparams.n_embd_head_k(il)) + ggml_row_size(t.type_v, hparams.n_embd_head_v(il)));
    };
    const auto bytes_without_gates = [&](const duo_row_types & t) {
        uint64_t bytes = 0;
        for (uint32_t il = 0; il < config.layers.size(); ++il) {
            const duo_layer & l = config.layers[il];
            for (const int32_t recent : l.recent) {
                bytes += l.windowed && l.stored_by == il ? bytes_of(il, t, recent) : 0;
            }
        }
        return bytes;
    };

    duo::cache_cost cost;
    cost.n_head_kv = config.heads.n_head_kv;
    for (const row_types_loss & t : types) {
        cost.types.push_back({ ggml_type_name(t.type_k), ggml_type_name(t.type_v), t.loss });
    }
    cost.head_bytes  = [&](size_t i, int32_t il, int32_t window) { return bytes_of(uint32_t(il), types[i], window); };
    cost.other_bytes = [&](size_t i) { return bytes_without_gates(types[i]); };

    double budget = params.duo.budget;
    if (budget <= 1) {
        const duo_row_types f16;
        uint64_t full = bytes_without_gates(f16);
        for (uint32_t il = 0; il < config.layers.size(); ++il) {
            full += uint64_t(config.heads.n_head_kv[il]) * bytes_of(il, f16, GGML_MIXED_ATTN_ALL);
        }
        budget *= double(full);
    }
    const auto window = [&](int32_t il, int32_t ih) { return own_windows ? pattern.window(il, ih) : config.recent; };
    const uint64_t bytes = uint64_t(std::min(budget, 0x1p63));
    const duo::budget_selection s = by_loss ? duo::select_by_budget(pattern, cost, bytes) : duo::select_by_rank(pattern, cost, window, bytes);
    static_cast<duo_row_types &>(config) = types[s.i_types];
    config.expected_loss = s.measured ? s.loss : -1;
    for (size_t il = 0; il < s.windows.size(); ++il) {
        for (size_t h = 0; h < s.windows[il].size(); ++h) {
            const int32_t window = s.windows[il][h];
            config.heads.streaming[il][h] = window != GGML_MIXED_ATTN_ALL;
            if (window != GGML_MIXED_ATTN_ALL) {
                config.layers[il].recent[h] = window;
                check_window(config, config.layers[il], window);
            }
        }
    }
    LLAMA_LOG_INFO("%s: for %.2f MiB: K (%s), V (%s), %u heads keep everything, %u have windows, %.2f MiB%s\n", __func__, budget / 1024 / 1024, config.type_k_name().c_str(),
            ggml_type_name(config.type_v), config.heads.n_retrieval(), config.heads.n_streaming(), double(s.bytes) / 1024 / 1024,
            s.measured ? format(", expected loss %.3g", s.loss).c_str() : "");
}

// A type that measurements of this model found to break it is used where it is asked for, and said.
static void warn_of_types(const duo::gate_pattern & pattern, const duo_config & config) {
    const auto warn = [&](const char * what, const std::vector<duo::cache_type_loss> & types, ggml_type type, const duo::cache_type_loss * l) {
        if (l && duo::breaks_model(types[0], *l)) {
            LLAMA_LOG_WARN("%s: %s rows of type %s break this model: when it was calibrated they left so few answers right that no budget would choose them; q8_0 or f16 is safer\n",
                    "duo_init_cparams", what, ggml_type_name(type));
        }
    };
    warn("K", pattern.k_types, config.type_k, measured_k(pattern, config));
    warn("V", pattern.v_types, config.type_v, duo::find_type(pattern.v_types, ggml_type_name(config.type_v)));
}

// The most that a streaming head sees, where heads differ.
static void take_most(duo_config & config, bool own_sinks, bool own_windows) {
    int32_t sink = -1, recent = -1;
    for (size_t il = 0; il < config.layers.size(); ++il) {
        const duo_layer & l = config.layers[il];
        for (size_t h = 0; h < config.heads.streaming[il].size(); ++h) {
            if (config.heads.streaming[il][h]) {
                sink   = std::max(sink,   l.sink);
                recent = std::max(recent, l.recent[h]);
            }
        }
    }
    config.sink   = own_sinks   && sink   >= 0 ? sink   : config.sink;
    config.recent = own_windows && recent >= 0 ? recent : config.recent;
}

void duo_init_cparams(llama_cparams & cparams, const llama_model & model, const llama_context_params & params) {
    const llama_duo_params & p = params.duo;
    if (cparams.ctx_other && cparams.ctx_other->get_cparams().duo && model.arch == LLM_ARCH_GEMMA4_ASSISTANT) {
        throw std::runtime_error("this draft model reads the KV cache of the model that it drafts for, and cannot read one with mixed heads; "
                "use another draft model, or no mixed heads (--duo-*)");
    }
    if (!p.enabled) {
        return;
    }
    check_params(p);

    const auto & hparams = model.hparams;
    const std::vector<int32_t> n_gated = duo_gated_heads(model);

    duo::gate_pattern pattern;
    const bool by_budget = p.budget > 0;
    if (by_budget && !p.gates) {
        throw duo::gate_error(format("a budget (%g) needs gates to choose heads by: give a gate file, or \"auto\" for the model's own", p.budget));
    }
    if (p.gates) {
        pattern = resolve_gates(model, p.gates);
        drop_rows_without_gates(pattern, hparams, n_gated);
    }

    auto config = std::make_shared<duo_config>();
    config->by_budget = by_budget;
    config->heads    = by_budget ? duo::select_all(n_gated, false) : select_heads(p, p.gates ? &pattern : nullptr, n_gated);
    static_cast<duo_row_types &>(*config) = given_types(params);
    if (!config->finer_layers.empty() && config->finer_layers.back() >= int32_t(hparams.n_layer())) {
        throw std::runtime_error(format("a layer of finer K rows is %d; expected one below the model's %u layers", config->finer_layers.back(), hparams.n_layer()));
    }
    if (p.gates) {
        config->pattern    = pattern.source;
        config->provenance = pattern.provenance;
    }
    config->sink     = first_given(p.sink,   pattern.sink,   64);
    config->recent   = first_given(p.recent, pattern.recent, 256);
    config->chunk    = first_given(p.chunk, -1, 1);
    config->operator_only = p.operator_only;
    // what is asked for goes before what the pattern has a layer or a head
    const bool own_sinks = p.sink < 0 && !pattern.sinks.empty(), own_windows = p.recent < 0 && !pattern.windows.empty();
    config->recurrent = llm_arch_is_hybrid(model.arch);
    config->rollback  = config->recurrent ? cparams.n_rs_seq : std::max(64u, params.n_rs_seq);
    // graphs are reserved for a multiple of n_seq_max tokens
    config->n_ubatch = uint32_t(std::min<int64_t>((int64_t(cparams.n_ubatch) + cparams.n_seq_max - 1) / cparams.n_seq_max * cparams.n_seq_max, max_window));

    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        duo_layer l;
        l.stored_by = stored_by(hparams, il);
        if (!duo_attends(model, il)) {
            config->layers.push_back(l);
            continue;
        }
        if (hparams.is_swa(il)) {
            // key j is seen where p - j < n_swa, or where it is of the same n_swa positions
            const bool    chunked = hparams.swa_type == LLAMA_SWA_TYPE_CHUNKED;
            const int32_t n_swa   = int32_t(std::min<int64_t>(hparams.n_swa, max_window / 2)); // which is beyond any context
            l.windowed = true;
            l.chunk    = chunked ? n_swa : 1;
            l.recent.assign(hparams.n_head_kv(il), chunked ? 0 : n_swa - 1);
            check_window(*config, l, l.recent.empty() ? 0 : l.recent[0]);
        } else {
            l.sink  = own_sinks ? pattern.sinks[il] : config->sink;
            l.chunk = config->chunk;
            for (uint32_t h = 0; h < hparams.n_head_kv(il); ++h) {
                const bool    streams = l.stored_by == il && config->heads.streaming[il][h];
                const int32_t recent  = !streams ? GGML_MIXED_ATTN_ALL : own_windows ? pattern.window(int32_t(il), int32_t(h)) : config->recent;
                if (streams) {
                    check_window(*config, l, recent); // GGML_MIXED_ATTN_ALL is beyond what it lets pass
                }
                l.recent.push_back(recent);
            }
        }
        config->layers.push_back(std::move(l));
    }
    if (by_budget) {
        // as llama_context's constructor will have it
        const uint32_t n_ctx_seq = GGML_PAD(GGML_PAD(cparams.n_ctx, 256) / cparams.n_seq_max, 256);
        choose_for_budget(*config, pattern, model, params, n_ctx_seq, cparams.n_seq_max);
    }
    warn_of_types(pattern, *config);
    take_most(*config, own_sinks, own_windows || by_budget);
    for (duo_layer & l : config->layers) {
        const duo_layer & owner = config->layers[l.stored_by]; // who attends to another's rows sees what that one keeps, where it keeps it
        l.recent = owner.recent;
        l.sink   = owner.sink;
        l.chunk  = owner.chunk;
    }

    if (cparams.kv_unified) {
        LLAMA_LOG_WARN("%s: sequences of a mixed-head cache have cells of their own: the context of %u tokens is divided by %u, not unified\n",
                __func__, cparams.n_ctx, cparams.n_seq_max);
        cparams.kv_unified = false;
    }
    const bool all_kept = std::all_of(config->layers.begin(), config->layers.end(), [](const duo_layer & l) {
        return std::all_of(l.recent.begin(), l.recent.end(), [](int32_t recent) { return recent == GGML_MIXED_ATTN_ALL; });
    });
    if (!all_kept && !config->recurrent) {
        cparams.n_rs_seq = config->rollback; // tells stock code that a rollback has bounds
    }
    cparams.duo = std::move(config);
}

uint32_t duo_graph_nodes(const llama_cparams & cparams) {
    uint32_t n = 0;
    for (size_t il = 0; cparams.duo && il < cparams.duo->layers.size(); ++il) {
        // where ggml's own operators attend, those that see the same have an attention of their own: its views, the learned sinks in order, a concatenation
        const auto & recent = cparams.duo->layers[il].recent;
        n += 10 * uint32_t(std::set<int32_t>(recent.begin(), recent.end()).size());
    }
    return n;
}

void duo_check_memory(const llama_cparams & cparams, const llama_memory_i * memory) {
    if (cparams.duo && !duo_cache_in(const_cast<llama_memory_i *>(memory))) {
        throw std::runtime_error("mixed heads cannot be used with this model: its architecture has a cache of its own");
    }
}
