// Types of a cache's rows.
#pragma once

#include "ggml.h"

#include <cstdint>
#include <string>
#include <vector>

// K rows of some layers may be of a finer type than the others', where the others' would break the model by those layers.
struct duo_row_types {
    ggml_type            type_k  = GGML_TYPE_F16;
    ggml_type            type_v  = GGML_TYPE_F16;
    ggml_type            finer_k = GGML_TYPE_F16;
    std::vector<int32_t> finer_layers = {}; // rising; none: all K rows are of type_k

    ggml_type type_k_of(uint32_t il) const;

    // In words: "q4_0", or "q4_0, q8_0 in layers 0, 1".
    std::string type_k_name() const;
};
