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

// N bf16 (8, 4 or 2) as one access of 2 N bytes.
template <int N>
struct alignas(2 * N) Pack {
    uint32_t word[N / 2];

    // Value `i`, a compile-time constant where it matters.
    __device__ __forceinline__ float get(int i) const {
        uint32_t bits = i & 1 ? word[i >> 1] & 0xffff0000u : word[i >> 1] << 16;
        return __uint_as_float(bits);
    }
};
template <int N>
DEVICE Pack<N> pack_values(const float (&v)[N]) {
    Pack<N> pack;
#pragma unroll
    for (int i = 0; i < N / 2; i++) pack.word[i] = ptx::cvt_bf16x2(v[2 * i], v[2 * i + 1]);
    return pack;
}

using Pack8 = Pack<8>;
DEVICE Pack8 load8(const bf16* from) { return *reinterpret_cast<const Pack8*>(from); }
DEVICE void store8(bf16* to, const Pack8& pack) { *reinterpret_cast<Pack8*>(to) = pack; }

// Four f32 as one 16-byte access.
struct alignas(16) Quad {
    float value[4];
};

DEVICE Quad load4(const float* from) { return *reinterpret_cast<const Quad*>(from); }
DEVICE void store4(float* to, const Quad& quad) { *reinterpret_cast<Quad*>(to) = quad; }

// N consecutive bf16 as f32 in one access. Loops over rows take N = 8 where width is a multiple of 8, so that rows start on 16
// bytes, and else N = 1. Where f32 go with them it is 4 in place of 8: 16 bytes of f32, so that a warp's are consecutive.
template <int N>
DEVICE void load_values(const bf16* from, float (&to)[N]) {
    if constexpr (N == 1) {
        to[0] = float(*from);
    } else {
        Pack<N> pack = *reinterpret_cast<const Pack<N>*>(from);
#pragma unroll
        for (int i = 0; i < N; i++) to[i] = pack.get(i);
    }
}
template <int N>
DEVICE void store_values(bf16* to, const float (&from)[N]) {
    if constexpr (N == 1)
        *to = bf16(from[0]);
    else
        *reinterpret_cast<Pack<N>*>(to) = pack_values(from);
}
// 4 consecutive f32, or 1.
template <int N>
DEVICE void load_values(const float* from, float (&to)[N]) {
    static_assert(N == 4 || N == 1, "a 16-byte access or a single one");
    if constexpr (N == 1) {
        to[0] = *from;
    } else {
        Quad quad = load4(from);
#pragma unroll
        for (int i = 0; i < N; i++) to[i] = quad.value[i];
    }
}
template <int N>
DEVICE void store_values(float* to, const float (&from)[N]) {
    static_assert(N == 4 || N == 1, "a 16-byte access or a single one");
    if constexpr (N == 1)
        *to = from[0];
    else
        store4(to, {from[0], from[1], from[2], from[3]});
}

// N consecutive bf16 as they lie in memory, for loops that have several loads under way: f32 would take twice the registers.
template <int N>
struct Packed : Pack<N> {};
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

// Of two groups of eight columns that a product left in registers, two values of each a lane, four neighbours: an even lane's of
// the `left` group, an odd one's of the `right`, at column_of_four() from the first. So four lanes write 32 bytes of a row.
DEVICE void gather_four(float (&four)[4], const float (&left)[2], const float (&right)[2]) {
    bool odd = lane_id() & 1;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float other = __shfl_xor_sync(ALL_LANES, odd ? left[i] : right[i], 1);
        four[i] = odd ? other : left[i];
        four[i + 2] = odd ? right[i] : other;
    }
}
DEVICE int column_of_four() { return 8 * (lane_id() & 1) + 4 * (lane_id() >> 1 & 1); }
