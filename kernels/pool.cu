// One token a sample: the class token of an image, the end-of-text token of a text.
#include "common.cuh"

// One row by a warp. Loads of several accesses are under way before the first is stored.
template <int N>
DEVICE void copy_row(const bf16* from, bf16* to, int width) {
    constexpr int AT_ONCE = 4;
    for (int first = lane_id() * N; first < width; first += AT_ONCE * 32 * N) {
        Packed<N> packed[AT_ONCE];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
            if (first + j * 32 * N < width) packed[j] = load_packed<N>(from + first + j * 32 * N);
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
            if (first + j * 32 * N < width) store_packed(to + first + j * 32 * N, packed[j]);
    }
}

template <int N>
DEVICE void zero_row(bf16* to, int width) {
    float zero[N] = {};
    for (int k = lane_id() * N; k < width; k += 32 * N) store_values(to + k, zero);
}

// y[b] = x[b, position[b]], or x[b, 0] where `position` is null. x [samples, tokens, width], position [samples],
// y [samples, width].
//
// A warp a row of y: 256 threads a block, ceil(samples / 8) blocks, no shared memory, no thread waits for another.
// Floor: 4 bytes a value of y.
KERNEL(256, 1, pool, NULLABLE const uint32_t* position, const bf16* x, bf16* y, int samples, int tokens, int width) {
    int sample = blockIdx.x * 8 + warp_id();
    if (sample >= samples) return;
    int token = position ? position[sample] : 0;
    const bf16* from = x + (int64_t(sample) * tokens + token) * width;
    bf16* to = y + int64_t(sample) * width;
    if (width % 8 == 0)
        copy_row<8>(from, to, width);
    else
        copy_row<1>(from, to, width);
}

// dx[b, position[b]] = dy[b], 0 elsewhere: dy [samples, width], dx [samples, tokens, width].
//
// A warp a row of dx: 256 threads a block, ceil(samples tokens / 8) blocks, no shared memory, no thread waits for another.
// Floor: 2 bytes a value of dx, 2 of dy.
KERNEL(256, 1, pool_backward, NULLABLE const uint32_t* position, const bf16* dy, bf16* dx, int samples, int tokens, int width) {
    int row = blockIdx.x * 8 + warp_id();
    if (row >= samples * tokens) return;
    int sample = row / tokens, token = row % tokens;
    bool chosen = token == (position ? int(position[sample]) : 0);
    const bf16* from = dy + int64_t(sample) * width;
    bf16* to = dx + int64_t(row) * width;
    if (width % 8 == 0)
        chosen ? copy_row<8>(from, to, width) : zero_row<8>(to, width);
    else
        chosen ? copy_row<1>(from, to, width) : zero_row<1>(to, width);
}
