// The rectifier, element by element.
#include "common.cuh"

// Both kernels: `count` elements, 256 threads a block, any number of blocks (each thread strides over the grid), no shared
// memory. 16-byte accesses; elements are accessed singly at the end where they fill none, and throughout where a span does
// not start on 16 bytes.

// Not fmaxf, which would lose NaN.
DEVICE float rectified(float x) { return x < 0.f ? 0.f : x; }

// y = max(x, 0). Floor: 4 bytes an element.
KERNEL(256, 1, relu, const bf16* x, bf16* y, int64_t count) {
    int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
    int64_t packs = starts_on_16_bytes(x) && starts_on_16_bytes(y) ? count / 8 : 0;
    for (int64_t i = thread; i < packs; i += threads) {
        float value[8];
        load_values(x + i * 8, value);
#pragma unroll
        for (int j = 0; j < 8; j++) value[j] = rectified(value[j]);
        store_values(y + i * 8, value);
    }
    for (int64_t i = packs * 8 + thread; i < count; i += threads) y[i] = bf16(rectified(x[i]));
}

// dx = dy where y > 0, else 0. Floor: 6 bytes an element.
KERNEL(256, 1, relu_backward, const bf16* dy, const bf16* y, bf16* dx, int64_t count) {
    int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
    bool aligned = starts_on_16_bytes(dy) && starts_on_16_bytes(y) && starts_on_16_bytes(dx);
    int64_t packs = aligned ? count / 8 : 0;
    for (int64_t i = thread; i < packs; i += threads) {
        float gradient[8], value[8];
        load_values(dy + i * 8, gradient);
        load_values(y + i * 8, value);
#pragma unroll
        for (int j = 0; j < 8; j++) gradient[j] = value[j] > 0.f ? gradient[j] : 0.f;
        store_values(dx + i * 8, gradient);
    }
    for (int64_t i = packs * 8 + thread; i < count; i += threads) dx[i] = bf16(y[i] > 0.f ? float(dy[i]) : 0.f);
}
