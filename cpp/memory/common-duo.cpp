#include "common-duo.h"

#include "arg.h"
#include "common.h"
#include "log.h"
#include "speculative.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>
#include <vector>

llama_duo_params common_params_duo::to_llama() const {
    llama_duo_params p = llama_duo_default_params();
    p.enabled   = enabled;
    const bool needless = sparsity == 0.0f || sparsity == 1.0f;
    p.gates     = !gates.empty() ? gates.c_str() : needless ? nullptr : "auto";
    p.sparsity  = sparsity;
    p.threshold = threshold;
    p.budget    = budget;
    p.sink      = sink;
    p.recent    = recent;
    p.chunk     = chunk;
    return p;
}

// A number from text, all of it, within [min, max].
static float to_number(const char * flag, const std::string & text, float min, float max) {
    size_t used = 0;
    float value = NAN;
    try {
        value = std::stof(text, &used);
    } catch (const std::exception &) {
        used = 0;
    }
    if (used == 0 || used != text.size() || !(value >= min && value <= max)) {
        throw std::invalid_argument(string_format("%s is \"%s\"; expected a number from %g to %g", flag, text.c_str(), min, max));
    }
    return value;
}

// The same for an integer of at least min.
static int32_t to_count(const char * flag, const std::string & text, int min) {
    size_t used = 0;
    int value = 0;
    try {
        value = std::stoi(text, &used);
    } catch (const std::exception &) {
        used = 0;
    }
    if (used == 0 || used != text.size() || value < min) {
        throw std::invalid_argument(string_format("%s is \"%s\"; expected an integer of at least %d", flag, text.c_str(), min));
    }
    return value;
}

// A share of a full f16 cache, or bytes: "0.3", "4GiB", "4G", "512MiB", "1000000".
static double to_budget(const char * flag, const std::string & text) {
    static const std::vector<std::pair<std::string, double>> units = {
        { "", 1 }, { "B", 1 }, { "KiB", 0x1p10 }, { "K", 0x1p10 }, { "MiB", 0x1p20 }, { "M", 0x1p20 }, { "GiB", 0x1p30 }, { "G", 0x1p30 }, { "TiB", 0x1p40 }, { "T", 0x1p40 },
    };
    double value = NAN;
    std::string unit;
    try {
        size_t used = 0;
        value = std::stod(text, &used);
        unit  = text.substr(used);
    } catch (const std::exception &) {
    }
    const auto it = std::find_if(units.begin(), units.end(), [&](const auto & u) { return u.first == unit; });
    const bool is_share = unit.empty() && value <= 1;
    if (it == units.end() || !(value > 0) || (!is_share && !(value * it->second > 1 && value * it->second <= 0x1p53))) {
        throw std::invalid_argument(string_format("%s is \"%s\"; expected a share of a full f16 cache, such as 0.3, or a size, such as 4GiB", flag, text.c_str()));
    }
    return value * it->second;
}

void common_duo_add_args(const std::function<void(common_arg)> & add_opt) {
    add_opt(common_arg(
        {"--duo-gates"}, "FILE",
        "mixed heads: which KV heads keep the whole cache; a DuoAttention folder, a TSV or JSON file, or auto for the model's own (default with another of these flags: auto)",
        [](common_params & params, const std::string & value) {
            params.duo.enabled = true;
            params.duo.gates = value;
        }
    ).set_env("LLAMA_ARG_DUO_GATES"));
    add_opt(common_arg(
        {"--duo-sparsity"}, "S",
        "mixed heads: share of the KV heads that stream, 0 to 1; 0 (none) and 1 (all) need no gates (default: 0.5)",
        [](common_params & params, const std::string & value) {
            params.duo.enabled = true;
            params.duo.sparsity = to_number("--duo-sparsity", value, 0.0f, 1.0f);
        }
    ).set_env("LLAMA_ARG_DUO_SPARSITY"));
    add_opt(common_arg(
        {"--duo-threshold"}, "T",
        "mixed heads: a head with a gate of at least this, 0 to 1, keeps the whole cache; instead of --duo-sparsity",
        [](common_params & params, const std::string & value) {
            params.duo.enabled = true;
            params.duo.threshold = to_number("--duo-threshold", value, 0.0f, 1.0f);
        }
    ).set_env("LLAMA_ARG_DUO_THRESHOLD"));
    add_opt(common_arg(
        {"--duo-budget"}, "SIZE",
        "mixed heads: what the KV cache may take, a share of a full f16 cache (0.3) or a size (4GiB); cache types (where -ctk and -ctv are f16), heads and windows are those that "
        "lose least by what llama-duo calibrate has measured; with --duo-recent, or gates without losses, the heads with the lowest gates stream, no more of them than have to; instead of --duo-sparsity",
        [](common_params & params, const std::string & value) {
            params.duo.enabled = true;
            params.duo.budget = to_budget("--duo-budget", value);
        }
    ).set_env("LLAMA_ARG_DUO_BUDGET"));
    add_opt(common_arg(
        {"--duo-sink"}, "N",
        "mixed heads: first tokens that a streaming head always sees (default: the gates' own, else 64)",
        [](common_params & params, const std::string & value) {
            params.duo.enabled = true;
            params.duo.sink = to_count("--duo-sink", value, 0);
        }
    ).set_env("LLAMA_ARG_DUO_SINK"));
    add_opt(common_arg(
        {"--duo-recent"}, "N",
        "mixed heads: recent tokens that a streaming head sees (default: the gates' own, else 256)",
        [](common_params & params, const std::string & value) {
            params.duo.enabled = true;
            params.duo.recent = to_count("--duo-recent", value, 0);
        }
    ).set_env("LLAMA_ARG_DUO_RECENT"));
    add_opt(common_arg(
        {"--duo-chunk"}, "N",
        "mixed heads: the recent window moves in steps of N tokens (default: 1)",
        [](common_params & params, const std::string & value) {
            params.duo.enabled = true;
            params.duo.chunk = to_count("--duo-chunk", value, 1);
        }
    ).set_env("LLAMA_ARG_DUO_CHUNK"));
}

// --- options that mixed heads cannot honour ---

namespace {

struct option_rule {
    const char * option;                          // as a user writes it
    bool (*given)(const common_params & params);  // whether it asks for what mixed heads cannot do
    void (*take_back)(common_params & params);    // null: it is refused
    const char * reason;                          // and what to do
};

const option_rule option_rules[] = {
    { "both --duo-sparsity and --duo-threshold", [](const common_params & p) { return p.duo.sparsity >= 0.0f && p.duo.threshold >= 0.0f; }, nullptr,
        "each says which heads stream; give one" },
    { "--duo-budget beside --duo-sparsity or --duo-threshold",
        [](const common_params & p) { return p.duo.budget > 0 && (p.duo.sparsity >= 0.0f || p.duo.threshold >= 0.0f); }, nullptr,
        "each says which heads stream; give one" },
    { "-fa off", [](const common_params & p) { return p.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_DISABLED; }, nullptr,
        "mixed heads have their own attention, which takes the place of flash attention; use -fa on or auto" },
    { "-sm tensor", [](const common_params & p) { return p.split_mode == LLAMA_SPLIT_MODE_TENSOR; }, nullptr,
        "a layer's KV cache is not split over devices; use -sm layer" },
    { "--attention non-causal", [](const common_params & p) { return p.attention_type == LLAMA_ATTENTION_TYPE_NON_CAUSAL; }, nullptr,
        "attention that is not causal has no recent window; leave it out" },
    { "--grp-attn-n", [](const common_params & p) { return p.grp_attn_n != 1; }, nullptr,
        "group attention gives cached tokens other positions, and a position decides where a token is kept; leave it out" },
    { "--hellaswag", [](const common_params & p) { return p.hellaswag; }, nullptr,
        "its answers share the tokens of their question, and a mixed-head cache keeps sequences apart; score it without --duo-*" },
    { "--winogrande", [](const common_params & p) { return p.winogrande; }, nullptr,
        "its answers share the tokens of their question, and a mixed-head cache keeps sequences apart; score it without --duo-*" },
    { "--multiple-choice", [](const common_params & p) { return p.multiple_choice; }, nullptr,
        "its answers share the tokens of their question, and a mixed-head cache keeps sequences apart; score it without --duo-*" },
    { "-kvu", [](const common_params & p) { return p.kv_unified; }, [](common_params & p) { p.kv_unified = false; },
        "sequences have cells of their own, so the context (-c) is divided by their number (-np)" },
    { "--swa-full", [](const common_params & p) { return p.swa_full; }, [](common_params & p) { p.swa_full = false; },
        "layers with the model's own sliding windows keep what they see and 64 positions more, and the server's checkpoints go back further" },
    { "--context-shift", [](const common_params & p) { return p.ctx_shift; }, [](common_params & p) { p.ctx_shift = false; },
        "cached tokens keep their positions, so an answer ends where the context is full" },
    { "--cache-reuse", [](const common_params & p) { return p.n_cache_reuse > 0; }, [](common_params & p) { p.n_cache_reuse = 0; },
        "cached tokens keep their positions, so only what prompts begin with is reused" },
};

} // namespace

void common_duo_check_options(common_params & params) {
    if (!params.duo.enabled) {
        return;
    }
    // a server's number of slots, where it is left to it: each has its share of the context and no more, so it is one
    params.n_parallel = std::max(params.n_parallel, 1);

    // tokens that a batch has room for, and a ubatch
    const int32_t room_batch = params.n_ctx > 0 ? std::min(params.n_batch, params.n_ctx) : params.n_batch;
    const int32_t room       = params.n_ubatch > 0 ? std::min(room_batch, params.n_ubatch) : room_batch;
    if (params.n_parallel > room) {
        throw std::invalid_argument(string_format("mixed heads (--duo-*) cannot be used with %d sequences (-np) in batches of %d tokens "
                "(the least of -b, -ub and -c): each sequence may have a token in a batch; use -np %d at most, or larger batches",
                params.n_parallel, room, room));
    }
    const int32_t n_draft = common_speculative_n_max(&params.speculative);
    if (n_draft > 0 && int64_t(params.n_parallel) * (1 + n_draft) > room_batch) {
        throw std::invalid_argument(string_format("mixed heads (--duo-*) cannot be used with %d sequences (-np) that draft up to %d tokens (--spec-*) in batches of %d tokens "
                "(the least of -b and -c): all drafts are verified in one batch; use shorter drafts, fewer sequences, or batches of %lld tokens",
                params.n_parallel, n_draft, room_batch, (long long) params.n_parallel * (1 + n_draft)));
    }
    for (const option_rule & rule : option_rules) {
        if (!rule.given(params)) {
            continue;
        }
        if (!rule.take_back) {
            throw std::invalid_argument(string_format("mixed heads (--duo-*) cannot be used with %s: %s", rule.option, rule.reason));
        }
        rule.take_back(params);
        LOG_WRN("mixed heads (--duo-*) go without %s: %s\n", rule.option, rule.reason);
    }
}

// --- checkpoints ---

bool common_duo_load_checkpoint(const common_params_duo & duo, const common_prompt_checkpoint & checkpoint,
        llama_context * ctx_tgt, llama_context * ctx_dft, llama_seq_id seq_id, llama_pos pos_min_thold) {
    const auto refuse = [&](const std::string & reason) {
        LOG_WRN("the checkpoint of positions %d to %d of sequence %d is of no use: %s\n", checkpoint.pos_min, checkpoint.pos_max, seq_id, reason.c_str());
        return false;
    };
    try {
        checkpoint.load_tgt(ctx_tgt, seq_id, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
        checkpoint.load_dft(ctx_dft, seq_id, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
    } catch (const std::exception & e) {
        return refuse(e.what());
    }
    // it may hold less than the sequence did when it was made
    const llama_pos pos_min = llama_memory_seq_pos_min(llama_get_memory(ctx_tgt), seq_id);
    return !duo.enabled || pos_min == 0 || pos_min < pos_min_thold || refuse(string_format("what it holds goes on at %d at the earliest", pos_min + 1));
}
