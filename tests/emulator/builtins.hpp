// CUDA's built-in functions, as far as kernels use them.
#pragma once
#include "block.hpp"
#include "counters.hpp"

// ---- barriers of the block

static inline void __syncthreads(emulator::Site site = emulator::Site::here()) {
    emulator::block->barrier(0, 0, true, "__syncthreads", site);
}
namespace emulator {
inline int reduce_at_barrier(const char* operation, int predicate, Site site) {
    self->predicate = predicate;
    block->barrier(0, 0, true, operation, site);
    return self->reduced;
}
}  // namespace emulator
static inline int __syncthreads_or(int predicate, emulator::Site site = emulator::Site::here()) {
    return emulator::reduce_at_barrier("__syncthreads_or", predicate, site);
}
static inline int __syncthreads_and(int predicate, emulator::Site site = emulator::Site::here()) {
    return emulator::reduce_at_barrier("__syncthreads_and", predicate, site);
}
static inline int __syncthreads_count(int predicate, emulator::Site site = emulator::Site::here()) {
    return emulator::reduce_at_barrier("__syncthreads_count", predicate, site);
}
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_block() {}

namespace ptx {
static inline void bar_sync(int id, int threads, emulator::Site site = emulator::Site::here()) {
    emulator::block->barrier(id, threads, true, "bar_sync", site);
}
static inline void bar_arrive(int id, int threads, emulator::Site site = emulator::Site::here()) {
    emulator::block->barrier(id, threads, false, "bar_arrive", site);
}
}  // namespace ptx

// ---- memory

template <class T>
static inline T __ldg(const T* p) {
    return *p;
}
template <class T>
static inline T __ldcs(const T* p) {
    return *p;
}
template <class T>
static inline void __stcs(T* p, T value) {
    *p = value;
}

// Atomics, for integers: no kernel may depend on the order in which floating-point numbers are added.
template <class T>
static inline T atomicAdd(T* p, T value) {
    static_assert(!__is_same(T, float) && !__is_same(T, double), "floating-point atomics give other bits every run");
    return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
}
template <class T>
static inline T atomicOr(T* p, T value) {
    return __atomic_fetch_or(p, value, __ATOMIC_RELAXED);
}
template <class T>
static inline T atomicExch(T* p, T value) {
    return __atomic_exchange_n(p, value, __ATOMIC_RELAXED);
}
template <class T>
static inline T atomicCAS(T* p, T expected, T value) {
    __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
template <class T>
static inline T atomicMax(T* p, T value) {
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (old < value && !__atomic_compare_exchange_n(p, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}
template <class T>
static inline T atomicMin(T* p, T value) {
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (value < old && !__atomic_compare_exchange_n(p, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

// ---- arithmetic. glibc declares some of these names itself: hence macros.

// The unit for special functions computes it, or the most costly part of it.
#define EMULATOR_SPECIAL(value) (emulator::counters::special(), value)
#define __expf(x) EMULATOR_SPECIAL(expf(x))
#define __exp10f(x) EMULATOR_SPECIAL(exp10f(x))
#define __logf(x) EMULATOR_SPECIAL(logf(x))
#define __log2f(x) EMULATOR_SPECIAL(log2f(x))
#define __sinf(x) EMULATOR_SPECIAL(sinf(x))
#define __cosf(x) EMULATOR_SPECIAL(cosf(x))
static inline float rsqrtf(float x) { return EMULATOR_SPECIAL(1.f / sqrtf(x)); }
static inline float __frsqrt_rn(float x) { return float(1 / sqrt(double(x))); }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frcp_rn(float x) { return 1.f / x; }
static inline float __fdividef(float x, float y) { return EMULATOR_SPECIAL(x / y); }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
// Never contracted with a neighbour into one rounding, which the barrier of an empty asm keeps the compiler from.
static inline float __fmul_rn(float x, float y) {
    float z = x * y;
    asm("" : "+x"(z));
    return z;
}
static inline float __fadd_rn(float x, float y) {
    float z = x + y;
    asm("" : "+x"(z));
    return z;
}
static inline float __fsub_rn(float x, float y) { return __fadd_rn(x, -y); }
static inline float __saturatef(float x) { return fminf(fmaxf(x, 0.f), 1.f); }
static inline int __float2int_rn(float x) { return int(nearbyintf(x)); }
static inline int __float2int_rd(float x) { return int(floorf(x)); }

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; i++) y |= (x >> i & 1) << (31 - i);
    return y;
}
static inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned((unsigned long long)x * y >> 32); }
static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return (unsigned long long)((unsigned __int128)x * y >> 64);
}

#define EMULATOR_MIN_MAX(type)                                       \
    static inline type min(type x, type y) { return y < x ? y : x; } \
    static inline type max(type x, type y) { return x < y ? y : x; }
EMULATOR_MIN_MAX(int)
EMULATOR_MIN_MAX(unsigned)
EMULATOR_MIN_MAX(long)
EMULATOR_MIN_MAX(unsigned long)
EMULATOR_MIN_MAX(long long)
EMULATOR_MIN_MAX(unsigned long long)
#undef EMULATOR_MIN_MAX
static inline unsigned min(unsigned x, int y) { return min(x, unsigned(y)); }
static inline unsigned min(int x, unsigned y) { return min(unsigned(x), y); }
static inline unsigned max(unsigned x, int y) { return max(x, unsigned(y)); }
static inline unsigned max(int x, unsigned y) { return max(unsigned(x), y); }
static inline float min(float x, float y) { return fminf(x, y); }
static inline float max(float x, float y) { return fmaxf(x, y); }

namespace ptx {
// The device's is within two units in the last place of this, and flushes subnormal numbers as this does.
static inline float ex2(float x) {
    float y = EMULATOR_SPECIAL(exp2f(fabsf(x) < 0x1p-126f ? 0.f : x));
    return y < 0x1p-126f ? 0.f : y;
}
static inline float rcp(float x) {
    float y = EMULATOR_SPECIAL(1.f / (fabsf(x) < 0x1p-126f ? copysignf(0.f, x) : x));
    return fabsf(y) < 0x1p-126f ? copysignf(0.f, y) : y;
}
static inline uint32_t cvt_bf16x2(float low, float high) { return bf16(low).bits | uint32_t(bf16(high).bits) << 16; }
}  // namespace ptx
