// The --duo-* flags of llama.cpp's tools.
#pragma once

#include "llama-duo.h"

#include <functional>
#include <string>

struct common_arg;

// What the flags said; any of them turns mixed heads on.
struct common_params_duo {
    bool        enabled = false;
    std::string gates;
    float       sparsity  = -1.0f;
    float       threshold = -1.0f;
    int32_t     sink      = -1;
    int32_t     recent    = -1;
    int32_t     chunk     = -1;

    // Points to this object's gates.
    llama_duo_params to_llama() const;
};

// Calls add_opt with each flag, for every tool that has the common ones. Each has a LLAMA_ARG_DUO_* variable.
void common_duo_add_args(const std::function<void(common_arg)> & add_opt);
