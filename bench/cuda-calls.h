// How often the CUDA runtime was asked to launch something, counted where the program is linked: the linker sends ggml's calls through this file's
// functions (CMakeLists.txt, --wrap). So it is seen, not inferred, whether a decode step is a replay of a captured graph.
#pragma once

#include <cstdint>

struct cuda_calls {
    int64_t kernels       = 0; // launched one by one, or while a graph is captured
    int64_t captures      = 0;
    int64_t instantiated  = 0;
    int64_t updates       = 0; // of an instantiated graph
    int64_t graphs        = 0; // launched

    cuda_calls operator-(const cuda_calls & o) const {
        return { kernels - o.kernels, captures - o.captures, instantiated - o.instantiated, updates - o.updates, graphs - o.graphs };
    }
};

// So far. All zero in a build without CUDA.
cuda_calls count_cuda_calls();
