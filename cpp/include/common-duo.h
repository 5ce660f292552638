// Mixed heads in llama.cpp's tools: the --duo-* flags, what becomes of options that mixed heads cannot honour, and the server's checkpoints.
#pragma once

#include "llama.h"

#include <functional>
#include <string>

struct common_arg;
struct common_params;
struct common_prompt_checkpoint;

// What the flags said; any of them turns mixed heads on.
struct common_params_duo {
    bool        enabled = false;
    std::string gates;
    float       sparsity  = -1.0f;
    float       threshold = -1.0f;
    double      budget    = -1.0;
    int32_t     sink      = -1;
    int32_t     recent    = -1;
    int32_t     chunk     = -1;

    // Points to this object's gates.
    llama_duo_params to_llama() const;
};

// Calls add_opt with each flag, for every tool that has the common ones. Each has a LLAMA_ARG_DUO_* variable.
void common_duo_add_args(const std::function<void(common_arg)> & add_opt);

// What mixed heads do with options that they cannot honour, wherever a tool reads its options; nothing where they are off. Throws std::invalid_argument,
// which says why and what to do, where the results would be others than asked for; where only less is saved or kept, it warns and takes the option back.
void common_duo_check_options(common_params & params);

// Restores a checkpoint of a sequence, in the draft's context too (which may be null). False, and a warning in the log, where that fails or, with mixed
// heads, where the sequence could not go on behind pos_min_thold: what it holds is then to be used no more, and the prompt to be processed again.
bool common_duo_load_checkpoint(const common_params_duo & duo, const common_prompt_checkpoint & checkpoint,
        llama_context * ctx_tgt, llama_context * ctx_dft, llama_seq_id seq_id, llama_pos pos_min_thold);
