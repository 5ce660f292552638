// A context, its KV cache and the thread that works with it.
#pragma once

#include "engine-thread.h"
#include "model.h"
#include "options.h"

#include "llama-cpp.h"

#include <memory>
#include <string>
#include <vector>

namespace duo::abi {

struct context_options {
    // How large a context is where the caller names no number.
    enum class size_rule { given, automatic, fit };

    llama_context_params params;
    size_rule            size = size_rule::given;

    // params.duo.gates points here once params are taken with use()
    std::optional<std::string> gates;

    static context_options read(options o);

    // The parameters for a model, valid as long as this object stays where it is. Throws where the model does not say how large a context is to be,
    // and a job_error "memory" where none fits. May read the model's file again, without its weights.
    llama_context_params use(const model & m) const;
};

// Everything but `thread` belongs to that thread.
class context {
    heap_trim trimmed; // after ptr, which is destroyed first

public:
    context(std::shared_ptr<model> m, llama_context_ptr ptr, std::shared_ptr<engine_thread> thread)
        : mdl(std::move(m)), thread(std::move(thread)), ptr(std::move(ptr)) {}

    const std::shared_ptr<model>         mdl;  // outlives ptr
    const std::shared_ptr<engine_thread> thread;
    const llama_context_ptr              ptr;

    // Tokens whose rows sequence 0 holds, from position 0 on.
    const std::vector<llama_token> & cached() const { return tokens; }

    // Makes cached() a beginning of the prompt, the longest that the cache can go on from exactly, and shorter than the prompt.
    void keep_prefix(const std::vector<llama_token> & prompt);

    void clear();

    // Appends tokens, at most a ubatch, and computes the logits of the last n_logits. False: the cache has no room. On an error, which
    // it throws, and on a cancelled job, for which it throws job_cancelled, cached() is as before or, where that cannot be had, empty.
    bool append(job & j, const llama_token * begin, size_t n, size_t n_logits);

private:
    std::vector<llama_token> tokens;

    void roll_back(size_t n);
};

// Ends the context's jobs and runs llama_duo_context_free as the job, on the context's own thread.
void free_context(std::shared_ptr<context> c, std::shared_ptr<job> j);

// Runs llama_duo_context_create as the job, on a new thread that the context keeps.
void submit_context(std::shared_ptr<job> j, std::shared_ptr<model> m, context_options o);

// The work of llama_duo_context_plan.
void plan_context(job & j, const model & m, const context_options & o);

// The work of llama_duo_context_estimate.
void estimate_context(job & j, const model & m, const context_options & o);

} // namespace duo::abi
