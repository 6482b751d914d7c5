// The optimiser over flat arenas.
#include "common.cuh"

// ---- the gradients' norm

// The sum of squares of block b's part of the gradients, into partials[b]: each thread strides over the grid.
//
// 1024 threads a block, any number of blocks that depends on count alone (so that the sum has one order). `count` values from
// an address aligned to 16 bytes. Static shared memory: a float a warp, in which the warps meet once.
// A thread adds count / threads squares one after another, and then everything is added as a tree: the relative error stays
// near 2^-24 sqrt(count / threads). Floor: 4 bytes and 2 operations a value.
KERNEL(1024, 2, adamw_gradient_squares, const float* gradients, float* partials, int64_t count) {
    STATIC_SHARED(float[32], partial);
    int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
    float sum = 0.f;
#pragma unroll 4
    for (int64_t i = thread; i < count / 4; i += threads) {
        Quad g = load4(gradients + 4 * i);
        sum += g.value[0] * g.value[0] + g.value[1] * g.value[1] + (g.value[2] * g.value[2] + g.value[3] * g.value[3]);
    }
    for (int64_t i = count / 4 * 4 + thread; i < count; i += threads) sum += gradients[i] * gradients[i];
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// norm[0] = the square root of the sum of `count` partials. One block of 1024 threads; its warps meet once.
KERNEL(1024, 1, adamw_gradient_norm, const float* partials, float* norm, int count) {
    STATIC_SHARED(float[32], partial);
    float sum = 0.f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += partials[i];
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) norm[0] = sqrtf(sum);
}

// ---- the update

// What is the same for all values of a step.
struct Update {
    float clip, beta1, rest1, beta2, rest2, decay, rate, correction, eps;
};

DEVICE void update_value(const Update& update, bool decays, float g, float& p, float& m, float& v) {
    g *= update.clip;
    m = m * update.beta1 + g * update.rest1;
    v = v * update.beta2 + g * g * update.rest2;
    // p (1 - decay) without the loss of decay's bits beside 1.
    if (decays) p -= p * update.decay;
    p -= update.rate * m / (sqrtf(v) * update.correction + update.eps);
}

// How many of `count` ascending bounds are at most `place`: odd inside the ranges that they begin and end.
DEVICE int bounds_passed(const uint32_t* bounds, int count, uint32_t place) {
    int low = 0, high = count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (bounds[middle] <= place)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct alignas(8) Pack4 {
    uint32_t word[2];
};

// One step of AdamW over arenas of `count` values below 2^32, each aligned to 16 bytes; nothing changes where norm[0] is not
// finite. pace = {lr, 1 - b1^t, 1 - b2^t}; rest = 1 - beta; g is the gradient times min(1, max_norm / (norm[0] + 1e-6)):
//   m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, p *= 1 - lr wd where decayed,
//   p -= lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps);
// p is `master`, and `weights` its copy in bf16. Decayed are the ranges bounds[0] to bounds[1], bounds[2] to bounds[3], ...,
// which ascend; `bound_count` may be 0.
//
// 2048 values a block of 256 threads, ceil(count / 2048) blocks, no shared memory, no thread waits for another. A thread has
// two times four neighbouring values, and loads them all before it computes. Floor: 30 bytes and about 16 operations a value.
KERNEL(256, 4, adamw, float* master, bf16* weights, const float* gradients, float* first_moment, float* second_moment,
       const float* norm, const float* pace, NULLABLE const uint32_t* bounds, int bound_count, float beta1, float rest1,
       float beta2, float rest2, float eps, float weight_decay, float max_norm, int64_t count) {
    float length = norm[0];
    if (!(length < INFINITY)) return;
    Update update = {fminf(1.f, max_norm / (length + 1e-6f)), beta1, rest1, beta2, rest2, pace[0] * weight_decay,
                     pace[0] / pace[1], 1.f / sqrtf(pace[2]), eps};

    int64_t start = int64_t(blockIdx.x) * 2048;
    if (start + 2048 > count) {
        for (int64_t i = start + threadIdx.x; i < count; i += 256) {
            float p = master[i], m = first_moment[i], v = second_moment[i];
            update_value(update, bounds_passed(bounds, bound_count, i) & 1, gradients[i], p, m, v);
            master[i] = p;
            first_moment[i] = m;
            second_moment[i] = v;
            weights[i] = bf16(p);
        }
        return;
    }

    Quad p[2], g[2], m[2], v[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
        int64_t i = start + j * 1024 + threadIdx.x * 4;
        p[j] = load4(master + i);
        g[j] = load4(gradients + i);
        m[j] = load4(first_moment + i);
        v[j] = load4(second_moment + i);
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
        int64_t i = start + j * 1024 + threadIdx.x * 4;
        int passed = bounds_passed(bounds, bound_count, i);
        uint32_t next = passed < bound_count ? bounds[passed] : 0xffffffffu;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            while (passed < bound_count && next <= i + k) {
                passed++;
                next = passed < bound_count ? bounds[passed] : 0xffffffffu;
            }
            update_value(update, passed & 1, g[j].value[k], p[j].value[k], m[j].value[k], v[j].value[k]);
        }
        store4(master + i, p[j]);
        store4(first_moment + i, m[j]);
        store4(second_moment + i, v[j]);
        *reinterpret_cast<Pack4*>(weights + i) = {ptx::cvt_bf16x2(p[j].value[0], p[j].value[1]),
                                                  ptx::cvt_bf16x2(p[j].value[2], p[j].value[3])};
    }
}

// Limits `count` values to [low, high], in `master` and in its copy: 256 threads a block, ceil(count / 256) blocks.
KERNEL(256, 1, adamw_clamp, float* master, bf16* weights, float low, float high, int64_t count) {
    int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float value = fminf(fmaxf(master[i], low), high);
    master[i] = value;
    weights[i] = bf16(value);
}
