// What a context takes of each device's memory, found without taking it, and how large one fits.
#pragma once

#include "drafter.h"
#include "job.h"
#include "model.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace duo::abi {

struct device_memory {
    std::string name;
    std::string description;
    bool        gpu;
    uint64_t    total_bytes;
    uint64_t    free_bytes;    // now
    uint64_t    weights_bytes; // of the model
    uint64_t    context_bytes; // KV cache and recurrent states
    uint64_t    compute_bytes; // buffers of the graphs
    uint64_t    needed_bytes;  // of free_bytes, by a context that is to be made

    json describe() const;
};

// The host and every device that there is: { "devices": [...] }, without what a context takes.
json describe_devices();

// Memory as a context has it. Of an estimator's: as it would have it.
std::vector<device_memory> memory_of(const llama_context * ctx, const model & m);

// The same of a context and of the one that drafts for it, of another model or of the same.
std::vector<device_memory> memory_of(const llama_context * ctx, const model & m, const llama_context * draft, const model & draft_model);

// Contexts tried out on a copy of the model without weights, with nothing allocated: what llama.cpp says and takes, whatever kind of cache it is.
class estimator {
public:
    // Reads the models' files again where the models have weights. drafts: null where nothing is drafted. Throws a job_error.
    explicit estimator(const model & m, const draft_options * drafts = nullptr);

    // Whether the context can be tried out: llama.cpp's own cache keeps a record of every cell even where it allocates no rows.
    static bool can_try(const llama_context_params & p);

    struct trial {
        llama_context_ptr ctx;   // null: there can be no such context
        llama_context_ptr draft; // the draft model's, if there is one
    };

    // `reason` says why there can be none.
    trial context(const llama_context_params & p, std::string & reason) const;

    std::vector<device_memory> memory_of(const trial & t) const;

    // The largest context, in tokens, a multiple of 256 of at most p.n_ctx, that leaves this share of every device's free memory free; 0: none does.
    uint32_t largest(llama_context_params p, double spare) const;

private:
    const model &               m;
    const draft_options * const drafts;
    llama_model_ptr             copy;
    std::unique_ptr<estimator>  of_draft;
};

// Whether each device has what is needed, and a share of what is free is left.
bool fits(const std::vector<device_memory> & devices, double spare = 0);

// estimator::largest, which a bound often tells without trying out.
uint32_t largest_context(const model & m, const draft_options * drafts, const llama_context_params & p, double spare);

// Throws a job_error "memory" where the context does not fit what is free. Most contexts are small beside it, which a bound tells without trying out.
void check_fits(const model & m, const draft_options * drafts, const llama_context_params & p);

} // namespace duo::abi
