// The CPU backend of a packaged library: the best of the variants linked into it (cpu-variants.cmake) that this processor runs.
#include "ggml-backend.h"
#include "ggml-cpu.h"

#if defined(__x86_64__)
#    include <cpuid.h>
#endif

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>

namespace {

struct cpu_variant {
    const char * name;
    uint64_t     registers; // bits of saved_registers, all of which must be set
    int (*score)();         // 0 where the processor lacks something
    decltype(&ggml_backend_cpu_init)          init;
    decltype(&ggml_backend_cpu_reg)           reg;
    decltype(&ggml_backend_cpu_set_n_threads) set_n_threads;
    decltype(&ggml_backend_is_cpu)            is_cpu;
};

} // namespace

#define VARIANT(name, registers)                                                       \
    extern "C" {                                                            \
    int                ggml_backend_score_##name(void);                     \
    ggml_backend_t     ggml_backend_cpu_init_##name(void);                  \
    ggml_backend_reg_t ggml_backend_cpu_reg_##name(void);                   \
    void               ggml_backend_cpu_set_n_threads_##name(ggml_backend_t, int); \
    bool               ggml_backend_is_cpu_##name(ggml_backend_t);          \
    }
#include "cpu-variants.def"
#undef VARIANT

namespace {

// What a variant's registers are in saved_registers: none beyond those that are always saved (SSE, NEON), those of AVX, of AVX-512 and of AMX.
enum : uint64_t { SSE = 0, NEON = 0, AVX = 0x6, AVX512 = 0xe6, AMX = 0x600e6 };

// Best first.
const cpu_variant variants[] = {
#define VARIANT(name, registers)                                                                                         \
    { #name, registers, ggml_backend_score_##name, ggml_backend_cpu_init_##name, ggml_backend_cpu_reg_##name,            \
      ggml_backend_cpu_set_n_threads_##name, ggml_backend_is_cpu_##name },
#include "cpu-variants.def"
#undef VARIANT
};

// What the operating system saves of the registers when threads change: on x86-64 XCR0, which llama.cpp's score does not ask for.
uint64_t saved_registers() {
#if defined(__x86_64__)
    unsigned eax, ebx, ecx, edx;
    const unsigned osxsave = 1u << 27;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & osxsave)) {
        return 0;
    }
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t(high) << 32) | low;
#else
    return 0;
#endif
}

bool runs_here(const cpu_variant & v) {
    return (saved_registers() & v.registers) == v.registers && v.score() > 0;
}

const cpu_variant & best() {
    for (const cpu_variant & v : variants) {
        if (runs_here(v)) {
            return v;
        }
    }
    return *std::prev(std::end(variants)); // all else in the library needs as much
}

// The one that LLAMA_DUO_CPU names, for tests and for whoever suspects another, else the best.
const cpu_variant & choose() {
    const char * named = getenv("LLAMA_DUO_CPU");
    if (!named || !*named) {
        return best();
    }
    std::string possible;
    for (const cpu_variant & v : variants) {
        if (!runs_here(v)) {
            continue;
        }
        if (strcmp(named, v.name) == 0) {
            return v;
        }
        possible += std::string(" ") + v.name;
    }
    fprintf(stderr, "llama-duo: LLAMA_DUO_CPU is '%s', which is none of those that run here:%s. %s is taken.\n", named, possible.c_str(), best().name);
    return best();
}

const cpu_variant & chosen() {
    static const cpu_variant & v = choose();
    return v;
}

} // namespace

ggml_backend_t ggml_backend_cpu_init(void) {
    return chosen().init();
}

ggml_backend_reg_t ggml_backend_cpu_reg(void) {
    return chosen().reg();
}

void ggml_backend_cpu_set_n_threads(ggml_backend_t backend, int n_threads) {
    chosen().set_n_threads(backend, n_threads);
}

bool ggml_backend_is_cpu(ggml_backend_t backend) {
    return chosen().is_cpu(backend);
}
