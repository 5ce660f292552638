#include "duo-placement.h"

#include "llama-impl.h"

#include <cstdlib>
#include <stdexcept>

duo_placer::duo_placer(bool operator_only) {
    const char * value = getenv("LLAMA_DUO_ATTENTION");
    const std::string given = value ? value : "";
    if (given != "" && given != "operator" && given != "primitives") {
        throw std::runtime_error(format("LLAMA_DUO_ATTENTION is \"%s\"; expected operator or primitives", value));
    }
    wish = operator_only || given == "operator" ? own_operator : given == "primitives" ? primitives : best;
}

duo_placement duo_placer::place(ggml_backend_dev_t dev, const ggml_mixed_attn_shape & shape, const std::function<bool(ggml_backend_dev_t)> & has_primitives) {
    const std::string types = format("K is %s, V is %s, %d query and %d KV heads of size %d and %d", ggml_type_name(shape.type_k), ggml_type_name(shape.type_v),
            int(shape.n_head), int(shape.n_head_kv), int(shape.head_size_k), int(shape.head_size_v));
    const bool   has_operator = ggml_mixed_attn_supported(dev, shape);
    const char * slow         = has_operator ? ggml_mixed_attn_slow_reason(dev, shape) : nullptr;

    // CUDA's graphs let ggml's own operators read 16-bit rows before they are stored (bench/notes-cuda.md): there a slow operator is better than a wrong one.
    const auto is_16_bit = [](ggml_type type) { return type == GGML_TYPE_F16 || type == GGML_TYPE_BF16; };
    const bool slow_is_right = is_16_bit(shape.type_k) && is_16_bit(shape.type_v);
    const bool wants_primitives = wish == primitives || (wish == best && (!has_operator || (slow && !slow_is_right)));
    if (wants_primitives && has_primitives(dev)) {
        if (wish == best && first(ggml_backend_dev_name(dev))) {
            LLAMA_LOG_INFO("%s: %s has no %s mixed-head attention for these heads and cache types: it keeps the cache of its layers and attends with llama.cpp's flash attention (%s)\n",
                    __func__, ggml_backend_dev_name(dev), slow ? "fast" : "own", types.c_str());
        }
        return { dev, true };
    }
    if (has_operator) {
        if (slow && first("slow")) {
            LLAMA_LOG_WARN("%s: the attention on %s will be slow: %s (%s)\n", __func__, ggml_backend_dev_name(dev), slow, types.c_str());
        }
        return { dev, false };
    }
    if (first("host")) {
        LLAMA_LOG_WARN("%s: %s has %s for these heads and cache types: the cache of its layers is in host memory and their attention runs on the CPU (%s)\n",
                __func__, ggml_backend_dev_name(dev), wish == own_operator ? "no mixed-head attention" : "neither mixed-head attention nor flash attention", types.c_str());
    }
    return { ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU), false };
}
