// Rows to unit length.
#include "common.cuh"

// The sum over one row of a[k] b[k], by a warp: the same bits in every lane. Several loads are under way before the first sum.
template <int N>
DEVICE float row_dot(const bf16* a, const bf16* b, int width) {
    constexpr int AT_ONCE = 4;
    float sum = 0.f;
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
#pragma unroll
                for (int i = 0; i < N; i++) sum += left[j].get(i) * right[j].get(i);
            }
    }
    return warp_sum(sum);
}

// The row is read twice: the second time it lies in the first-level cache.
template <int N>
DEVICE void normalize_row(const bf16* x, bf16* y, float* norm, int width) {
    float length = fmaxf(sqrtf(row_dot<N>(x, x, width)), 1e-12f);
    float inverse = 1.f / length;
    if (lane_id() == 0) *norm = length;
#pragma unroll 4
    for (int k = lane_id() * N; k < width; k += 32 * N) {
        float value[N];
        load_values(x + k, value);
#pragma unroll
        for (int i = 0; i < N; i++) value[i] *= inverse;
        store_values(y + k, value);
    }
}

template <int N>
DEVICE void normalize_row_backward(const bf16* dy, const bf16* y, float norm, bf16* dx, int width) {
    float along = row_dot<N>(dy, y, width);
    float inverse = 1.f / norm;
#pragma unroll 4
    for (int k = lane_id() * N; k < width; k += 32 * N) {
        float gradient[N], unit[N];
        load_values(dy + k, gradient);
        load_values(y + k, unit);
#pragma unroll
        for (int i = 0; i < N; i++) gradient[i] = (gradient[i] - unit[i] * along) * inverse;
        store_values(dx + k, gradient);
    }
}

// y = x / norm, norm = max(|x|, 1e-12) for each row: x, y [rows, width], norm [rows].
//
// A warp a row: 128 threads a block, ceil(rows / 4) blocks, no shared memory; the lanes of a warp meet in the sum and
// nowhere else. 16-byte accesses where width is a multiple of 8.
// Floor: 4 bytes and 4 operations a value.
KERNEL(128, 1, l2_normalize, const bf16* x, bf16* y, float* norm, int rows, int width) {
    int row = blockIdx.x * 4 + warp_id();
    if (row >= rows) return;
    int64_t start = int64_t(row) * width;
    if (width % 8 == 0)
        normalize_row<8>(x + start, y + start, norm + row, width);
    else
        normalize_row<1>(x + start, y + start, norm + row, width);
}

// dx = (dy - y (y . dy)) / norm for each row: dy, y, dx [rows, width], norm [rows] of the forward pass.
//
// A warp a row, as in the forward pass. Floor: 6 bytes and 5 operations a value.
KERNEL(128, 1, l2_normalize_backward, const bf16* dy, const bf16* y, const float* norm, bf16* dx, int rows, int width) {
    int row = blockIdx.x * 4 + warp_id();
    if (row >= rows) return;
    int64_t start = int64_t(row) * width;
    if (width % 8 == 0)
        normalize_row_backward<8>(dy + start, y + start, norm[row], dx + start, width);
    else
        normalize_row_backward<1>(dy + start, y + start, norm[row], dx + start, width);
}
