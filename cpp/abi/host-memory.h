// How much of the host's memory this process may still take.
#pragma once

#include <cstdint>

namespace duo::abi {

struct host_memory {
    uint64_t total_bytes;
    uint64_t free_bytes; // that can be taken without swapping, pages of files that can be dropped among them
};

// By the kernel and by the limits of the process's control groups, whichever is less. Elsewhere than on Linux, what ggml says.
host_memory host_memory_now();

} // namespace duo::abi
