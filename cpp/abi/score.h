// Log-probabilities of given tokens.
#pragma once

#include "context.h"
#include "job.h"
#include "options.h"

#include <vector>

namespace duo::abi {

struct score_options {
    size_t from          = 1;     // the first token that is scored

    static score_options read(options o, size_t n_tokens);
};

void score(job & j, context & c, const std::vector<llama_token> & tokens, const score_options & o);

} // namespace duo::abi
