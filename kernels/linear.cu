// Matrix products with what follows them fused.
//
// All are C[rows, columns] = A B over a `depth`, bf16 with f32 accumulation, in three forms by the layouts of A and B:
//   kk  A [rows, depth], B [columns, depth]    y = x W^T with W [out, in];   dx = dy W with W [in, out]
//   kn  A [rows, depth], B [depth, columns]    y = x W with W [in, out];     dx = dy W with W [out, in]
//   mn  A [depth, rows], B [depth, columns]    dW = dy^T x for W [out, in];  dW = x^T dy for W [in, out]; f32
// kk and kn round C + bias to bf16, and what EpilogueKind says follows from the rounded values: staged as bf16, a tile
// is small enough to be taken to memory while the next one is multiplied, and the backward pass sees the same `pre`.
// What follows is part of a kernel, which has no code of other kinds; of the pairs with a layout there are those that models
// have: activations after kk, their derivatives after kn. The kernels for rows of any width are told it at the launch.
//
// Floor: max(2 rows columns depth / tensor rate, operands and output once / bandwidth).
#include "linear_mma.cuh"
#include "linear_wgmma.cuh"

// ---- Hopper: see linear_wgmma.cuh.
//
// Tiles of 128 x 256 need least from the L2 cache; 128 x 128 fit small outputs better.
// Maps of K-major operands have boxes of 64 columns x as many rows as the tile; of MN-major ones 64 x 64.
#if defined(HOPPER) || defined(EMULATOR)

#define WGMMA_PRODUCT(name, b_n_major, tile_n, kind)                                                                   \
    KERNEL(WGMMA_THREADS, 1, name, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, int rows, \
           int columns, int depth, NULLABLE const bf16* bias, NULLABLE const bf16* other, NULLABLE bf16* pre,          \
           bf16* out) {                                                                                                \
        Epilogue<Known<EpilogueKind::kind>> epilogue = {{}, bias, other, pre, out};                                    \
        wgmma_product<false, b_n_major, tile_n, false>(&a, &b, rows, columns, depth, 1, epilogue, nullptr, nullptr);   \
    }
WGMMA_PRODUCT(linear_wgmma_kk_128, false, 128, NONE)
WGMMA_PRODUCT(linear_wgmma_kk_256, false, 256, NONE)
WGMMA_PRODUCT(linear_wgmma_kk_128_gelu, false, 128, GELU)
WGMMA_PRODUCT(linear_wgmma_kk_256_gelu, false, 256, GELU)
WGMMA_PRODUCT(linear_wgmma_kk_128_quick_gelu, false, 128, QUICK_GELU)
WGMMA_PRODUCT(linear_wgmma_kk_256_quick_gelu, false, 256, QUICK_GELU)
WGMMA_PRODUCT(linear_wgmma_kk_128_residual, false, 128, RESIDUAL)
WGMMA_PRODUCT(linear_wgmma_kk_256_residual, false, 256, RESIDUAL)
WGMMA_PRODUCT(linear_wgmma_kn_128, true, 128, NONE)
WGMMA_PRODUCT(linear_wgmma_kn_256, true, 256, NONE)
WGMMA_PRODUCT(linear_wgmma_kn_128_residual, true, 128, RESIDUAL)
WGMMA_PRODUCT(linear_wgmma_kn_256_residual, true, 256, RESIDUAL)
WGMMA_PRODUCT(linear_wgmma_kn_128_gelu_backward, true, 128, GELU_BACKWARD)
WGMMA_PRODUCT(linear_wgmma_kn_256_gelu_backward, true, 256, GELU_BACKWARD)
WGMMA_PRODUCT(linear_wgmma_kn_128_quick_gelu_backward, true, 128, QUICK_GELU_BACKWARD)
WGMMA_PRODUCT(linear_wgmma_kn_256_quick_gelu_backward, true, 256, QUICK_GELU_BACKWARD)

// `out` [splits, rows, columns]; `sums` [splits, rows] (column sums of the operand A) or null.
#define WGMMA_WEIGHT(name, tile_n)                                                                                     \
    KERNEL(WGMMA_THREADS, 1, name, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, int rows, \
           int columns, int depth, int splits, float* out, NULLABLE float* sums) {                                        \
        wgmma_product<true, true, tile_n, true>(&a, &b, rows, columns, depth, splits, NoEpilogue{}, out, sums);        \
    }
WGMMA_WEIGHT(linear_wgmma_mn_128, 128)
WGMMA_WEIGHT(linear_wgmma_mn_256, 256)

#endif

// ---- sm_80 and operands of any width: see linear_mma.cuh.

#define MMA_PRODUCT(name, b_n_major, kind)                                                                             \
    KERNEL(MMA_THREADS, 2, name, const bf16* a, const bf16* b, int rows, int columns, int depth,                       \
           NULLABLE const bf16* bias, NULLABLE const bf16* other, NULLABLE bf16* pre, bf16* out) {                     \
        Epilogue<Known<EpilogueKind::kind>> epilogue = {{}, bias, other, pre, out};                                    \
        mma_product<false, b_n_major, true, false>(a, b, rows, columns, depth, 1, epilogue, nullptr);                  \
    }
MMA_PRODUCT(linear_mma_kk, false, NONE)
MMA_PRODUCT(linear_mma_kk_gelu, false, GELU)
MMA_PRODUCT(linear_mma_kk_quick_gelu, false, QUICK_GELU)
MMA_PRODUCT(linear_mma_kk_residual, false, RESIDUAL)
MMA_PRODUCT(linear_mma_kn, true, NONE)
MMA_PRODUCT(linear_mma_kn_residual, true, RESIDUAL)
MMA_PRODUCT(linear_mma_kn_gelu_backward, true, GELU_BACKWARD)
MMA_PRODUCT(linear_mma_kn_quick_gelu_backward, true, QUICK_GELU_BACKWARD)

// Rows of any width, and every kind.
#define MMA_PRODUCT_ANY(name, b_n_major)                                                                               \
    KERNEL(MMA_THREADS, 2, name, const bf16* a, const bf16* b, int rows, int columns, int depth, EpilogueKind kind,    \
           NULLABLE const bf16* bias, NULLABLE const bf16* other, NULLABLE bf16* pre, bf16* out) {                     \
        Epilogue<EpilogueKind> epilogue = {kind, bias, other, pre, out};                                               \
        mma_product<false, b_n_major, false, false>(a, b, rows, columns, depth, 1, epilogue, nullptr);                 \
    }
MMA_PRODUCT_ANY(linear_mma_kk_any, false)
MMA_PRODUCT_ANY(linear_mma_kn_any, true)

#define MMA_WEIGHT(name, aligned)                                                                                      \
    KERNEL(MMA_THREADS, 2, name, const bf16* a, const bf16* b, int rows, int columns, int depth, int splits,           \
           float* out) {                                                                                               \
        mma_product<true, true, aligned, true>(a, b, rows, columns, depth, splits, NoEpilogue{}, out);                 \
    }
MMA_WEIGHT(linear_mma_mn, true)
MMA_WEIGHT(linear_mma_mn_any, false)

// ---- Second passes, and the bias's gradient where no product kernel sums it.

// out[i] = sum over s of partials[s][i], in the order of s: the second pass of everything that is split.
//
// Grid: any; block 256; a thread four values at a time where `count` is a multiple of four, else one.
// Floor: (splits + 1) count x 4 bytes.
KERNEL(256, 4, linear_reduce_splits, const float* partials, int splits, int64_t count, float* out) {
    struct alignas(16) Four {
        float value[4];
    };
    int64_t thread = int64_t(blockIdx.x) * 256 + threadIdx.x, threads = int64_t(gridDim.x) * 256;
    if (count % 4 == 0) {
        const Four* from = reinterpret_cast<const Four*>(partials);
        for (int64_t i = thread; i < count / 4; i += threads) {
            Four total = {};
#pragma unroll 4
            for (int split = 0; split < splits; split++) {
                Four part = from[split * (count / 4) + i];
#pragma unroll
                for (int j = 0; j < 4; j++) total.value[j] += part.value[j];
            }
            reinterpret_cast<Four*>(out)[i] = total;
        }
    } else {
        for (int64_t i = thread; i < count; i += threads) {
            float total = 0.f;
#pragma unroll 4
            for (int split = 0; split < splits; split++) total += partials[split * count + i];
            out[i] = total;
        }
    }
}

// sums[part][column] = sum of x[row][column] over the part's rows; linear_reduce_splits adds the parts.
//
// Grid (columns / 256 rounded up, parts), block 256: warp w sums rows w, w + 8, .. of the part in eight columns a lane;
// then the eight warps' sums are added in order through shared memory, one __syncthreads between. Floor: x once.
KERNEL(256, 4, linear_column_sums, const bf16* x, int rows, int columns, float* sums) {
    STATIC_SHARED(EightColumnSums<256>, partial);
    int first = int(int64_t(rows) * blockIdx.y / gridDim.y), last = int(int64_t(rows) * (blockIdx.y + 1) / gridDim.y);
    int column = blockIdx.x * 256 + 8 * lane_id();
    int count = columns - column;
    float sum[8] = {};
    auto add = [&](const Pack8& values) {
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i] += values.get(i);
    };
    if (columns % 8 == 0 && count > 0) {
#pragma unroll 4
        for (int row = first + warp_id(); row < last; row += 8) add(load8(x + int64_t(row) * columns + column));
    } else if (count > 0) {
        for (int row = first + warp_id(); row < last; row += 8) {
            add(load_some(x + int64_t(row) * columns + column, count));
        }
    }
    partial.put(threadIdx.x, sum);
    __syncthreads();
    int at = blockIdx.x * 256 + threadIdx.x;
    if (at < columns) sums[int64_t(blockIdx.y) * columns + at] = partial.total<256>(threadIdx.x);
}
