// What a context of `llama bench` takes of each device, planned without taking it, and as it is.
#pragma once

#include "llama.h"

#include "ggml-backend.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

// Bytes.
struct bench_memory {
    ggml_backend_dev_t dev;
    uint64_t total   = 0;
    uint64_t free    = 0; // at bench_memory_begin()
    uint64_t weights = 0;
    uint64_t cache   = 0; // KV cache and recurrent states
    uint64_t compute = 0; // buffers of the graphs

    uint64_t needed() const { return weights + cache + compute; }
    bool     on_cpu() const { return ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_CPU; }
};

// Remembers what is free, before a model is loaded.
void bench_memory_begin();

// The most of a device that was used, as far as it tells: of the CPU by this process, of another by all of them, and now.
uint64_t bench_memory_peak(ggml_backend_dev_t dev);

// The model's devices and, last, the CPU; what a context takes, or one that is made of a model without weights would.
std::vector<bench_memory> bench_memory_of(const llama_context * ctx);

// Contexts of a model that are tried out: nothing is allocated.
class bench_planner {
public:
    // Where the model cannot be loaded, nothing can be planned.
    bench_planner(const std::string & model, llama_model_params params);

    // Nothing where there can be no such context: making it says why.
    std::optional<std::vector<bench_memory>> plan(const llama_context_params & params) const;

    // The largest context in which llama.cpp's own cache, every head full, fits the memory; a multiple of 256, and 0 where none does.
    uint32_t largest_stock_context(llama_context_params params) const;

    // In hundredths; nothing where the context does not even fit with every head streaming.
    std::optional<double> smallest_sparsity(llama_context_params params) const;

    // The device that has not what is needed; null: they all have.
    static const bench_memory * short_of(const std::vector<bench_memory> & plan);

private:
    bool   fits(const llama_context_params & params) const;
    double most_cells(llama_context_params params) const;

    std::unique_ptr<llama_model, decltype(&llama_model_free)> model;
};
