// Filling spans of memory, and the storage-precision copy of the master weights.
#include "common.cuh"

// Every kernel here: `count` elements, 256 threads a block, any number of blocks (each thread strides over the grid), no
// shared memory. 16-byte accesses; elements are accessed singly at the end where they fill none, and throughout where a span
// does not start on 16 bytes.

// `word` is the value's bits, repeated where it is narrower.
template <typename T>
DEVICE void fill(T* to, uint32_t word, T value, int64_t count) {
    constexpr int PER_PACK = 16 / sizeof(T);
    int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
    int64_t packs = starts_on_16_bytes(to) ? count / PER_PACK : 0;
    Pack8 pack = {{word, word, word, word}};
    for (int64_t i = thread; i < packs; i += threads) reinterpret_cast<Pack8*>(to)[i] = pack;
    for (int64_t i = packs * PER_PACK + thread; i < count; i += threads) to[i] = value;
}

// Floor: 4 bytes an element.
KERNEL(256, 1, fill_f32, float* to, float value, int64_t count) { fill(to, __float_as_uint(value), value, count); }

// `value` rounded to bf16. Floor: 2 bytes an element.
KERNEL(256, 1, fill_bf16, bf16* to, float value, int64_t count) {
    fill(to, ptx::cvt_bf16x2(value, value), bf16(value), count);
}

// Floor: 4 bytes an element.
KERNEL(256, 1, fill_u32, uint32_t* to, uint32_t value, int64_t count) { fill(to, value, value, count); }

// to[i] = from[i] rounded to bf16. Floor: 6 bytes an element.
KERNEL(256, 1, to_bf16, const float* from, bf16* to, int64_t count) {
    int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, threads = int64_t(gridDim.x) * blockDim.x;
    int64_t packs = starts_on_16_bytes(from) && starts_on_16_bytes(to) ? count / 8 : 0;
#pragma unroll 2
    for (int64_t i = thread; i < packs; i += threads) {
        Quad low = load4(from + i * 8), high = load4(from + i * 8 + 4);
        float values[8] = {low.value[0],  low.value[1],  low.value[2],  low.value[3],
                           high.value[0], high.value[1], high.value[2], high.value[3]};
        store8(to + i * 8, pack_values(values));
    }
    for (int64_t i = packs * 8 + thread; i < count; i += threads) to[i] = bf16(from[i]);
}
