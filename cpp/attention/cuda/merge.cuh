// Joining partial results of one query over disjoint keys, each (max m, sum l, unnormalised output o) in base 2:
// m = max m_i, l = sum l_i 2^(m_i - m), o = sum o_i 2^(m_i - m), always added in the order of the parts, so the bits never change.
#pragma once

#include "ptx.cuh"

namespace duo::cuda {

// Below any score, yet finite: a part without keys then weighs 0 and never makes a NaN.
constexpr float NO_KEY = -1e30f;

// Whether this is the last of n blocks to arrive; the counter is zero again afterwards. For one thread, between two barriers of its block:
// the first orders the block's writes before this release, the second this acquire before the block reads what others wrote.
static __device__ __forceinline__ bool last_to_arrive(int32_t * counter, int32_t n) {
    int32_t arrived;
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(arrived) : "l"(counter) : "memory");
    if (arrived == n - 1) {
        *counter = 0;
    }
    return arrived == n - 1;
}

} // namespace duo::cuda
