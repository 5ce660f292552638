// What `llama bench` runs on where there is no model and nothing to read: --shape and --fill.
#pragma once

#include "llama.h"

#include <string>
#include <vector>

// Models of random weights, in files that are gone when the process ends, but where it crashes or is killed (SIGKILL).
class bench_models {
public:
    // Takes "llama-3-8b" or "llama-3-8b:q4_0", with commas between. Throws std::invalid_argument, which names the value.
    void add(const std::string & list);

    bool empty() const { return shapes.empty(); }

    // Their paths, before they are written.
    std::vector<std::string> paths() const;

    // Throws std::runtime_error where a file cannot be written.
    void write() const;

private:
    struct shape {
        std::string name, type;
    };
    std::vector<shape> shapes;
};

// Why the cache cannot be filled, in words for a user; "": it can be.
std::string bench_cannot_fill(const llama_context * ctx);

// Random rows in all cells, and as many positions marked as held. Nothing is computed.
void bench_fill(llama_context * ctx, int depth);

// Bytes of weights that a token reads: of embeddings its own row, of experts those that are used.
uint64_t bench_weights_read(const llama_model * model);

// Bytes of K and V rows that a token at the depth reads. The types are those of stock's cache.
uint64_t bench_rows_read(const llama_context * ctx, ggml_type type_k, ggml_type type_v, int depth);
