// Shared memory, numbers, atomics.
#include "selftest.cuh"

SELFTEST(64, selftest_shared_memory) {
    UNUSED;
    DYNAMIC_SHARED(float, dynamic);
    STATIC_SHARED(float[64], first);
    STATIC_SHARED(uint64_t, second);
    int i = threadIdx.x;
    expect(failures, isnan(dynamic[i]) && isnan(first[i]));  // nobody has written it
    expect(failures, ptx::shared_address(dynamic) % 1024 == 0 && ptx::shared_address(&second) % 8 == 0);
    __syncthreads();
    dynamic[i] = i;
    first[i] = 100 + i;
    if (i == 0) second = 7;
    __syncthreads();
    expect(failures, dynamic[63 - i] == 63 - i && first[63 - i] == 163 - i && second == 7);
}

SELFTEST(32, selftest_numbers) {
    UNUSED;
    expect(failures, bf16(1.f).bits == 0x3f80 && bf16(-2.f).bits == 0xc000);
    // Halfway cases go to the even neighbour.
    expect(failures,
           bf16(__uint_as_float(0x3f808000)).bits == 0x3f80 && bf16(__uint_as_float(0x3f818000)).bits == 0x3f82);
    expect(failures, bf16(__uint_as_float(0x3f808001)).bits == 0x3f81 && bf16(3.4e38f).bits == 0x7f80);
    expect(failures, bf16(NAN).bits == 0x7fff && bf16(INFINITY).bits == 0x7f80);
    expect(failures, ptx::cvt_bf16x2(1.f, -2.f) == 0xc0003f80u);
    expect(failures, float(bf16(0.15625f)) == 0.15625f);
    expect(failures,
           ptx::ex2(3.f) == 8.f && ptx::ex2(-INFINITY) == 0.f && ptx::ex2(-127.f) == 0.f && ptx::ex2(0.f) == 1.f);
    expect(failures, __float_as_int(1.f) == 0x3f800000 && __int_as_float(0x40000000) == 2.f);
    expect(failures, min(3, -2) == -2 && max(3u, 5u) == 5u && min(1.f, NAN) == 1.f && max(1LL << 40, 2LL) == 1LL << 40);
    expect(failures, rsqrtf(4.f) == 0.5f && fabsf(__expf(1.f) - 2.7182817f) < 1e-6f && __logf(1.f) == 0.f);
    expect(failures,
           __popc(0xf0f0u) == 8 && __clz(1) == 31 && __clz(0) == 32 && __ffs(8) == 4 && __brev(1u) == 0x80000000u);
    expect(failures, isfinite(1.f) && !isfinite(INFINITY) && isnan(NAN) && !isinf(1.f));
    expect(failures, erff(0.f) == 0.f && fabsf(erff(1.f) - 0.84270079f) < 1e-6f);
}

SELFTEST(256, selftest_atomics) {
    UNUSED;
    STATIC_SHARED(int, sum);
    STATIC_SHARED(unsigned, most);
    if (threadIdx.x == 0) sum = 0, most = 0;
    __syncthreads();
    atomicAdd(&sum, 3);
    atomicMax(&most, threadIdx.x * 2);
    __syncthreads();
    expect(failures, sum == 768 && most == 510);
}

// Every block and thread sees its place.
SELFTEST(64, selftest_indices) {
    UNUSED;
    expect(failures, blockDim.x == 64 && blockDim.y == 1 && gridDim.x == 5 && gridDim.z == 1);
    expect(failures, threadIdx.x < 64 && threadIdx.y == 0 && blockIdx.x < 5 && warpSize == 32);
    if (blockIdx.x * 64 + threadIdx.x < 320) data[blockIdx.x * 64 + threadIdx.x]++;
    expect(failures, data[blockIdx.x * 64 + threadIdx.x] == blockIdx.x * 64 + threadIdx.x + 1);
}
