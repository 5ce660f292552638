// How tokens are chosen: llama.cpp's samplers, their options and what they chose from.
#pragma once

#include "model.h"
#include "options.h"

#include "common.h"
#include "sampling.h"

#include <optional>
#include <vector>

namespace duo::abi {

// llama.cpp's own defaults where nothing is given.
common_params_sampling read_sampling(options & o, const model & m);

// The i'th of several samplers, each with a seed of its own, for what comes after a text. n_ctx: tokens that a sequence holds.
common_sampler_ptr make_sampler(const model & m, common_params_sampling params, size_t i, const std::vector<llama_token> & text, size_t n_ctx);

// What chooses where nothing but the largest logit counts: no list of all candidates is made, which takes a few percent of a small model's time.
class largest_logit {
public:
    // Nothing where samplers may choose another token.
    static std::optional<largest_logit> where_it_is_all(common_params_sampling params);

    llama_token operator()(const float * logits, llama_token n_vocab) const;

private:
    std::vector<llama_token> forbidden; // rising
};

// Whether there was nothing to choose from: a sampler chooses all the same, and what it took then has a probability of 0.
bool nothing_allowed(common_sampler * sampler);

// The natural logarithms of probabilities that logits give: that of a token, then the n_top likeliest tokens, each with its own.
std::vector<double> log_probabilities(const float * logits, size_t n_vocab, llama_token token, size_t n_top);

} // namespace duo::abi
