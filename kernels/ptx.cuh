// The only file with inline PTX: one function wraps one instruction, under its PTX name.
//
// Kernels include no CUDA header. On the device this file brings what they need of one (integer types, bf16, launch
// macros); on the host, `EMULATOR` is defined and tests/emulator/ gives every name below a C++ body instead. The
// conformance kernels in conformance.cu hold the two against each other, one for each function.
//
// A kernel is written with four macros, so that both compilers accept it:
//   KERNEL(threads, blocks, name, parameters...) { ... }   at most `threads` a block, `blocks` resident on a multiprocessor
//   DYNAMIC_SHARED(T, p);        T* p at the block's dynamic shared memory, 1024-byte aligned
//   STATIC_SHARED(T, name);      a static shared object: STATIC_SHARED(float[32], partial)
//   DEVICE                       static, inlined device function
// Of a kernel's parameters, and of the constants, enumerations and structs that it is launched with, the build makes Rust
// (build/declarations.rs says what it reads): NULLABLE before a pointer that may be null, Flag for 0 or 1.
#pragma once

#ifdef EMULATOR
#include "cuda.hpp"
#else

typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef int int32_t;
typedef long long int64_t;
static_assert(sizeof(uint64_t) == 8 && sizeof(uint32_t) == 4, "integer widths");

using Flag = int;
#define NULLABLE

#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
#define DEVICE static __device__ __forceinline__
#define KERNEL(threads, blocks, name, ...) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)
#define DYNAMIC_SHARED(T, p)                                             \
    extern __shared__ __align__(1024) unsigned char dynamic_shared_[]; \
    T* p = reinterpret_cast<T*>(dynamic_shared_)
#define STATIC_SHARED(T, name)  \
    using name##_type = T;      \
    __shared__ name##_type name

// bf16: the upper half of an f32; conversion rounds to nearest, ties to even.
struct __align__(2) bf16 {
    uint16_t bits;
    bf16() = default;
    __device__ __forceinline__ bf16(float f) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(f)); }
    __device__ __forceinline__ operator float() const { return __uint_as_float(uint32_t(bits) << 16); }
};

// A TMA descriptor (CUtensorMap): 128 opaque bytes that the driver encodes. Pass it `const __grid_constant__`.
struct __align__(128) TensorMap {
    uint64_t opaque[16];
};

namespace ptx {

// The shared-window address that PTX operands want.
DEVICE uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// ---- arithmetic

// 2^x, two units in the last place; a result below 2^-126 is 0.
DEVICE float ex2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x, one unit in the last place; a result below 2^-126 is 0.
DEVICE float rcp(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Two f32 rounded to bf16, `low` in the lower half.
DEVICE uint32_t cvt_bf16x2(float low, float high) {
    uint32_t d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}

// ---- asynchronous copies, 16 bytes a thread: shared and global addresses 16-byte aligned; zeros where `valid` is false.

DEVICE void cp_async16(void* shared, const void* global, bool valid = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `pending` of the thread's groups are under way.
template <int pending>
DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// ---- warp-wide matrices

// Four 8x8 matrices of bf16. Lane l gives the address of row l % 8 of matrix l / 8 and receives, of each matrix, elements
// 2 (l % 4) and 2 (l % 4) + 1 of row l / 4.
DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
// The same, each matrix transposed: lane l receives elements of column l / 4.
DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d[16x8] += a[16x16] b[16x8], bf16 with f32 accumulation. With g = lane / 4, t = lane % 4:
//   a[0] (g, 2t..), a[1] (g + 8, 2t..), a[2] (g, 2t + 8..), a[3] (g + 8, 2t + 8..); b0 (2t.., g), b1 (2t + 8.., g);
//   d[0..1] (g, 2t..), d[2..3] (g + 8, 2t..).
DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- named barriers: `id` 1 to 15 (0 is __syncthreads), `threads` a multiple of 32 that counts arrivals of both kinds.

DEVICE void bar_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
DEVICE void bar_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// ---- Hopper
// The macro of its own features: later architectures have other instructions in their place.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define HOPPER 1

// mbarrier: a phase completes when the arrivals expected and all bytes announced have come; its parity then flips.
DEVICE void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// Makes initialised barriers visible to the copy engine; then a __syncthreads for the other threads.
DEVICE void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void mbarrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and announces `bytes` that asynchronous copies will bring in this phase.
DEVICE void mbarrier_arrive_expect_tx(uint64_t* barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
// Where a kernel writes which barrier never came, for the launch code to say: memory of the host's, whose address it puts here.
extern "C" {
__device__ uint32_t* lost_barrier;
}

// Waits until the phase of this parity has completed: 0 for the first, and so on in turn. One that has not after ten seconds
// never will: then the number `name` + 1 goes to the host, and the kernel ends with an error.
DEVICE void mbarrier_wait(uint64_t* barrier, uint32_t parity, int name = 0) {
    uint32_t completed;
    asm volatile(
        "{\n"
        ".reg .pred done, early;\n"
        ".reg .u64 start, time;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "@done bra completed;\n"
        "mov.u64 start, %%globaltimer;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "@done bra completed;\n"
        "mov.u64 time, %%globaltimer;\n"
        "sub.u64 time, time, start;\n"
        "setp.lt.u64 early, time, 10000000000;\n"
        "@early bra again;\n"
        "completed:\n"
        "selp.u32 %0, 1, 0, done;\n"
        "}"
        : "=r"(completed)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
    if (completed) return;
    if (lost_barrier) {
        *lost_barrier = uint32_t(name) + 1;
        asm volatile("fence.acq_rel.sys;" ::: "memory");
    }
    asm volatile("trap;");
}

// Shared memory written by ordinary stores, before the copy engine or wgmma reads it (followed by a barrier).
DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// One thread: the box of `map` at element (x, y), x along the rows, into shared memory aligned to 1024 bytes; elements
// outside the matrix come as zeros. Completes the box's bytes on `barrier`.
DEVICE void tma_load_2d(void* shared, const TensorMap* map, int x, int y, uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            shared_address(shared)),
        "l"(map), "r"(x), "r"(y), "r"(shared_address(barrier))
        : "memory");
}
DEVICE void prefetch_tensormap(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Moves registers between warpgroups: all warps of a warpgroup execute it.
template <int registers>
DEVICE void setmaxnreg_inc() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers>
DEVICE void setmaxnreg_dec() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

// The shared-memory operand of wgmma in the 128-byte swizzle that TMA writes: an operand is stored as 8-row groups of
// 128-byte rows (1024 bytes), 1024-byte aligned as a tile.
//   K-major (rows are M or N, 64 values of K each): `stride` = bytes between groups of 8 rows; `leading` unused.
//     The next 16 values of K: 32 bytes further, + 2 in the descriptor.
//   MN-major (rows are K, 64 values of M or N each): `stride` = bytes between groups of 8 rows of K; `leading` = bytes
//     between blocks of 64 values of M or N. The next 16 rows of K: 2048 bytes further, + 128 in the descriptor.
DEVICE uint64_t wgmma_descriptor(const void* tile, uint32_t leading, uint32_t stride) {
    return uint64_t((shared_address(tile) & 0x3ffff) >> 4) | uint64_t(leading >> 4) << 16 |
           uint64_t(stride >> 4) << 32 | 1ull << 62;
}
// Before the first wgmma, and after registers of an accumulator were touched.
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most `pending` of the warp's groups are under way. Nothing of the accumulator `d` is read or moved before: the
// instructions that write it name it, but they are done later than they stand.
template <int pending, int N>
DEVICE void wgmma_wait(float (&d)[N]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// d[64xN] += a[64x16] b[16xN] for one warpgroup, bf16 from shared memory, f32 accumulators. Warp w of the warpgroup holds
// rows 16 w to 16 w + 15; with g = lane / 4, t = lane % 4, d[4 j + i] lies at row g + 8 (i / 2), column 8 j + 2 t + i % 2.
template <int A_MN_MAJOR, int B_MN_MAJOR>
DEVICE void wgmma_m64n64k16(float (&d)[32], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, 1, 1, 1, %34, %35;"
        :
          "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b), "n"(A_MN_MAJOR), "n"(B_MN_MAJOR));
}

template <int A_MN_MAJOR, int B_MN_MAJOR>
DEVICE void wgmma_m64n128k16(float (&d)[64], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, 1, 1, 1, %66, %67;"
        :
          "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "l"(a), "l"(b), "n"(A_MN_MAJOR), "n"(B_MN_MAJOR));
}

template <int A_MN_MAJOR, int B_MN_MAJOR>
DEVICE void wgmma_m64n256k16(float (&d)[128], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
        "%128, %129, 1, 1, 1, %130, %131;"
        :
          "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
          "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
          "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),
          "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),
          "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]),
          "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),
          "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]),
          "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),
          "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
        : "l"(a), "l"(b), "n"(A_MN_MAJOR), "n"(B_MN_MAJOR));
}

#endif  // Hopper
}  // namespace ptx
#endif  // device
