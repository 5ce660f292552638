// The PTX instructions that the kernels use, one thin wrapper each. Names follow the PTX manual.
#pragma once

#include <cuda_fp16.h>
#include <stdint.h>

namespace duo::cuda::ptx {

// For instructions of sm_80, so that the files compile for older architectures too. The kernels are never launched there.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#    define DUO_FROM_SM_80(...) __VA_ARGS__
#else
#    define DUO_FROM_SM_80(...) __trap()
#endif

static __device__ __forceinline__ uint32_t shared_address(const void * p) {
    return uint32_t(__cvta_generic_to_shared(p));
}

static __device__ __forceinline__ void store_shared(uint32_t address, const uint4 & x) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" :: "r"(address), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane 8i + r gives the address of row r of matrix i. Lane l receives elements 2(l % 4), 2(l % 4) + 1
// of row l / 4 of each matrix.
static __device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

// Transposes one 8x8 matrix of 16-bit elements held in the fragment layout above.
static __device__ __forceinline__ uint32_t movmatrix_trans(uint32_t a) {
    uint32_t d;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(a));
    return d;
}

// c[16][8] += a[16][16] b[16][8]. With g = lane / 4 and t = lane % 4: a0 (g, 2t), a1 (g + 8, 2t), a2 (g, 2t + 8), a3 (g + 8, 2t + 8), each with
// its right neighbour; b0 (2t, g), b1 (2t + 8, g), each with the one below; c0, c1 (g, 2t), c2, c3 (g + 8, 2t).
static __device__ __forceinline__ void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    DUO_FROM_SM_80(asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)));
}

static __device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    DUO_FROM_SM_80(asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)));
}

// 16 bytes from global to shared memory, past the L1 cache.
static __device__ __forceinline__ void cp_async_16(uint32_t shared, const void * global) {
    DUO_FROM_SM_80(asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" :: "r"(shared), "l"(global) : "memory"));
}

// The same, or 16 zeros.
static __device__ __forceinline__ void cp_async_16_or_zero(uint32_t shared, const void * global, bool copy) {
    DUO_FROM_SM_80(asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" :: "r"(shared), "l"(global), "r"(copy ? 16 : 0) : "memory"));
}

static __device__ __forceinline__ void cp_async_commit() {
    DUO_FROM_SM_80(asm volatile("cp.async.commit_group;" ::: "memory"));
}

template <int N_PENDING>
static __device__ __forceinline__ void cp_async_wait() {
    DUO_FROM_SM_80(asm volatile("cp.async.wait_group %0;" :: "n"(N_PENDING) : "memory"));
}

// Waits for all threads of some warps: of barrier `id`, 1 to 15.
template <int N_THREADS>
static __device__ __forceinline__ void barrier(int id) {
    asm volatile("bar.sync %0, %1;" :: "r"(id), "n"(N_THREADS) : "memory");
}

// Counts the threads of this warp as arrived there, without waiting.
template <int N_THREADS>
static __device__ __forceinline__ void barrier_arrive(int id) {
    asm volatile("bar.arrive %0, %1;" :: "r"(id), "n"(N_THREADS) : "memory");
}

// For kernels of launch_early: returns when the kernel before this one has ended and its writes can be read. Until then only what is older may be read,
// and nothing written. Whole blocks may leave without it, but not all of them. Kernels that are launched in the ordinary way call it, too, before anything else: where
// a CUDA graph is updated in place, the edge to a node may still be that of a kernel of launch_early that was there before. Without such an edge it does nothing.
static __device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// After the wait, so that what the next kernel may read early is there: it starts when all blocks have said so, or ended.
static __device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// As barrier; whether x holds for any of the threads.
template <int N_THREADS>
static __device__ __forceinline__ bool barrier_any(int id, bool x) {
    int32_t any;
    asm volatile("{\n .reg .pred mine, any;\n setp.ne.s32 mine, %1, 0;\n bar.red.or.pred any, %2, %3, mine;\n selp.s32 %0, 1, 0, any;\n}"
                 : "=r"(any) : "r"(int32_t(x)), "r"(id), "n"(N_THREADS) : "memory");
    return any != 0;
}

static __device__ __forceinline__ float exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

static __device__ __forceinline__ float tanh(float x) {
    // 1 - 2 / (e^2x + 1): absolute error below 1e-6, which tanh.approx (2^-11) does not give.
    return 1.0f - __fdividef(2.0f, ptx::exp2(x * 2.885390082f) + 1.0f);
}

// Two halves, x below; what is beyond their range becomes 65504 or -65504.
static __device__ __forceinline__ uint32_t saturated_halves(float x, float y) {
    uint32_t d = 0;
    DUO_FROM_SM_80(asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(y), "f"(x)));
    return d;
}

// (a & mask) ^ bits in one instruction.
static __device__ __forceinline__ uint32_t and_xor(uint32_t a, uint32_t mask, uint32_t bits) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(d) : "r"(a), "r"(mask), "r"(bits));
    return d;
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

static __device__ __forceinline__ void mbarrier_init(uint32_t barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(barrier), "r"(arrivals) : "memory");
}

static __device__ __forceinline__ void mbarrier_arrive_expect_tx(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void mbarrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory");
}

static __device__ __forceinline__ bool mbarrier_test(uint32_t barrier, uint32_t parity) {
    uint32_t done;
    asm volatile("{\n .reg .pred done;\n"
                 "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, done;\n}" : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
    return done != 0;
}

static __device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity) {
    asm volatile("{\n .reg .pred done;\n"
                 "again:\n mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 " @!done bra again;\n}" :: "r"(barrier), "r"(parity) : "memory");
}

// Makes initialised barriers and ordinary writes to shared memory visible to the copy engine.
static __device__ __forceinline__ void fence_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Four 8x8 matrices of 16-bit elements, held as ldmatrix_x4 leaves them, each transposed; lane 8i + r gives the address of row r of what matrix i becomes.
static __device__ __forceinline__ void stmatrix_x4_trans(uint32_t address, const uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" :: "r"(address), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}

// Any multiple of 16 bytes from global to shared memory by the copy engine; the barrier counts the bytes. Needs sm_90.
static __device__ __forceinline__ void bulk_copy(uint32_t shared, const void * global, uint32_t bytes, uint32_t barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(shared), "l"(global), "r"(bytes), "r"(barrier) : "memory");
}

#endif

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Moves registers between the warpgroups of a block: for all warps of one, N a multiple of 8. Those that take wait until others have given.
template <int N>
static __device__ __forceinline__ void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N)); }

template <int N>
static __device__ __forceinline__ void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N)); }

#endif

} // namespace duo::cuda::ptx
