#include "context-sizes.h"

#include "llama-cparams.h"
#include "llama-impl.h"

#include <stdexcept>

void check_context_sizes(const llama_cparams & cparams) {
    if (cparams.n_seq_max > cparams.n_outputs_max) {
        throw std::runtime_error(format("the batch size (%u) is less than the number of sequences (%u); expected room for one token of each: "
                "a larger batch (-b) and context (-c), or fewer sequences (-np)", cparams.n_outputs_max, cparams.n_seq_max));
    }
}
