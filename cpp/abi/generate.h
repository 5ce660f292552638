// Text generation: prefill, sampling, stops.
#pragma once

#include "context.h"
#include "options.h"
#include "prompt.h"
#include "sampler.h"
#include "task.h"

#include <optional>
#include <string>
#include <vector>

namespace duo::abi {

struct generate_options {
    int64_t                  max_tokens = -1;  // -1: until the context is full
    bool                     special_tokens = false;
    bool                     reuse = true;
    size_t                   window = 256;
    size_t                   n = 1;            // texts to generate
    std::optional<size_t>    log_probs;        // alternatives for each token
    std::vector<std::string> stop;
    common_params_sampling   sampling;

    static generate_options read(options o, const model & m, size_t n_seq_max);
};

// The task of llama_duo_generate, or, on a handle's sequence, of llama_duo_sequence_generate.
std::shared_ptr<task> generate_task(std::shared_ptr<job> j, const context & c, std::shared_ptr<sequence> on, prompt p, generate_options o);

} // namespace duo::abi
