// What the fast kernels are made for. generic.cuh does the rest.
#pragma once

#include "params.h"

#include <cuda_runtime_api.h>

#include <type_traits>

namespace duo::cuda {

template <CacheType TYPE>
constexpr bool is_quantised = TYPE == CacheType::q8_0 || TYPE == CacheType::q4_0;

template <int... D>
struct HeadSizes {
    static constexpr bool contain(int size) { return ((size == D) || ...); }

    // launch(std::integral_constant<int, D>()) for the D that is `size`; cudaErrorNotSupported where there is none.
    template <typename Launch>
    static cudaError_t dispatch(int size, Launch launch) {
        cudaError_t error = cudaErrorNotSupported;
        ((size == D ? void(error = launch(std::integral_constant<int, D>())) : void()), ...);
        return error;
    }
};

// The one list of head sizes.
using FastHeadSizes = HeadSizes<64, 80, 96, 128, 192, 256>;

// Quantised blocks are read in pairs.
template <CacheType TYPE>
constexpr bool is_fast_head_size(int size) {
    return FastHeadSizes::contain(size) && (!is_quantised<TYPE> || size % (2 * BLOCK_VALUES) == 0);
}

// As FastHeadSizes::dispatch, of the sizes that are fast for the type.
template <CacheType TYPE, typename Launch>
static cudaError_t for_head_size(int size, Launch launch) {
    return FastHeadSizes::dispatch(size, [&](auto d) {
        if constexpr (is_fast_head_size<TYPE>(decltype(d)::value)) {
            return launch(d);
        } else {
            return cudaErrorNotSupported;
        }
    });
}

} // namespace duo::cuda
