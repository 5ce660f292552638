// A transformer whose weights were written by hand, so that one knows which head retrieves.
#pragma once

#include "random-model.h"

#include <cstdint>
#include <string>

// Two layers of four heads over 64 tokens. Layer 0, head 0 hands every token the one before it; layer 1, head `retrieval` looks for an earlier token that came after
// the one at hand, wherever it is, and foretells what it finds: an induction head. The other heads attend to what is near, and add noise.
struct induction_model {
    static constexpr int64_t n_layer = 2, n_head = 4, n_vocab = 64, n_ctx = 4096;
    static constexpr int32_t layer = 1; // of the retrieval head

    int32_t  retrieval = 2; // which head of that layer
    uint64_t seed      = 1; // of the noise
    float    key_bias  = 0; // keys of layer 0, head 0 have this in each number that no query looks at, with a sign of its own: no score changes, and rounding suffers
};

llama_model_ptr_t make_induction_model(const induction_model & params);

// As a GGUF file.
void write_induction_model(const induction_model & params, const std::string & path);
