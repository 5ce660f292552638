#include "context-sizes.h"

#include "llama-cparams.h"
#include "llama-impl.h"

#include <stdexcept>

void check_context_sizes(const llama_cparams & cparams) {
    if (cparams.n_seq_max > cparams.n_outputs_max) {
        throw std::runtime_error(format("the batch size (%u) is less than the number of sequences (%u); expected room for one token of each: "
                "a larger batch (-b) and context (-c), or fewer sequences (-np)", cparams.n_outputs_max, cparams.n_seq_max));
    }
    if (cparams.n_rs_seq > 0 && cparams.n_ubatch < cparams.n_rs_seq + 2) {
        throw std::runtime_error(format("drafts of %u tokens (--spec-draft-n-max) are to be taken back from recurrent states, which are kept of the last tokens of a ubatch; "
                "the ubatch (-ub) is %u; expected at least %u: a larger one, or shorter drafts", cparams.n_rs_seq, cparams.n_ubatch, cparams.n_rs_seq + 2));
    }
}
