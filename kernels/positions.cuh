// What ops with positions share: rows plus positions, and the gradients of positions: sums over samples of what lies at each
// position, in two passes of a fixed order.
#pragma once
#include "common.cuh"

// to = a + b, one row by a warp. Loads of several accesses are under way before the first result is stored.
template <int N>
DEVICE void add_rows(const bf16* a, const bf16* b, bf16* to, int width) {
    constexpr int AT_ONCE = 4;
    for (int first = lane_id() * N; first < width; first += AT_ONCE * 32 * N) {
        Packed<N> left[AT_ONCE], right[AT_ONCE];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
            if (first + j * 32 * N < width) {
                left[j] = load_packed<N>(a + first + j * 32 * N);
                right[j] = load_packed<N>(b + first + j * 32 * N);
            }
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
            if (first + j * 32 * N < width) {
                float sum[N];
#pragma unroll
                for (int i = 0; i < N; i++) sum[i] = left[j].get(i) + right[j].get(i);
                store_values(to + first + j * 32 * N, sum);
            }
    }
}

// One thread of the first pass: sums N neighbouring values of `count` (positions times width) over one slice of the samples.
// x [samples, count]; slice blockIdx.y is samples `per_slice` blockIdx.y up to the next; partials [gridDim.y, count].
// `each(sample, packed)` sees what is summed.
template <int N, typename Each>
DEVICE void sum_slice(const bf16* x, float* partials, int samples, int64_t count, int per_slice, int64_t first, Each each) {
    int from = blockIdx.y * per_slice, to = min(from + per_slice, samples);
    constexpr int AT_ONCE = 8;
    float sum[N] = {};
    for (int sample = from; sample < to; sample += AT_ONCE) {
        Packed<N> packed[AT_ONCE];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
            if (sample + j < to) packed[j] = load_packed<N>(x + (sample + j) * count + first);
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
            if (sample + j < to) {
#pragma unroll
                for (int i = 0; i < N; i++) sum[i] += packed[j].get(i);
                each(sample + j, packed[j]);
            }
    }
    store_values(partials + blockIdx.y * count + first, sum);
}

// The second pass: the sum of one value over the slices.
DEVICE float sum_slices(const float* partials, int slices, int64_t count, int64_t index) {
    float sum = 0.f;
#pragma unroll 8
    for (int slice = 0; slice < slices; slice++) sum += partials[slice * count + index];
    return sum;
}
