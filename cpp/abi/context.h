// A context and its KV cache.
#pragma once

#include "drafter.h"
#include "lora.h"
#include "model.h"
#include "options.h"
#include "scheduler.h"

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

    std::vector<used_lora> loras;

    std::optional<draft_options> drafts;

    // params.duo.gates points here once params are taken with use()
    std::optional<std::string> gates;

    static context_options read(options o);

    const draft_options * drafting() const { return drafts ? &*drafts : nullptr; }

    // The parameters for a model, valid as long as this object stays where it is. Throws where the model does not say how large a context is to be,
    // and a job_error "memory" where none fits. May read the model's file again, without its weights.
    llama_context_params use(const model & m) const;
};

// What is not const belongs to the scheduler's thread.
class context {
    heap_trim trimmed; // after ptr, which is destroyed first

public:
    context(std::shared_ptr<model> m, llama_context_ptr ptr, std::unique_ptr<drafter> d, const context_options & o, std::shared_ptr<scheduler> s,
            ggml_type type_k, ggml_type type_v)
        : mdl(std::move(m)), loras(o.loras), sched(std::move(s)), ptr(std::move(ptr)), drafts(std::move(d)), type_k(type_k), type_v(type_v) {}

    const std::shared_ptr<model>     mdl;   // outlives ptr
    const std::vector<used_lora>     loras; // so do these
    const std::shared_ptr<scheduler> sched;
    const llama_context_ptr          ptr;
    const std::unique_ptr<drafter>   drafts; // null: none. ptr outlives it
    const ggml_type                  type_k; // of the cache as it is
    const ggml_type                  type_v;

    // Tokens that a sequence holds, at most.
    size_t n_ctx_seq() const { return llama_n_ctx_seq(ptr.get()); }
};

// An option that names a type of cache rows.
ggml_type cache_type(options & o, const char * key, ggml_type otherwise);

// Ends the context's jobs and runs llama_duo_context_free as the job, on the context's own thread.
void free_context(std::shared_ptr<context> c, std::shared_ptr<job> j);

// Runs llama_duo_context_create as the job, on a new thread that the context keeps.
void submit_context(std::shared_ptr<job> j, std::shared_ptr<model> m, context_options o);

// The work of llama_duo_context_plan.
void plan_context(job & j, const model & m, const context_options & o);

// The work of llama_duo_context_estimate.
void estimate_context(job & j, const model & m, const context_options & o);

} // namespace duo::abi
