// Joining partial results of one query over disjoint keys, each (max m, sum l, unnormalised output o) in base 2:
// m = max m_i, l = sum l_i 2^(m_i - m), o = sum o_i 2^(m_i - m), always added in the order of the parts, so the bits never change.
#pragma once

#include "params.h"
#include "ptx.cuh"

namespace duo::cuda {

// Below any score, yet finite: a part without keys then weighs 0 and never makes a NaN.
constexpr float NO_KEY = -1e30f;

// What a query's output is divided by: the sum of its weights 2^(score - m), and the weight of its head's learned sink.
static __device__ __forceinline__ float denominator(const AttentionParams & p, int head, float m, float sum) {
    return p.sinks ? sum + ptx::exp2(p.sinks[head] * 1.44269504f - m) : sum;
}

// Four values of a query's output, of parts added one after the other, each with its weight 2^(m_i - m).
struct Joined {
    float  sum = 0.0f;
    float4 out = make_float4(0, 0, 0, 0);

    __device__ __forceinline__ void add(float weight, float part_sum, const float4 & part) {
        sum += weight * part_sum;
        out.x += weight * part.x, out.y += weight * part.y, out.z += weight * part.z, out.w += weight * part.w;
    }
    // For another m.
    __device__ __forceinline__ void scale(float by) {
        sum *= by, out.x *= by, out.y *= by, out.z *= by, out.w *= by;
    }
    __device__ __forceinline__ float4 over(float denominator) const {
        const float f = 1.0f / denominator;
        return make_float4(out.x * f, out.y * f, out.z * f, out.w * f);
    }
};

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
