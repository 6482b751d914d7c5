// Layer normalisation. A warp has a row; where its width is a multiple of 8 and at most 1024, the row is held in registers.
#include "common.cuh"

// Values that a warp takes in one 16-byte access of each lane: lane l holds values 8 l to 8 l + 7 of each such stretch.
constexpr int STRETCH = 256;

// ---- forward

// Rows of at most 1024 values, a multiple of 8: read once.
DEVICE void normalize_held_row(const bf16* x, const bf16* gamma, const bf16* beta, bf16* y, float* mean, float* rstd,
                               int width, float eps) {
    constexpr int STRETCHES = 4;
    int first = lane_id() * 8;
    Pack8 row[STRETCHES];
    float sum = 0.f;
#pragma unroll
    for (int j = 0; j < STRETCHES; j++)
        if (first + STRETCH * j < width) row[j] = load8(x + first + STRETCH * j);
#pragma unroll
    for (int j = 0; j < STRETCHES; j++)
        if (first + STRETCH * j < width)
#pragma unroll
            for (int i = 0; i < 8; i++) sum += row[j].get(i);
    float center = warp_sum(sum) / width;

    float squares = 0.f;
#pragma unroll
    for (int j = 0; j < STRETCHES; j++)
        if (first + STRETCH * j < width)
#pragma unroll
            for (int i = 0; i < 8; i++) squares += (row[j].get(i) - center) * (row[j].get(i) - center);
    float slope = 1.f / sqrtf(warp_sum(squares) / width + eps);

#pragma unroll
    for (int j = 0; j < STRETCHES; j++)
        if (first + STRETCH * j < width) {
            Pack8 gain = load8(gamma + first + STRETCH * j), offset = load8(beta + first + STRETCH * j);
            float result[8];
#pragma unroll
            for (int i = 0; i < 8; i++)
                result[i] = (row[j].get(i) - center) * slope * gain.get(i) + offset.get(i);
            store8(y + first + STRETCH * j, pack_values(result));
        }
    if (lane_id() == 0) {
        *mean = center;
        *rstd = slope;
    }
}

// Rows of any width: read three times, of which two come from the first-level cache.
template <int N>
DEVICE void normalize_row(const bf16* x, const bf16* gamma, const bf16* beta, bf16* y, float* mean, float* rstd,
                          int width, float eps) {
    float sum = 0.f;
#pragma unroll 4
    for (int k = lane_id() * N; k < width; k += 32 * N) {
        float value[N];
        load_values(x + k, value);
#pragma unroll
        for (int i = 0; i < N; i++) sum += value[i];
    }
    float center = warp_sum(sum) / width;

    float squares = 0.f;
#pragma unroll 4
    for (int k = lane_id() * N; k < width; k += 32 * N) {
        float value[N];
        load_values(x + k, value);
#pragma unroll
        for (int i = 0; i < N; i++) squares += (value[i] - center) * (value[i] - center);
    }
    float slope = 1.f / sqrtf(warp_sum(squares) / width + eps);

#pragma unroll 2
    for (int k = lane_id() * N; k < width; k += 32 * N) {
        float value[N], gain[N], offset[N];
        load_values(x + k, value);
        load_values(gamma + k, gain);
        load_values(beta + k, offset);
#pragma unroll
        for (int i = 0; i < N; i++) value[i] = (value[i] - center) * slope * gain[i] + offset[i];
        store_values(y + k, value);
    }
    if (lane_id() == 0) {
        *mean = center;
        *rstd = slope;
    }
}

// y = (x - mean) rstd gamma + beta for each row, rstd = 1 / sqrt(var + eps), var the average of (x - mean)^2.
// x, y [rows, width]; gamma, beta [width]; mean, rstd [rows].
//
// A warp a row: 128 threads a block, ceil(rows / 4) blocks, no shared memory; the lanes of a warp meet in its two sums.
// Floor: 4 bytes and 7 operations a value.
KERNEL(128, 8, layer_norm, const bf16* x, const bf16* gamma, const bf16* beta, bf16* y, float* mean, float* rstd,
       int rows, int width, float eps) {
    int row = blockIdx.x * 4 + warp_id();
    if (row >= rows) return;
    x += int64_t(row) * width;
    y += int64_t(row) * width;
    mean += row;
    rstd += row;
    if (width % 8 == 0 && width <= 4 * STRETCH)
        normalize_held_row(x, gamma, beta, y, mean, rstd, width, eps);
    else if (width % 8 == 0)
        normalize_row<8>(x, gamma, beta, y, mean, rstd, width, eps);
    else
        normalize_row<1>(x, gamma, beta, y, mean, rstd, width, eps);
}

// ---- backward

// A block's sums of dgamma and dbeta while its warps add theirs: value 4 half + i of lane l in stretch j lies at
// [0 or 1][half][j][l].value[i], so that 16-byte accesses of neighbouring lanes touch neighbouring addresses.
template <int STRETCHES>
using ColumnSums = Quad[2][2][STRETCHES][32];

// The rows of one block, of at most 256 STRETCHES values; its sums go to partials [gridDim.x, 2, width].
template <int STRETCHES, int WARPS>
DEVICE void backward_held_rows(const bf16* dy, const bf16* x, const bf16* gamma, const float* mean, const float* rstd,
                               int add, bf16* dx, float* partials, int rows, int width,
                               ColumnSums<STRETCHES>& total) {
    int first = lane_id() * 8;
    float scale = 1.f / width;
    float dgamma[STRETCHES][8] = {}, dbeta[STRETCHES][8] = {};
    for (int row = blockIdx.x * WARPS + warp_id(); row < rows; row += gridDim.x * WARPS) {
        int64_t start = int64_t(row) * width + first;
        Pack8 gradient[STRETCHES], value[STRETCHES], held[STRETCHES];
#pragma unroll
        for (int j = 0; j < STRETCHES; j++) {
            gradient[j] = value[j] = held[j] = Pack8{};
            if (first + STRETCH * j < width) {
                gradient[j] = load8(dy + start + STRETCH * j);
                value[j] = load8(x + start + STRETCH * j);
                if (add) held[j] = load8(dx + start + STRETCH * j);
            }
        }
        float center = mean[row], slope = rstd[row];

        float sum_g = 0.f, sum_gn = 0.f;
#pragma unroll
        for (int j = 0; j < STRETCHES; j++)
            if (first + STRETCH * j < width) {
                Pack8 gain = load8(gamma + first + STRETCH * j);
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    float n = (value[j].get(i) - center) * slope, g = gradient[j].get(i) * gain.get(i);
                    sum_g += g;
                    sum_gn += g * n;
                    dgamma[j][i] += gradient[j].get(i) * n;
                    dbeta[j][i] += gradient[j].get(i);
                }
            }
        float average_g = warp_sum(sum_g) * scale, average_gn = warp_sum(sum_gn) * scale;

#pragma unroll
        for (int j = 0; j < STRETCHES; j++)
            if (first + STRETCH * j < width) {
                Pack8 gain = load8(gamma + first + STRETCH * j);
                float result[8];
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    float n = (value[j].get(i) - center) * slope, g = gradient[j].get(i) * gain.get(i);
                    result[i] = held[j].get(i) + slope * (g - average_g - n * average_gn);
                }
                store8(dx + start + STRETCH * j, pack_values(result));
            }
    }

    // The warps add their sums one after another.
    for (int turn = 0; turn < WARPS; turn++) {
        if (warp_id() == turn) {
#pragma unroll
            for (int j = 0; j < STRETCHES; j++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    Quad gain = {}, offset = {};
                    if (turn > 0) {
                        gain = total[0][half][j][lane_id()];
                        offset = total[1][half][j][lane_id()];
                    }
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        gain.value[i] += dgamma[j][4 * half + i];
                        offset.value[i] += dbeta[j][4 * half + i];
                    }
                    total[0][half][j][lane_id()] = gain;
                    total[1][half][j][lane_id()] = offset;
                }
        }
        __syncthreads();
    }
    for (int quad = threadIdx.x; quad < width / 2; quad += WARPS * 32) {
        int which = quad * 4 >= width, column = quad * 4 - which * width;
        store4(partials + int64_t(blockIdx.x) * 2 * width + quad * 4,
               total[which][column / 4 % 2][column / STRETCH][column % STRETCH / 8]);
    }
}

// With n = (x - mean) rstd and g = dy gamma, for each row:
//   dx = rstd (g - average(g) - n average(g n)), added to what dx holds where `add` is not 0,
// and over the block's rows the sums of dy n and of dy, into partials [gridDim.x, 2, width], which layer_norm_backward_sum
// adds up. dy, x, dx [rows, width]; gamma [width]; mean, rstd [rows] of the forward pass.
//
// These four are for widths that are multiples of 8 and at most what their name says. A warp a row; blocks stay for many rows
// (any number of blocks: one for each multiprocessor), so that column sums stay in registers until the last row. Static
// shared memory: 8 bytes a column. The lanes of a warp meet in its sums; the warps of a block when they add their column sums
// in turn, a __syncthreads after each. All sums have one order for one number of blocks.
// Floor: 6 bytes a value, 8 where it adds, and 16 operations.
#define LAYER_NORM_BACKWARD(columns, threads)                                                                          \
    KERNEL(threads, 1, layer_norm_backward_##columns, const bf16* dy, const bf16* x, const bf16* gamma,                \
           const float* mean, const float* rstd, Flag add, bf16* dx, float* partials, int rows, int width) {            \
        STATIC_SHARED(ColumnSums<columns / STRETCH>, total);                                                           \
        backward_held_rows<columns / STRETCH, threads / 32>(dy, x, gamma, mean, rstd, add, dx, partials, rows, width,  \
                                                            total);                                                    \
    }

// Threads are what the registers of a multiprocessor give.
LAYER_NORM_BACKWARD(256, 512)
LAYER_NORM_BACKWARD(512, 512)
LAYER_NORM_BACKWARD(768, 512)
LAYER_NORM_BACKWARD(1024, 384)

// The rows of one block, one after another; thread t has columns N t to N t + N - 1, and on from there in steps of the block.
template <int N>
DEVICE void backward_rows(const bf16* dy, const bf16* x, const bf16* gamma, const float* mean, const float* rstd, int add,
                          bf16* dx, float* partials, int rows, int width, float* dgamma, float* dbeta, float* partial_g,
                          float* partial_gn) {
    int first = threadIdx.x * N, step = blockDim.x * N;
    float scale = 1.f / width;
    // Each thread's columns of dgamma and dbeta are its own: nobody else touches them.
    const float zero[N] = {};
    for (int k = first; k < width; k += step) {
        store_values(dgamma + k, zero);
        store_values(dbeta + k, zero);
    }
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        int64_t start = int64_t(row) * width;
        float center = mean[row], slope = rstd[row];
        float sum_g = 0.f, sum_gn = 0.f;
        for (int k = first; k < width; k += step) {
            float gradient[N], value[N], gain[N], sum_dgamma[N], sum_dbeta[N];
            load_values(dy + start + k, gradient);
            load_values(x + start + k, value);
            load_values(gamma + k, gain);
            load_values(dgamma + k, sum_dgamma);
            load_values(dbeta + k, sum_dbeta);
#pragma unroll
            for (int i = 0; i < N; i++) {
                float n = (value[i] - center) * slope, g = gradient[i] * gain[i];
                sum_g += g;
                sum_gn += g * n;
                sum_dgamma[i] += gradient[i] * n;
                sum_dbeta[i] += gradient[i];
            }
            store_values(dgamma + k, sum_dgamma);
            store_values(dbeta + k, sum_dbeta);
        }
        // Each sum's __syncthreads separates the other's reads of its partials from the next row's writes.
        float average_g = block_sum(sum_g, partial_g) * scale;
        float average_gn = block_sum(sum_gn, partial_gn) * scale;
        for (int k = first; k < width; k += step) {
            float gradient[N], value[N], gain[N], result[N] = {};
            load_values(dy + start + k, gradient);
            load_values(x + start + k, value);
            load_values(gamma + k, gain);
            if (add) load_values(dx + start + k, result);
#pragma unroll
            for (int i = 0; i < N; i++) {
                float n = (value[i] - center) * slope, g = gradient[i] * gain[i];
                result[i] += slope * (g - average_g - n * average_gn);
            }
            store_values(dx + start + k, result);
        }
    }
    partials += int64_t(blockIdx.x) * 2 * width;
    for (int k = first; k < width; k += step) {
        float sum[N];
        load_values(dgamma + k, sum);
        store_values(partials + k, sum);
        load_values(dbeta + k, sum);
        store_values(partials + width + k, sum);
    }
}

// The same for any width: a block a row, 256 threads, any number of blocks (a few for each multiprocessor). Dynamic shared
// memory: 8 bytes a column, for the column sums; static: a float a warp for each of two sums, in which the warps meet twice
// a row. The second reading of a row comes from a cache.
KERNEL(256, 1, layer_norm_backward_wide, const bf16* dy, const bf16* x, const bf16* gamma, const float* mean,
       const float* rstd, Flag add, bf16* dx, float* partials, int rows, int width) {
    DYNAMIC_SHARED(float, sums);
    STATIC_SHARED(float[8], partial_g);
    STATIC_SHARED(float[8], partial_gn);
    if (width % 4 == 0)
        backward_rows<4>(dy, x, gamma, mean, rstd, add, dx, partials, rows, width, sums, sums + width, partial_g, partial_gn);
    else
        backward_rows<1>(dy, x, gamma, mean, rstd, add, dx, partials, rows, width, sums, sums + width, partial_g, partial_gn);
}

// dgamma[k] = sum over `count` of partials[., 0, k], dbeta[k] = sum of partials[., 1, k]: partials [count, 2, width].
//
// 32 columns a block of 1024 threads, ceil(2 width / 32) blocks. Warp w adds partials w, w + 32, ... of 32 columns, a lane
// each; after one __syncthreads the first warp adds the 32 warps' sums. Static shared memory: 4 KiB.
KERNEL(1024, 1, layer_norm_backward_sum, const float* partials, float* dgamma, float* dbeta, int count, int width) {
    STATIC_SHARED(float[32][32], sums);
    int column = blockIdx.x * 32 + lane_id();
    float sum = 0.f;
    if (column < 2 * width) {
#pragma unroll 4
        for (int p = warp_id(); p < count; p += 32) sum += partials[int64_t(p) * 2 * width + column];
    }
    sums[warp_id()][lane_id()] = sum;
    __syncthreads();
    if (warp_id() > 0 || column >= 2 * width) return;
    float total = 0.f;
#pragma unroll
    for (int warp = 0; warp < 32; warp++) total += sums[warp][lane_id()];
    if (column < width)
        dgamma[column] = total;
    else
        dbeta[column - width] = total;
}
