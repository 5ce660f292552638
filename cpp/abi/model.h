// A loaded model.
#pragma once

#include "job.h"
#include "options.h"
#include "process.h"

#include "llama-cpp.h"

#include <optional>
#include <string>
#include <vector>

namespace duo::abi {

struct model_options {
    std::string                          path;
    llama_model_params                   params;       // but for the pointers
    std::vector<ggml_backend_dev_t>      devices;      // of device_names; empty: all
    std::vector<float>                   tensor_split; // empty: by the devices' memory
    std::vector<llama_model_kv_override> overrides;

    std::optional<std::vector<std::string>> device_names;

    static model_options read(options o);

    // Looks the devices up, once the backends have started. Throws a job_error for a name that none has.
    void find_devices();

    // Makes overrides of the types that the file's values have, which llama.cpp would leave out otherwise, with a word in its log. Throws a job_error for one that
    // cannot be.
    void fit_overrides();

    // The parameters for llama.cpp, valid as long as this object stays where it is.
    llama_model_params use() const;

    // For a model that takes no memory for weights, only tells what it would take.
    llama_model_params use_weightless() const;
};

struct model {
    heap_trim           trimmed; // after ptr, which is destroyed first
    llama_model_ptr     ptr;
    const llama_vocab * vocab;
    model_options       options; // what it was loaded with
    size_t              max_token_bytes; // bytes of text that a token stands for, at most; SIZE_MAX where there is no such bound

    // Whether it can compute, and not only tell what it is.
    bool has_weights() const { return !options.params.vocab_only && !options.params.no_alloc; }
    bool has_vocab() const { return llama_vocab_type(vocab) != LLAMA_VOCAB_TYPE_NONE; }
    bool is_token(int32_t token) const { return token >= 0 && token < llama_vocab_n_tokens(vocab); }
};

// Throws a job_error where the path names no GGUF file that can be read at any place.
void check_is_gguf(const std::string & path);

// Throws where the model was loaded without what this needs weights for: "make a context".
void require_weights(const model & m, const std::string & what);

// The job's work: loads, and makes the result of llama_duo_model_load.
void load_model(job & j, model_options o);

// Runs llama_duo_model_free as the job, on a thread of its own.
void free_model(std::shared_ptr<model> m, std::shared_ptr<job> j);

// The model must have a vocabulary; every token must be one of it. Cancelling the job, if there is one, ends the tokenizing.
std::vector<llama_token> tokenize(const model & m, const char * text, int32_t len, bool add_special, bool parse_special,
        const job * j = nullptr);
std::string detokenize(const model & m, const llama_token * tokens, int32_t n_tokens, bool remove_special, bool render_special);

// The work of llama_duo_tokenize_long.
void tokenize_long(job & j, const model & m, const std::string & text, bool add_special, bool parse_special);

} // namespace duo::abi
