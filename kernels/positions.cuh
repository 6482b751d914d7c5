// Gradients of position embeddings: sums over samples of what lies at each position, in two passes of a fixed order.
#pragma once
#include "common.cuh"

// One thread of the first pass: sums N neighbouring values of `count` (positions times width) over one slice of the samples.
// x [samples, count]; slice blockIdx.y is samples `per_slice` blockIdx.y up to the next; partials [gridDim.y, count].
// `each(sample, value)` sees what is summed.
template <int N, typename Each>
DEVICE void sum_slice(const bf16* x, float* partials, int samples, int64_t count, int per_slice, int64_t first, Each each) {
    int from = blockIdx.y * per_slice, to = min(from + per_slice, samples);
    float sum[N] = {};
#pragma unroll 4
    for (int sample = from; sample < to; sample++) {
        float value[N];
        load_values(x + sample * count + first, value);
#pragma unroll
        for (int i = 0; i < N; i++) sum[i] += value[i];
        each(sample, value);
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
