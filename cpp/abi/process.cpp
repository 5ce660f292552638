#include "process.h"

#include "engine-thread.h"

#include "ggml-backend.h"
#include "llama.h"

#if defined(__GLIBC__)
#    include <malloc.h>
#endif

#include <cstring>
#include <mutex>

namespace duo::abi {

void start_backends() {
    static std::once_flag once;
    std::call_once(once, [] {
        llama_backend_init();
        arm_exit_handler();
    });
}

heap_trim::~heap_trim() {
#if defined(__GLIBC__)
    if (armed) {
        malloc_trim(0);
    }
#endif
}

// Names of the instruction sets that the CPU backend uses.
static json simd_features() {
    json names = json::array();
    for (size_t i = 0; i < ggml_backend_reg_count(); i++) {
        ggml_backend_reg_t reg = ggml_backend_reg_get(i);
        if (strcmp(ggml_backend_reg_name(reg), "CPU") != 0) {
            continue;
        }
        auto get_features = (ggml_backend_get_features_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_get_features");
        for (auto * f = get_features ? get_features(reg) : nullptr; f && f->name; f++) {
            if (strcmp(f->value, "1") == 0) {
                names.push_back(f->name);
            }
        }
    }
    return names;
}

std::string build_id() {
    return LLAMA_DUO_VERSION " " LLAMA_DUO_LLAMA_PATCHED_TREE;
}

std::string build_info() {
    start_backends();

    json backends = json::array();
    for (size_t i = 0; i < ggml_backend_reg_count(); i++) {
        backends.push_back(ggml_backend_reg_name(ggml_backend_reg_get(i)));
    }

#if defined(__clang__)
    const char * compiler = __VERSION__;
#elif defined(__GNUC__)
    const char * compiler = "GCC " __VERSION__;
#else
    const char * compiler = "unknown";
#endif

    return dump({
        { "abi",      LLAMA_DUO_ABI_VERSION },
        { "version",  LLAMA_DUO_VERSION },
        { "llamaCpp", { { "tag", LLAMA_DUO_LLAMA_TAG }, { "tree", LLAMA_DUO_LLAMA_TREE }, { "patchedTree", LLAMA_DUO_LLAMA_PATCHED_TREE } } },
        { "compiler", compiler },
        { "simd",     simd_features() },
        { "backends", backends },
    });
}

} // namespace duo::abi
