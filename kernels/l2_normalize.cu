// Rows to unit length.
#include "common.cuh"

// The calling warp's part of the sum over one row of a[k] b[k]: the same bits in every lane. `VECTOR`: width is a multiple
// of 8, so that rows start on 16 bytes.
template <bool VECTOR>
DEVICE float row_dot(const bf16* a, const bf16* b, int width) {
    float sum = 0.f;
    if (VECTOR) {
#pragma unroll 4
        for (int k = lane_id() * 8; k < width; k += 256) {
            Pack8 left = load8(a + k), right = load8(b + k);
#pragma unroll
            for (int i = 0; i < 8; i++) sum += left.get(i) * right.get(i);
        }
    } else {
        for (int k = lane_id(); k < width; k += 32) sum += float(a[k]) * float(b[k]);
    }
    return warp_sum(sum);
}

template <bool VECTOR>
DEVICE void normalize_row(const bf16* x, bf16* y, float* norm, int width) {
    float length = fmaxf(sqrtf(row_dot<VECTOR>(x, x, width)), 1e-12f);
    float inverse = 1.f / length;
    if (lane_id() == 0) *norm = length;
    // The row is read a second time: it lies in the first-level cache.
    if (VECTOR) {
#pragma unroll 4
        for (int k = lane_id() * 8; k < width; k += 256) {
            Pack8 pack = load8(x + k);
            float unit[8];
#pragma unroll
            for (int i = 0; i < 8; i++) unit[i] = pack.get(i) * inverse;
            store8(y + k, pack8(unit));
        }
    } else {
        for (int k = lane_id(); k < width; k += 32) y[k] = bf16(float(x[k]) * inverse);
    }
}

template <bool VECTOR>
DEVICE void normalize_row_backward(const bf16* dy, const bf16* y, float norm, bf16* dx, int width) {
    float along = row_dot<VECTOR>(dy, y, width);
    float inverse = 1.f / norm;
    if (VECTOR) {
#pragma unroll 4
        for (int k = lane_id() * 8; k < width; k += 256) {
            Pack8 gradient = load8(dy + k), unit = load8(y + k);
            float result[8];
#pragma unroll
            for (int i = 0; i < 8; i++) result[i] = (gradient.get(i) - unit.get(i) * along) * inverse;
            store8(dx + k, pack8(result));
        }
    } else {
        for (int k = lane_id(); k < width; k += 32) dx[k] = bf16((float(dy[k]) - float(y[k]) * along) * inverse);
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
        normalize_row<true>(x + start, y + start, norm + row, width);
    else
        normalize_row<false>(x + start, y + start, norm + row, width);
}

// dx = (dy - y (y . dy)) / norm for each row: dy, y, dx [rows, width], norm [rows] of the forward pass.
//
// A warp a row, as in the forward pass. Floor: 6 bytes and 5 operations a value.
KERNEL(128, 1, l2_normalize_backward, const bf16* dy, const bf16* y, const float* norm, bf16* dx, int rows, int width) {
    int row = blockIdx.x * 4 + warp_id();
    if (row >= rows) return;
    int64_t start = int64_t(row) * width;
    if (width % 8 == 0)
        normalize_row_backward<true>(dy + start, y + start, norm[row], dx + start, width);
    else
        normalize_row_backward<false>(dy + start, y + start, norm[row], dx + start, width);
}
