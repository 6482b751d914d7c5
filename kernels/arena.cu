// Arithmetic over flat arenas of parameters.
#include "common.cuh"

// ---- element by element
//
// to[i] = f(from[i], to[i]) for `count` elements: 256 threads a block, any number of blocks (each thread strides over the grid),
// no shared memory. 16-byte accesses; elements are accessed singly at the end where they fill none, and throughout where an
// arena does not start on 16 bytes. Floor: 12 bytes and 2 or 3 operations an element.

template <typename F>
DEVICE void sweep(const float* from, float* to, int64_t count, F f) {
    int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
    int64_t quads = starts_on_16_bytes(from) && starts_on_16_bytes(to) ? count / 4 : 0;
    for (int64_t i = thread; i < quads; i += threads) {
        Quad left = load4(from + 4 * i), right = load4(to + 4 * i);
#pragma unroll
        for (int j = 0; j < 4; j++) right.value[j] = f(left.value[j], right.value[j]);
        store4(to + 4 * i, right);
    }
    for (int64_t i = quads * 4 + thread; i < count; i += threads) to[i] = f(from[i], to[i]);
}

// x = keep x + take y.
KERNEL(256, 1, arena_interpolate, const float* y, float* x, float keep, float take, int64_t count) {
    sweep(y, x, count, [=](float y, float x) { return keep * x + take * y; });
}

// squares += gradients^2.
KERNEL(256, 1, arena_squares, const float* gradients, float* squares, int64_t count) {
    sweep(gradients, squares, count, [](float g, float sum) { return sum + g * g; });
}

// fisher += min(scale squares, limit); NaN stays NaN.
KERNEL(256, 1, arena_fisher, const float* squares, float* fisher, float scale, float limit, int64_t count) {
    sweep(squares, fisher, count, [=](float squares, float sum) {
        float mean = scale * squares;
        return sum + (mean > limit ? limit : mean);
    });
}

// ---- the quadratic penalty

// The gradient and the sum of one parameter's penalty without the strength.
DEVICE void pull(float strength, float fisher, float anchor, float master, float& gradient, float& sum) {
    float moved = master - anchor;
    gradient += strength * fisher * moved;
    sum += fisher * moved * moved;
}

// gradients += strength F (theta - theta*), and block b's part of the sum of F (theta - theta*)^2 into partials[b]; F = fisher,
// theta = master, theta* = anchor, `count` elements each.
//
// 256 threads a block, any number of blocks that depends on count alone (so that the sum has one order); accesses as above.
// Static shared memory: a float a warp, in which the warps meet once. Floor: 20 bytes and 6 operations an element.
KERNEL(256, 4, arena_penalty, const float* fisher, const float* anchor, const float* master, float* gradients,
       float* partials, float strength, int64_t count) {
    STATIC_SHARED(float[8], partial);
    int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
    bool aligned = starts_on_16_bytes(fisher) && starts_on_16_bytes(anchor) && starts_on_16_bytes(master) &&
                   starts_on_16_bytes(gradients);
    int64_t quads = aligned ? count / 4 : 0;
    float sum = 0.f;
    for (int64_t i = thread; i < quads; i += threads) {
        Quad f = load4(fisher + 4 * i), a = load4(anchor + 4 * i), m = load4(master + 4 * i), g = load4(gradients + 4 * i);
#pragma unroll
        for (int j = 0; j < 4; j++) pull(strength, f.value[j], a.value[j], m.value[j], g.value[j], sum);
        store4(gradients + 4 * i, g);
    }
    for (int64_t i = quads * 4 + thread; i < count; i += threads) {
        pull(strength, fisher[i], anchor[i], master[i], gradients[i], sum);
    }
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// loss[0] += strength / 2 times the sum of `count` partials. One block of 1024 threads; its warps meet once.
KERNEL(1024, 1, arena_penalty_sum, const float* partials, float* loss, float strength, int count) {
    STATIC_SHARED(float[32], partial);
    float sum = 0.f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += partials[i];
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) *loss += 0.5f * strength * sum;
}
