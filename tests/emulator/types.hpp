// CUDA's words and types, as far as kernels use them: qualifiers, vector types, bf16, the opaque TMA descriptor.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __grid_constant__
#define __align__(bytes) alignas(bytes)
#define DEVICE static inline __attribute__((always_inline, unused))
#define HOPPER 1

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 {
    unsigned x, y, z;
};

#define VECTOR_TYPES(scalar, name)                                                                    \
    struct alignas(2 * sizeof(scalar)) name##2 { scalar x, y; };                                      \
    struct alignas(4 * sizeof(scalar) > 16 ? 16 : 4 * sizeof(scalar)) name##4 { scalar x, y, z, w; }; \
    static inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }                       \
    static inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }

VECTOR_TYPES(float, float)
VECTOR_TYPES(int, int)
VECTOR_TYPES(unsigned, uint)
VECTOR_TYPES(unsigned short, ushort)
VECTOR_TYPES(unsigned char, uchar)
#undef VECTOR_TYPES

static inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}
static inline float __int_as_float(int bits) { return __uint_as_float(unsigned(bits)); }
static inline int __float_as_int(float value) { return int(__float_as_uint(value)); }

// The upper half of an f32; conversion rounds to nearest, ties to even, and every NaN becomes 0x7fff, as on the device.
struct alignas(2) bf16 {
    uint16_t bits;
    bf16() = default;
    bf16(float value) {
        uint32_t wide = __float_as_uint(value);
        bool nan = (wide & 0x7fffffffu) > 0x7f800000u;
        bits = nan ? 0x7fff : uint16_t((wide + 0x7fffu + (wide >> 16 & 1)) >> 16);
    }
    operator float() const { return __uint_as_float(uint32_t(bits) << 16); }
};

// What emulator_tensor_map writes, and tma.cpp reads.
struct alignas(128) TensorMap {
    uint64_t opaque[16];
};
