// Distillation of similarities: rows of a teacher's matrix as targets for those of a student's. With c_j the
// multiplicity of column j, r_i that of row i, weight_i = weight r_i / sum of r:
//   q_ij = exp(s_ij / tau) / sum over k of c_k exp(s_ik / tau), and p_ij of the teacher's likewise
//   loss = sum over i of weight_i sum over j of c_j p_ij (log p_ij - log q_ij), without log p_ij unless `divergence`
//   ds_ij = weight_i / tau c_j (q_ij - p_ij)
// Exponents are of 2 and relative to the row's largest: `scale` = log2(e) / tau.
#include "common.cuh"

constexpr float LN_2 = 0.6931471805599453f;

// ds (=, += where `adds`), and what each row adds to the loss: row_loss [rows]. s, teacher, ds [rows, columns];
// row_count [rows], column_count [columns], null for ones. A column with count 0 does not count, nor does the diagonal
// where `exclude_self`.
//
// A warp a row, 8 rows a block; lane l takes columns l, l + 32, ... in three sweeps. The block meets once, in the sum
// of row_count.
// Floor: s, teacher and ds once, ds twice where it is added to; the later sweeps find their rows in a cache.
KERNEL(256, 2, distillation_rows, const float* s, const float* teacher, NULLABLE const float* row_count,
       NULLABLE const float* column_count, float* row_loss, float* ds, int rows, int columns, float scale, float teacher_scale,
       float inverse_tau, float weight, Flag exclude_self, Flag divergence, Flag adds) {
    STATIC_SHARED(float[32], partial);
    float all_rows = float(rows);
    if (row_count) {
        float sum = 0.f;
        for (int i = threadIdx.x; i < rows; i += blockDim.x) sum += row_count[i];
        all_rows = block_sum(sum, partial);
    }
    int row = blockIdx.x * 8 + warp_id();
    if (row >= rows) return;
    weight *= (row_count ? row_count[row] : 1.f) / all_rows;
    s += int64_t(row) * columns;
    teacher += int64_t(row) * columns;
    ds += int64_t(row) * columns;
    auto count_of = [&](int column) {
        if (exclude_self && column == row) return 0.f;
        return column_count ? column_count[column] : 1.f;
    };

    float largest = -INFINITY, teacher_largest = -INFINITY;
#pragma unroll 4
    for (int j = lane_id(); j < columns; j += 32) {
        if (count_of(j) > 0.f) {
            largest = fmaxf(largest, s[j]);
            teacher_largest = fmaxf(teacher_largest, teacher[j]);
        }
    }
    largest = warp_max(largest);
    teacher_largest = warp_max(teacher_largest);

    float total = 0.f, teacher_total = 0.f;
#pragma unroll 4
    for (int j = lane_id(); j < columns; j += 32) {
        float count = count_of(j);
        if (count > 0.f) {
            total += count * ptx::ex2((s[j] - largest) * scale);
            teacher_total += count * ptx::ex2((teacher[j] - teacher_largest) * teacher_scale);
        }
    }
    float log_total = log2f(warp_sum(total)), teacher_log_total = log2f(warp_sum(teacher_total));

    float loss = 0.f;
#pragma unroll 4
    for (int j = lane_id(); j < columns; j += 32) {
        float count = count_of(j), gradient = 0.f;
        if (count > 0.f) {
            float log_q = (s[j] - largest) * scale - log_total;
            float log_p = (teacher[j] - teacher_largest) * teacher_scale - teacher_log_total;
            float q = ptx::ex2(log_q), p = ptx::ex2(log_p);
            loss += count * p * ((divergence ? log_p : 0.f) - log_q);
            gradient = weight * inverse_tau * count * (q - p);
        }
        ds[j] = adds ? ds[j] + gradient : gradient;
    }
    loss = warp_sum(loss);
    if (lane_id() == 0) row_loss[row] = weight * LN_2 * loss;
}

// loss [1] (=, += where `adds`) the sum of row_loss [rows].
//
// One block of 1024 threads, which meet in the block sum. Floor: 4 bytes a row.
KERNEL(1024, 1, distillation_loss, const float* row_loss, float* loss, int rows, Flag adds) {
    STATIC_SHARED(float[32], partial);
    float sum = 0.f;
    for (int i = threadIdx.x; i < rows; i += blockDim.x) sum += row_loss[i];
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) *loss = adds ? *loss + sum : sum;
}
