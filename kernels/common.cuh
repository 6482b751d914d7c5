// What several kernels share: reductions in a fixed order, 16-byte accesses, bf16 packs.
#pragma once
#include "ptx.cuh"

constexpr uint32_t ALL_LANES = 0xffffffffu;

DEVICE int lane_id() { return threadIdx.x & 31; }
DEVICE int warp_id() { return threadIdx.x >> 5; }

// Sum over the warp, the same bits in every lane.
DEVICE float warp_sum(float value) {
#pragma unroll
    for (int offset = 16; offset; offset >>= 1) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}

DEVICE float warp_max(float value) {
#pragma unroll
    for (int offset = 16; offset; offset >>= 1) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, offset));
    return value;
}

// Sum over the block, the same bits in every thread. `partial` is shared memory for one float a warp; it may be used again
// after the next __syncthreads.
DEVICE float block_sum(float value, float* partial) {
    value = warp_sum(value);
    if (lane_id() == 0) partial[warp_id()] = value;
    __syncthreads();
    int warps = blockDim.x >> 5;
    return warp_sum(lane_id() < warps ? partial[lane_id()] : 0.f);
}

// The largest value of the block, NaNs passed over; `partial` as in block_sum.
DEVICE float block_max(float value, float* partial) {
    value = warp_max(value);
    if (lane_id() == 0) partial[warp_id()] = value;
    __syncthreads();
    return warp_max(lane_id() < int(blockDim.x >> 5) ? partial[lane_id()] : -INFINITY);
}

DEVICE bool starts_on_16_bytes(const void* address) { return reinterpret_cast<uint64_t>(address) % 16 == 0; }

// Eight bf16 as one 16-byte access.
struct alignas(16) Pack8 {
    uint32_t word[4];

    // Value `i`, a compile-time constant where it matters.
    __device__ __forceinline__ float get(int i) const {
        uint32_t bits = i & 1 ? word[i >> 1] & 0xffff0000u : word[i >> 1] << 16;
        return __uint_as_float(bits);
    }
};

DEVICE Pack8 load8(const bf16* from) { return *reinterpret_cast<const Pack8*>(from); }
DEVICE void store8(bf16* to, const Pack8& pack) { *reinterpret_cast<Pack8*>(to) = pack; }
DEVICE Pack8 pack8(const float (&v)[8]) {
    Pack8 pack;
#pragma unroll
    for (int i = 0; i < 4; i++) pack.word[i] = ptx::cvt_bf16x2(v[2 * i], v[2 * i + 1]);
    return pack;
}

// Four f32 as one 16-byte access.
struct alignas(16) Quad {
    float value[4];
};

DEVICE Quad load4(const float* from) { return *reinterpret_cast<const Quad*>(from); }
DEVICE void store4(float* to, const Quad& quad) { *reinterpret_cast<Quad*>(to) = quad; }

// N consecutive bf16 as f32: 8 in one 16-byte access, or 1. Loops over rows take N = 8 where width is a multiple of 8, so that
// rows start on 16 bytes, and else N = 1.
template <int N>
DEVICE void load_values(const bf16* from, float (&to)[N]) {
    static_assert(N == 8 || N == 1, "a 16-byte access or a single one");
    if constexpr (N == 8) {
        Pack8 pack = load8(from);
#pragma unroll
        for (int i = 0; i < 8; i++) to[i] = pack.get(i);
    } else {
        to[0] = float(*from);
    }
}
template <int N>
DEVICE void store_values(bf16* to, const float (&from)[N]) {
    static_assert(N == 8 || N == 1, "a 16-byte access or a single one");
    if constexpr (N == 8)
        store8(to, pack8(from));
    else
        *to = bf16(from[0]);
}
// N consecutive f32 in 16-byte accesses, or 1.
template <int N>
DEVICE void store_values(float* to, const float (&from)[N]) {
    static_assert(N == 8 || N == 1, "16-byte accesses or a single one");
    if constexpr (N == 8) {
        store4(to, {from[0], from[1], from[2], from[3]});
        store4(to + 4, {from[4], from[5], from[6], from[7]});
    } else {
        *to = from[0];
    }
}

// N consecutive bf16 as they lie in memory, for loops that have several loads under way: f32 would take twice the registers.
template <int N>
struct Packed;
template <>
struct Packed<8> : Pack8 {};
template <>
struct Packed<1> {
    bf16 value;
    __device__ __forceinline__ float get(int) const { return float(value); }
};
template <int N>
DEVICE Packed<N> load_packed(const bf16* from) {
    return *reinterpret_cast<const Packed<N>*>(from);
}
template <int N>
DEVICE void store_packed(bf16* to, const Packed<N>& packed) {
    *reinterpret_cast<Packed<N>*>(to) = packed;
}
