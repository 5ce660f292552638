// Text generation: prefill, sampling, stops.
#pragma once

#include "context.h"
#include "job.h"
#include "options.h"

#include "common.h"

#include <string>
#include <vector>

namespace duo::abi {

struct generate_options {
    int64_t                  max_tokens = -1;  // -1: until the context is full
    bool                     ignore_eos = false;
    bool                     special_tokens = false;
    bool                     reuse = true;
    size_t                   window = 256;
    std::vector<std::string> stop;
    common_params_sampling   sampling;  // llama.cpp's own defaults

    static generate_options read(options o, const model & m);
};

void generate(job & j, context & c, const std::vector<llama_token> & prompt, const generate_options & o);

} // namespace duo::abi
