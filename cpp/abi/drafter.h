// Speculative decoding: tokens that a text may go on with are guessed, cheaply, and the context's model verifies several of them at once.
#pragma once

#include "cache-sequence.h"
#include "model.h"
#include "options.h"

#include "common.h"
#include "llama-cpp.h"
#include "speculative.h"

#include <memory>
#include <string>
#include <vector>

namespace duo::abi {

// The option "speculative" of a context.
struct draft_options {
    std::shared_ptr<model> draft;  // null: none
    bool                   lookup = false;
    size_t                 n_max  = 0; // tokens of a draft, at most
    size_t                 n_max_lookup = 0;
    size_t                 n_gram = 0;
    float                  p_min  = 0;
    ggml_type              type_k;
    ggml_type              type_v;
    int32_t                n_threads       = 0; // 0: the context's
    int32_t                n_threads_batch = 0;

    static draft_options read(options o);

    // Why the model cannot have its tokens drafted like this, or "".
    std::string unsupported(const model & m, const llama_context_params & p) const;

    // Makes room in a context of the model for drafts to be taken back: for shorter ones where that is all it can hold.
    void make_room(const model & m, llama_context_params & p) const;

    // The draft model's context beside one of these parameters.
    llama_context_params params(const llama_context_params & p) const;
};

// Belongs to the scheduler's thread.
class drafter {
public:
    // ctx: of the model that drafts are for. own: the draft model's, null where there is none. Throws a job_error.
    drafter(const draft_options & o, llama_context * ctx, llama_context_ptr own);

    // A sequence that has a last token to come, and how many tokens are wanted after that: 0 where it has more to come.
    struct wish {
        cache_sequence * s;
        size_t           n_max;
    };

    // Sets the drafts of sequences, in the order of their ids. The draft model reads what it lacks of them before, a ubatch of tokens at once: a sequence
    // that it has not read to its end has no draft.
    void draft(const std::vector<wish> & wishes);

    // Null where there is no draft model.
    llama_context * ctx() const { return own.get(); }

private:
    const draft_options         o;
    const llama_context_ptr     own;
    const int32_t               n_vocab; // tokens that both models know
    std::vector<cache_sequence> held;    // what the draft model's cache holds of each sequence
    common_speculative_ptr      spec;

    void take_up(const cache_sequence & s);
    bool follow(const std::vector<wish> & wishes);
    void guess(const std::vector<wish> & wishes);
};

} // namespace duo::abi
