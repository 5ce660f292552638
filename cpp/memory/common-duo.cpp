#include "common-duo.h"

#include "arg.h"
#include "common.h"

#include <cmath>
#include <stdexcept>

llama_duo_params common_params_duo::to_llama() const {
    llama_duo_params p = llama_duo_default_params();
    p.enabled   = enabled;
    p.gates     = gates.empty() ? nullptr : gates.c_str();
    p.sparsity  = sparsity;
    p.threshold = threshold;
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

static int32_t to_count(const char * flag, int value, int min) {
    if (value < min) {
        throw std::invalid_argument(string_format("%s is %d; expected an integer of at least %d", flag, value, min));
    }
    return value;
}

void common_duo_add_args(const std::function<void(common_arg)> & add_opt) {
    add_opt(common_arg(
        {"--duo-gates"}, "FILE",
        "mixed heads: which KV heads keep the whole cache; a DuoAttention folder, a TSV or JSON file, or auto for the model's own",
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
        "mixed heads: a head with a gate of at least this keeps the whole cache; instead of --duo-sparsity",
        [](common_params & params, const std::string & value) {
            params.duo.enabled = true;
            params.duo.threshold = to_number("--duo-threshold", value, 0.0f, INFINITY);
        }
    ).set_env("LLAMA_ARG_DUO_THRESHOLD"));
    add_opt(common_arg(
        {"--duo-sink"}, "N",
        "mixed heads: first tokens that a streaming head always sees (default: the gates' own, else 64)",
        [](common_params & params, int value) {
            params.duo.enabled = true;
            params.duo.sink = to_count("--duo-sink", value, 0);
        }
    ).set_env("LLAMA_ARG_DUO_SINK"));
    add_opt(common_arg(
        {"--duo-recent"}, "N",
        "mixed heads: recent tokens that a streaming head sees (default: the gates' own, else 256)",
        [](common_params & params, int value) {
            params.duo.enabled = true;
            params.duo.recent = to_count("--duo-recent", value, 0);
        }
    ).set_env("LLAMA_ARG_DUO_RECENT"));
    add_opt(common_arg(
        {"--duo-chunk"}, "N",
        "mixed heads: the recent window moves in steps of N tokens (default: 1)",
        [](common_params & params, int value) {
            params.duo.enabled = true;
            params.duo.chunk = to_count("--duo-chunk", value, 1);
        }
    ).set_env("LLAMA_ARG_DUO_CHUNK"));
}
