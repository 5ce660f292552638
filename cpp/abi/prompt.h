// What a caller gives to be read: token ids, or text, which is tokenized on the engine's thread.
#pragma once

#include "job.h"
#include "model.h"
#include "options.h"

#include <string>
#include <vector>

namespace duo::abi {

class prompt {
public:
    // Copies the caller's buffers: n_tokens ids, or, where n_tokens is -1, n_bytes of text. `name` is what messages call it. A text that has
    // more than max_tokens tokens whatever they are is refused here, without being tokenized. add_special: what the option of that name is by default.
    prompt(const char * name, const model & m, const int32_t * tokens, int32_t n_tokens, const void * text, int32_t n_bytes, size_t max_tokens,
            options & o, bool add_special = true);

    // The number of ids; where it is text, as many as they can be.
    size_t max_size() const { return is_text ? INT32_MAX : ids.size(); }

    // Whether tokenizing it takes more than some milliseconds.
    bool is_long() const { return text.size() > 32 * 1024; }

    // At least min_size ids. Cancelling the job ends the tokenizing.
    std::vector<llama_token> tokens(const job & j, const model & m, size_t min_size) const;

private:
    std::string              name;
    bool                     is_text;
    std::vector<llama_token> ids;
    std::string              text;
    bool                     add_special;
    bool                     parse_special;
};

} // namespace duo::abi
