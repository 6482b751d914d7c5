// Inner products of embeddings in f32, and their gradients. Temperatures down to 0.01 multiply an error of s a
// hundredfold, so s is not rounded to bf16. And the rows of ds sum to about 0, so that what they pull from embeddings
// that have much in common is the difference of large sums: ds goes into the products as two bf16, which are 2^-17 of
// it off. One would be 2^-8 off, as much of the large sums as the gradient's own rounding is of their difference.
//
// Widths are those of embeddings, so that mma.sync of linear_mma.cuh serves on every target.
#include "linear_mma.cuh"

// s_ij = sum over k of a_ik b_jk: a [rows, width], b [columns, width], s [rows, columns], see mma_product. `similarity`
// takes widths that are multiples of 8 and even numbers of columns, `similarity_any` all.
//
// Floor: max(2 rows columns width / tensor rate, (2 (rows + columns) width + 4 rows columns) bytes / bandwidth).
#define SIMILARITY(name, aligned)                                                                                      \
    KERNEL(MMA_THREADS, 2, name, const bf16* a, const bf16* b, int rows, int columns, int width, float* s) {           \
        mma_product<false, false, aligned, true>(a, b, rows, columns, width, 1, NoEpilogue{}, s);                      \
    }
SIMILARITY(similarity, true)
SIMILARITY(similarity_any, false)

// Tiles of two blocks of the depth: one is multiplied while the next one comes.
struct GradientShared {
    bf16 upper[2][MMA_TILE * MMA_TILE_K];
    bf16 lower[2][MMA_TILE * MMA_TILE_K];
    bf16 other[2][MMA_TILE * MMA_TILE_K];
};
constexpr int GRADIENT_SHARED = 48 * 1024;
static_assert(sizeof(GradientShared) == GRADIENT_SHARED, "what the launch asks for");

// A thread's part of a tile of ds, laid out as load_mma_tile lays out its tiles, on its way through registers: pairs of
// neighbours, so that a warp reads whole rows of the tile, and writes them into different banks.
template <bool TRANSPOSED>
struct GradientPart {
    static constexpr int PAIRS = (TRANSPOSED ? MMA_TILE : MMA_TILE_K) / 2;  // in a row
    static constexpr int ROWS = MMA_THREADS / PAIRS;                        // at a time
    static constexpr int COUNT = MMA_TILE * MMA_TILE_K / 2 / MMA_THREADS;   // of a thread
    float value[COUNT][2];

    // From the tile at (top, left) of a [height, width] matrix; zeros outside.
    __device__ __forceinline__ void load(const float* from, int top, int left, int height, int width) {
        struct alignas(8) Pair {
            float value[2];
        };
        int column = left + threadIdx.x % PAIRS * 2;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            int row = top + threadIdx.x / PAIRS + i * ROWS;
            int count = row < height ? width - column : 0;
            const float* at = from + (count > 0 ? int64_t(row) * width + column : 0);
            Pair pair = {};
            if (width % 2 == 0) {
                if (count > 0) pair = *reinterpret_cast<const Pair*>(at);
            } else {
                if (count > 0) pair.value[0] = at[0];
                if (count > 1) pair.value[1] = at[1];
            }
            value[i][0] = pair.value[0];
            value[i][1] = pair.value[1];
        }
    }

    // As bf16, and what they leave as bf16.
    __device__ __forceinline__ void store(bf16* upper, bf16* lower) const {
        int pair = threadIdx.x % PAIRS;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            int at = mma_chunk<TRANSPOSED>(threadIdx.x / PAIRS + i * ROWS, pair / 4) + pair % 4 * 2;
            Pack<2> pack = pack_values(value[i]);
            float rest[2] = {value[i][0] - pack.get(0), value[i][1] - pack.get(1)};
            *reinterpret_cast<Pack<2>*>(upper + at) = pack;
            store_values(lower + at, rest);
        }
    }
};

// N values of a gradient to memory.
template <int N>
DEVICE void finish(bf16* to, const float (&sum)[N], bool adds) {
    float value[N] = {};
    if (adds) load_values(to, value);
#pragma unroll
    for (int i = 0; i < N; i++) value[i] += sum[i];
    store_values(to, value);
}

// out (=, += where `adds`) ds other, or ds^T other where TRANSPOSED: out [rows, width], other [depth, width], ds [rows,
// depth] or [depth, rows] f32.
//
// Grid (width / 128, rows / 128) rounded up. Block: 256 threads, warps 2 x 4 over a tile of 128 x 128, 64 x 32 each.
// Shared memory: GradientShared, 48 KiB. One __syncthreads a block of 32 of the depth: it publishes that block's tiles,
// and frees those of the one before.
// Floor: max(4 rows depth width / tensor rate, (4 rows depth + 2 (rows + depth) width) bytes / bandwidth), and ds again
// for every 128 of the width.
template <bool TRANSPOSED>
DEVICE void similarity_gradient(const float* ds, const bf16* other, int rows, int depth, int width, int adds,
                                bf16* out) {
    DYNAMIC_SHARED(GradientShared, shared);
    int first_row = blockIdx.y * MMA_TILE, first_column = blockIdx.x * MMA_TILE;
    int warp_row = warp_id() % 2 * 64, warp_column = warp_id() / 2 * 32;
    GradientPart<TRANSPOSED> part;
    auto load = [&](int at, int stage) {
        if (TRANSPOSED) part.load(ds, at, first_row, depth, rows);
        else part.load(ds, first_row, at, rows, depth);
        if (width % 8 == 0) load_mma_tile<true, true>(shared->other[stage], other, first_column, at, width, depth);
        else load_mma_tile<true, false>(shared->other[stage], other, first_column, at, width, depth);
        ptx::cp_async_commit();
    };
    load(0, 0);
    part.store(shared->upper[0], shared->lower[0]);

    float acc[4][4][4] = {};
    int stage = 0;
    for (int at = 0; at < depth; at += MMA_TILE_K, stage ^= 1) {
        ptx::cp_async_wait<0>();
        __syncthreads();
        bool more = at + MMA_TILE_K < depth;
        if (more) load(at + MMA_TILE_K, stage ^ 1);
#pragma unroll
        for (int k = 0; k < MMA_TILE_K; k += 16) {
            uint32_t b[2][4];
#pragma unroll
            for (int j = 0; j < 2; j++) load_fragment<true, false>(b[j], shared->other[stage], warp_column + 16 * j, k);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t upper[4], lower[4];
                load_fragment<TRANSPOSED, true>(upper, shared->upper[stage], warp_row + 16 * i, k);
                load_fragment<TRANSPOSED, true>(lower, shared->lower[stage], warp_row + 16 * i, k);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const uint32_t* half = b[j / 2] + j % 2 * 2;
                    ptx::mma_m16n8k16(acc[i][j], upper, half[0], half[1]);
                    ptx::mma_m16n8k16(acc[i][j], lower, half[0], half[1]);
                }
            }
        }
        if (more) part.store(shared->upper[stage ^ 1], shared->lower[stage ^ 1]);
    }

#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = first_row + warp_row + 16 * i + 8 * half + lane_id() / 4;
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                float sum[4];
                gather_four(sum, {acc[i][j][2 * half], acc[i][j][2 * half + 1]},
                            {acc[i][j + 1][2 * half], acc[i][j + 1][2 * half + 1]});
                int column = first_column + warp_column + 8 * j + column_of_four();
                int count = row < rows ? width - column : 0;
                bf16* to = out + int64_t(row) * width + column;
                if (width % 4 == 0) {
                    if (count > 0) finish<4>(to, sum, adds);
                } else {
#pragma unroll
                    for (int k = 0; k < 4; k++)
                        if (k < count) finish<1>(to + k, {sum[k]}, adds);
                }
            }
        }
    }
}

#define SIMILARITY_GRADIENT(name, transposed, height, depth)                                                           \
    KERNEL(MMA_THREADS, 1, name, const float* ds, const bf16* other, int rows, int columns, int width, Flag adds,      \
           bf16* out) {                                                                                                \
        similarity_gradient<transposed>(ds, other, height, depth, width, adds, out);                                   \
    }
// da (=, +=) ds b.
SIMILARITY_GRADIENT(similarity_row_gradient, false, rows, columns)
// db (=, +=) ds^T a.
SIMILARITY_GRADIENT(similarity_column_gradient, true, columns, rows)
