// Every architecture that uses llama.cpp's standard cache through build_attn, alone, with sliding windows or beside recurrent layers, as a small random model:
// what a converted model of it holds.
#pragma once

#include "random-model.h"

#include <string>
#include <vector>

struct architecture {
    std::string name;     // llama.cpp's
    std::string tensors;  // of the model, in random_model_params' words
    std::string block;    // of each layer
    std::string metadata; // what the architecture needs beside the sizes
    void (*sizes)(random_model_params &) = nullptr; // what it needs other sizes for

    bool gelu      = false; // llama.cpp looks GELU up in a table of f16, which turns a last bit into 1e-4
    bool one_layer = true;  // may be made of one layer
    int  n_swa     = 0;     // a window that llama.cpp takes from no file, for these prompts to go beyond it; 0: the file's

    llama_model_ptr_t load(uint64_t seed) const;

    random_model_params params(uint64_t seed) const;
};

const std::vector<architecture> & architectures();

// An architecture that mixed heads refuse for what its models are like, not for its name.
struct refused_architecture {
    std::string name;
    std::string reason;   // a part of it
    std::string metadata;
};

const std::vector<refused_architecture> & refused_architectures();
