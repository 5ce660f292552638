// Log-probabilities of given tokens.
#pragma once

#include "context.h"
#include "options.h"
#include "prompt.h"
#include "task.h"

namespace duo::abi {

struct score_options {
    size_t from = 1; // the first token that is scored

    static score_options read(options o, size_t n_tokens);
};

// The task of llama_duo_score, or, on a handle's sequence, of llama_duo_sequence_score, which has no options.
std::shared_ptr<task> score_task(std::shared_ptr<job> j, const context & c, std::shared_ptr<sequence> on, prompt p, score_options o);

} // namespace duo::abi
