// LoRA adapters of a model.
#pragma once

#include "model.h"
#include "options.h"

#include "llama-cpp.h"

#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <string>
#include <vector>

namespace duo::abi {

class lora {
public:
    lora(std::shared_ptr<model> m, llama_adapter_lora * ptr);
    ~lora();
    lora(const lora &) = delete;

    const std::shared_ptr<model> mdl;
    llama_adapter_lora * const   ptr;
    const uint64_t               hash; // of its tensors
};

// A model keeps a list of its adapters, which llama.cpp does not guard: held alone where it changes, shared where a context is made, which reads it.
std::shared_mutex & adapters_of_models();

// One that a context uses, and how strongly.
struct used_lora {
    std::shared_ptr<lora> adapter;
    float                 scale;
};

// Reads "loras" of a context's options.
std::vector<used_lora> read_loras(options & o);

// The work of llama_duo_lora_load.
void load_lora(job & j, std::shared_ptr<model> m, const std::string & path);

} // namespace duo::abi
