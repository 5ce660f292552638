// Shapes of well-known models, for random weights.
#pragma once

#include "random-model.h"

#include <string>

struct bench_shape : random_model_params {
    std::string note; // in what it is smaller than the model of its name; empty: in nothing
};

// Q8_0 weights of smollm2, llama-1b, llama-3-8b, gemma-3-27b, gemma-4-31b, gpt-oss-20b or qwen3.5-9b, or the last five as NAME-small: with the same attention
// in few layers, and little beside it. Throws std::invalid_argument for any other.
bench_shape shape_of(const std::string & name);

// The same; exits with 2 for any other.
bench_shape shape_or_exit(const std::string & name);

// "a, b or c"
std::string shape_names();

// KV heads of a layer that sees the whole context; 0: of any other layer.
int64_t global_heads(const random_model_params & p, int64_t il);

// Gates of which sparsity 0.25, 0.5 and 0.75 choose every fourth KV head, every second, and three of four, in all layers alike that see the whole context.
std::string periodic_gates(const random_model_params & p);
