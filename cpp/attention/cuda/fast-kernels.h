// What the fast kernels are made for. generic.cuh does the rest.
#pragma once

#include "params.h"

#include <cuda_runtime_api.h>

#include <type_traits>

namespace duo::cuda {

// Stands for every quantised type: such a kernel has code for each of them, and takes the one at hand from its arguments.
constexpr CacheType ANY_QUANTISED = CacheType(-1);

template <CacheType TYPE>
constexpr bool is_quantised = TYPE != CacheType::f32 && TYPE != CacheType::f16 && TYPE != CacheType::bf16;

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
using FastHeadSizes = HeadSizes<64, 80, 96, 128, 192, 256, 512>;

template <CacheType K_, CacheType V_>
struct TypePair {
    static constexpr CacheType K = K_, V = V_;

    template <CacheType TYPE>
    static constexpr bool stands_for(CacheType type) {
        return TYPE == type || (TYPE == ANY_QUANTISED && type != CacheType::f32 && type != CacheType::f16 && type != CacheType::bf16);
    }
    static constexpr bool holds(CacheType k, CacheType v) { return stands_for<K>(k) && stands_for<V>(v); }

    // Quantised blocks are read in pairs.
    static constexpr bool has_head_size(int size) { return FastHeadSizes::contain(size) && ((!is_quantised<K> && !is_quantised<V>) || size % (2 * BLOCK_VALUES) == 0); }
};

template <typename... Pairs>
struct TypePairs {
    // use(TypePair<...>()) for the first that holds the types; false where there is none.
    template <typename Use>
    static bool dispatch(CacheType k, CacheType v, Use use) {
        return ((Pairs::holds(k, v) && (use(Pairs()), true)) || ...);
    }
};

// The one list of types of K and V; each has a file of its own in instances/. Those most used come first and have kernels of their own.
using FastTypePairs = TypePairs<TypePair<CacheType::f16, CacheType::f16>, TypePair<CacheType::bf16, CacheType::bf16>, TypePair<CacheType::q8_0, CacheType::q8_0>,
                                TypePair<CacheType::q4_0, CacheType::q4_0>, TypePair<CacheType::f16, ANY_QUANTISED>, TypePair<ANY_QUANTISED, CacheType::f16>,
                                TypePair<ANY_QUANTISED, ANY_QUANTISED>>;

// What has a batch kernel, for several tokens of a sequence and query columns (tokens by query heads of a KV head) from more than MIN to MAX. For fewer the
// decode kernel does the same; for more the prefill kernel is as fast.
using BatchTypePairs = TypePairs<TypePair<CacheType::f16, CacheType::f16>, TypePair<CacheType::q8_0, CacheType::q8_0>, TypePair<CacheType::q4_0, CacheType::q4_0>>;
using BatchHeadSizes = HeadSizes<128>;
constexpr int MIN_BATCH_COLUMNS = 8, MAX_BATCH_COLUMNS = 32;

// As FastHeadSizes::dispatch, of the sizes that are fast for the types.
template <typename Pair, typename Launch>
static cudaError_t for_head_size(int size, Launch launch) {
    return FastHeadSizes::dispatch(size, [&](auto d) {
        if constexpr (Pair::has_head_size(decltype(d)::value)) {
            return launch(d);
        } else {
            return cudaErrorNotSupported;
        }
    });
}

} // namespace duo::cuda
