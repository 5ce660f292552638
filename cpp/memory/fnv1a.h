// The hash FNV-1a with 64 bits: tells what differs by accident apart, not by intent.
#pragma once

#include <cstddef>
#include <cstdint>

namespace duo {

// hash: of the bytes before these.
inline uint64_t fnv1a(const void * data, size_t n, uint64_t hash = 14695981039346656037ull) {
    for (size_t i = 0; i < n; ++i) {
        hash = (hash ^ static_cast<const uint8_t *>(data)[i]) * 1099511628211ull;
    }
    return hash;
}

} // namespace duo
