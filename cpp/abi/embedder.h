// Embeddings of texts, and how well documents answer a query: contexts that pool what a sequence's tokens become.
#pragma once

#include "model.h"
#include "options.h"

#include "llama-cpp.h"

#include <memory>
#include <mutex>
#include <vector>

namespace duo::abi {

class embedder {
    heap_trim trimmed; // after ptr, which is destroyed first

public:
    embedder(std::shared_ptr<model> m, llama_context_ptr ptr, size_t max_tokens) : mdl(std::move(m)), ptr(std::move(ptr)), max_tokens(max_tokens) {}

    const std::shared_ptr<model> mdl; // outlives ptr
    const llama_context_ptr      ptr;
    const size_t                 max_tokens; // of a text, and of all that are computed at once

    std::mutex mutex; // held by the job that uses ptr

    bool   ranks() const { return llama_pooling_type(ptr.get()) == LLAMA_POOLING_TYPE_RANK; }
    size_t size() const; // numbers of an embedding
};

struct embedder_options {
    llama_context_params params;

    static embedder_options read(options o);
};

// The work of llama_duo_embedder_create, _embedder_free, _embed and _rank.
void create_embedder(job & j, std::shared_ptr<model> m, const embedder_options & o);
void free_embedder(std::shared_ptr<embedder> e, std::shared_ptr<job> j); // on a thread of its own
void embed(job & j, embedder & e, options o);
void rank (job & j, embedder & e, options o);

} // namespace duo::abi
