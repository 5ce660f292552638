// Small llama models with random weights, written through the gguf API so that they hold what a converted model holds and nothing else.
#pragma once

#include "ggml.h"

#include <cstdint>
#include <memory>
#include <string>

struct llama_model;

struct random_model_params {
    int64_t   n_layer   = 3;
    int64_t   n_head    = 4;
    int64_t   n_head_kv = 2;
    int64_t   head_size = 64;
    int64_t   n_embd    = 0;             // 0: n_head * head_size
    int64_t   n_ff      = 0;             // 0: 2 * n_embd
    int64_t   n_vocab   = 512;
    int64_t   n_ctx     = 4096;
    ggml_type type      = GGML_TYPE_F32; // of the matrices
    uint64_t  seed      = 1;
    std::string arch    = "llama";
};

using llama_model_ptr_t = std::shared_ptr<llama_model>;

// Writes the model to a temporary file, loads it and removes the file. Throws where llama.cpp would not load it.
llama_model_ptr_t make_random_model(const random_model_params & params);
