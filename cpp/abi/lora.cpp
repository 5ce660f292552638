#include "lora.h"

#include "handle-table.h"
#include "log.h"

#include "fnv1a.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "gguf.h"
#include "llama-adapter.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <map>

namespace duo::abi {

std::shared_mutex & adapters_of_models() {
    static auto * mutex = new std::shared_mutex;
    return *mutex;
}

// llama.cpp asserts that an adapter's metadata have the types that it reads them as.
static void check_adapter(const std::string & path) {
    check_is_gguf(path);
    const gguf_context_ptr file(gguf_init_from_file(path.c_str(), { /*no_alloc =*/ true, nullptr }));
    if (!file) {
        return; // loading says why
    }
    for (const auto & [key, type] : std::map<std::string, gguf_type> {
            { "general.type", GGUF_TYPE_STRING }, { "general.architecture", GGUF_TYPE_STRING }, { "adapter.type", GGUF_TYPE_STRING }, { "adapter.lora.alpha", GGUF_TYPE_FLOAT32 } }) {
        const int64_t id = gguf_find_key(file.get(), key.c_str());
        if (id >= 0 && gguf_get_kv_type(file.get(), id) != type) {
            throw job_error("model", "cannot load the adapter \"" + path + "\": its \"" + key + "\" is of type " + gguf_type_name(gguf_get_kv_type(file.get(), id)) +
                    ", expected " + gguf_type_name(type));
        }
    }
}

static uint64_t hash_of(const llama_adapter_lora & adapter) {
    uint64_t h = duo::fnv1a(&adapter.alpha, sizeof(adapter.alpha));
    std::vector<uint8_t> values;
    const std::map<std::string, llama_adapter_lora_weight> sorted(adapter.ab_map.begin(), adapter.ab_map.end());
    for (const auto & [name, weight] : sorted) {
        h = duo::fnv1a(name.c_str(), name.size() + 1, h);
        for (const ggml_tensor * t : { weight.a, weight.b }) {
            values.resize(ggml_nbytes(t));
            ggml_backend_tensor_get(t, values.data(), 0, values.size());
            h = duo::fnv1a(values.data(), values.size(), duo::fnv1a(t->ne, sizeof(t->ne), h));
        }
    }
    return h;
}

lora::lora(std::shared_ptr<model> m, llama_adapter_lora * ptr) : mdl(std::move(m)), ptr(ptr), hash(hash_of(*ptr)) {}

lora::~lora() {
    std::lock_guard lock(adapters_of_models());
    llama_adapter_lora_free(ptr);
}

std::vector<used_lora> read_loras(options & o) {
    std::vector<used_lora> result;
    const json * given = o.value("loras");
    if (!given) {
        return result;
    }
    const auto fail = [&] { return o.error("loras", "an array of { \"lora\": handle, \"scale\"?: finite number }"); };
    for (const auto & entry : given->is_array() ? *given : json::array({ json() })) {
        const json handle = entry.is_object() ? entry.value("lora", json()) : json();
        const json scale  = entry.is_object() ? entry.value("scale", json(1)) : json();
        if (!handle.is_number_unsigned() || handle > UINT32_MAX || !scale.is_number() || !(std::fabs(scale.get<double>()) <= FLT_MAX) || entry.size() != size_t(1 + entry.contains("scale"))) {
            throw fail();
        }
        auto adapter = handles().get<lora>(handle.get<uint32_t>());
        if (!adapter) {
            throw fail();
        }
        // one that is given twice is added twice
        const auto same = std::find_if(result.begin(), result.end(), [&](const used_lora & l) { return l.adapter == adapter; });
        if (same != result.end()) {
            same->scale += scale.get<float>();
        } else {
            result.push_back({ std::move(adapter), scale.get<float>() });
        }
    }
    return result;
}

void load_lora(job & j, std::shared_ptr<model> m, const std::string & path) {
    require_weights(*m, "adapt");
    check_adapter(path);

    log_capture errors;
    llama_adapter_lora * ptr;
    {
        std::lock_guard lock(adapters_of_models());
        ptr = llama_adapter_lora_init(m->ptr.get(), path.c_str());
    }
    if (!ptr) {
        throw job_error("model", "cannot load the adapter \"" + path + "\": " + errors.reason("llama.cpp gave no reason"));
    }
    const auto free = [](llama_adapter_lora * ptr) {
        std::lock_guard lock(adapters_of_models());
        llama_adapter_lora_free(ptr);
    };
    std::unique_ptr<llama_adapter_lora, decltype(free)> guard(ptr, free);
    json metadata = json::object();
    const std::map<std::string, std::string> sorted(ptr->gguf_kv.begin(), ptr->gguf_kv.end());
    for (const auto & [key, value] : sorted) {
        metadata[key] = value;
    }
    const float  alpha     = ptr->alpha;
    const size_t n_tensors = ptr->ab_map.size();
    const auto   made      = std::make_shared<lora>(m, ptr); // m outlives the guard
    guard.release();
    j.finish([&] { return json { { "lora", handles().add(made, j.owner) }, { "alpha", alpha }, { "tensors", n_tensors }, { "metadata", metadata } }; });
}

} // namespace duo::abi
