// A loaded model.
#pragma once

#include "job.h"
#include "options.h"
#include "process.h"

#include "llama-cpp.h"

#include <string>
#include <vector>

namespace duo::abi {

struct model {
    heap_trim           trimmed; // after ptr, which is destroyed first
    llama_model_ptr     ptr;
    const llama_vocab * vocab;
    std::string         path;
    llama_model_params  params;  // what it was loaded with
    size_t              max_token_bytes;  // bytes of text that a token stands for, at most; SIZE_MAX where there is no such bound

    // Whether it can compute, and not only tell what it is.
    bool has_weights() const { return !params.vocab_only && !params.no_alloc; }
    bool has_vocab() const { return llama_vocab_type(vocab) != LLAMA_VOCAB_TYPE_NONE; }
    bool is_token(int32_t token) const { return token >= 0 && token < llama_vocab_n_tokens(vocab); }
};

struct model_options {
    std::string        path;
    llama_model_params params;

    static model_options read(options o);
};

// Throws where the model was loaded without what this needs weights for: "make a context".
void require_weights(const model & m, const std::string & what);

// The job's work: loads, and makes the result of llama_duo_model_load.
void load_model(job & j, const model_options & o);

// Runs llama_duo_model_free as the job, on a thread of its own.
void free_model(std::shared_ptr<model> m, std::shared_ptr<job> j);

// The model must have a vocabulary; every token must be one of it. Cancelling the job, if there is one, ends the tokenizing.
std::vector<llama_token> tokenize(const model & m, const char * text, int32_t len, bool add_special, bool parse_special,
        const job * j = nullptr);
std::string detokenize(const model & m, const llama_token * tokens, int32_t n_tokens, bool remove_special, bool render_special);

// The work of llama_duo_tokenize_long.
void tokenize_long(job & j, const model & m, const std::string & text, bool add_special, bool parse_special);

} // namespace duo::abi
