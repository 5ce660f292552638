// What a launch must know of the GPU, read once.
#pragma once

#include <cuda_runtime_api.h>

#include <stddef.h>

namespace duo::cuda {

struct Device {
    int    n_multiprocessors;
    size_t shared_bytes; // at most, of one block
};

} // namespace duo::cuda
