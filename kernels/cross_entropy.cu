// Losses of classifiers: rows of logits against labels, or against another model's logits.
//
// Both kernels: logits, dlogits [rows, stride], of which the first `columns` of a row take part. A row's loss goes to row_loss
// [rows], which cross_entropy_mean adds up; its gradient times `scale`, the loss's weight over the rows, is added to dlogits
// where `add` is not 0, and else replaces them, with zeros from `columns` on.
//
// A block a row, of any multiple of 32 up to 512 threads: a warp where rows are short. Static shared memory: a float a warp for
// each maximum and sum, in which the warps meet. 16-byte accesses where stride is a multiple of 8. A row is read three times,
// of which two come from the first-level cache. Floor: 4 bytes a value, 6 with a teacher, 2 more where it adds; two exponentials
// and about 10 operations a value, with a teacher four and 20.
#include "common.cuh"

struct Row {
    int columns, stride, add;
    float scale;
};

// A warp's part of each of the block's reductions.
typedef float Partial[16];

// z_k / w_k; w is 1 where there is none.
DEVICE float divided(float z, const float* divisor, int k) { return divisor ? z / divisor[k] : z; }

// The largest of the row's z_k / w_k.
template <int N>
DEVICE float row_max(const bf16* logits, const float* divisor, int columns, Partial& partial) {
    float largest = -INFINITY;
    for (int k = threadIdx.x * N; k < columns; k += blockDim.x * N) {
        float z[N];
        load_values(logits + k, z);
#pragma unroll
        for (int i = 0; i < N; i++)
            if (k + i < columns) largest = fmaxf(largest, divided(z[i], divisor, k + i));
    }
    return block_max(largest, partial);
}

// The part of dlogits that begins at column k (=, +=) gradient, which is 0 from `columns` on.
template <int N>
DEVICE void write_gradient(const Row& row, int k, const float (&gradient)[N], bf16* dlogits) {
    float value[N] = {};
    if (row.add) load_values(dlogits + k, value);
#pragma unroll
    for (int i = 0; i < N; i++) value[i] += row.scale * gradient[i];
    store_values(dlogits + k, value);
}

template <int N>
DEVICE void hard_row(const Row& row, const bf16* logits, const float* divisor, int label, float* row_loss, bf16* dlogits,
                     Partial (&partial)[2]) {
    float largest = row_max<N>(logits, divisor, row.columns, partial[0]);
    float sum = 0.f;
    for (int k = threadIdx.x * N; k < row.columns; k += blockDim.x * N) {
        float z[N];
        load_values(logits + k, z);
#pragma unroll
        for (int i = 0; i < N; i++)
            if (k + i < row.columns) sum += expf(divided(z[i], divisor, k + i) - largest);
    }
    sum = block_sum(sum, partial[1]);
    float inverse = 1.f / sum;
    for (int k = threadIdx.x * N; k < (row.add ? row.columns : row.stride); k += blockDim.x * N) {
        float z[N], gradient[N] = {};
        load_values(logits + k, z);
#pragma unroll
        for (int i = 0; i < N; i++)
            if (k + i < row.columns) {
                float p = expf(divided(z[i], divisor, k + i) - largest) * inverse;
                gradient[i] = divided(k + i == label ? p - 1.f : p, divisor, k + i);
            }
        write_gradient(row, k, gradient, dlogits);
    }
    if (threadIdx.x == 0) *row_loss = logf(sum) - (divided(logits[label], divisor, label) - largest);
}

// A row's loss is log sum_k exp(z_k / w_k) - z_y / w_y: divisor w [columns] or null, label y [rows].
KERNEL(512, 2, cross_entropy, const bf16* logits, NULLABLE const float* divisor, const uint32_t* label, float scale,
       Flag add, float* row_loss, bf16* dlogits, int columns, int stride) {
    STATIC_SHARED(Partial[2], partial);
    Row row = {columns, stride, add, scale};
    int64_t start = int64_t(blockIdx.x) * stride;
    int own = label[blockIdx.x];
    if (stride % 8 == 0)
        hard_row<8>(row, logits + start, divisor, own, row_loss + blockIdx.x, dlogits + start, partial);
    else
        hard_row<1>(row, logits + start, divisor, own, row_loss + blockIdx.x, dlogits + start, partial);
}

template <int N>
DEVICE void soft_row(const Row& row, const bf16* logits, const bf16* teacher, const float* balance, float inverse_t,
                     float* row_loss, bf16* dlogits, Partial (&partial)[5]) {
    float largest = row_max<N>(logits, nullptr, row.columns, partial[0]) * inverse_t;
    float largest_target = row_max<N>(teacher, nullptr, row.columns, partial[1]) * inverse_t;
    // Of exp(z), of the targets, and of the targets times z; z and the targets relative to the largest.
    float sum = 0.f, sum_target = 0.f, along = 0.f;
    for (int k = threadIdx.x * N; k < row.columns; k += blockDim.x * N) {
        float z[N], target[N];
        load_values(logits + k, z);
        load_values(teacher + k, target);
#pragma unroll
        for (int i = 0; i < N; i++)
            if (k + i < row.columns) {
                float exponent = z[i] * inverse_t - largest;
                float q = expf(target[i] * inverse_t - largest_target) * (balance ? balance[k + i] : 1.f);
                sum += expf(exponent);
                sum_target += q;
                along += q * exponent;
            }
    }
    sum = block_sum(sum, partial[2]);
    sum_target = block_sum(sum_target, partial[3]);
    along = block_sum(along, partial[4]);
    float inverse = 1.f / sum, inverse_target = 1.f / sum_target;
    for (int k = threadIdx.x * N; k < (row.add ? row.columns : row.stride); k += blockDim.x * N) {
        float z[N], target[N], gradient[N] = {};
        load_values(logits + k, z);
        load_values(teacher + k, target);
#pragma unroll
        for (int i = 0; i < N; i++)
            if (k + i < row.columns) {
                float p = expf(z[i] * inverse_t - largest) * inverse;
                float q = expf(target[i] * inverse_t - largest_target) * (balance ? balance[k + i] : 1.f) * inverse_target;
                gradient[i] = (p - q) * inverse_t;
            }
        write_gradient(row, k, gradient, dlogits);
    }
    if (threadIdx.x == 0) *row_loss = logf(sum) - along * inverse_target;
}

// A row's loss is - sum_k q_k log softmax_k(z / T), q = softmax(z' / T) balance, renormalised: teacher z' as logits, balance
// [columns] or null for 1, inverse_t = 1 / T.
KERNEL(512, 2, cross_entropy_soft, const bf16* logits, const bf16* teacher, NULLABLE const float* balance, float
       inverse_t, float scale, Flag add, float* row_loss, bf16* dlogits, int columns, int stride) {
    STATIC_SHARED(Partial[5], partial);
    Row row = {columns, stride, add, scale};
    int64_t start = int64_t(blockIdx.x) * stride;
    row_loss += blockIdx.x;
    if (stride % 8 == 0)
        soft_row<8>(row, logits + start, teacher + start, balance, inverse_t, row_loss, dlogits + start, partial);
    else
        soft_row<1>(row, logits + start, teacher + start, balance, inverse_t, row_loss, dlogits + start, partial);
}

// loss[0] = scale times the sum of row_loss [rows], or that added to it where `add` is not 0. One block of 1024 threads; its
// warps meet once.
KERNEL(1024, 1, cross_entropy_mean, const float* row_loss, float* loss, float scale, Flag add, int rows) {
    STATIC_SHARED(float[32], partial);
    float sum = 0.f;
    for (int row = threadIdx.x; row < rows; row += blockDim.x) sum += row_loss[row];
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) *loss = (add ? *loss : 0.f) + scale * sum;
}
