#include "duo-row-types.h"

#include <algorithm>

ggml_type duo_row_types::type_k_of(uint32_t il) const {
    return std::binary_search(finer_layers.begin(), finer_layers.end(), int32_t(il)) ? finer_k : type_k;
}

std::string duo_row_types::type_k_name() const {
    std::string layers;
    for (const int32_t il : finer_layers) {
        layers += (layers.empty() ? "" : ", ") + std::to_string(il);
    }
    const std::string name = ggml_type_name(type_k);
    return layers.empty() ? name : name + ", " + ggml_type_name(finer_k) + (finer_layers.size() == 1 ? " in layer " : " in layers ") + layers;
}
