// Products with mma.sync, for sm_80, and everywhere for rows that TMA and 16-byte accesses cannot take.
//
// C[rows, columns] = A B, bf16 with f32 accumulation; A is [rows, depth] (K-major) or [depth, rows] (M-major), B is
// [columns, depth] (K-major) or [depth, columns] (N-major), row-major in memory. ALIGNED: rows of all operands are
// multiples of 16 bytes, and tiles travel by cp.async; otherwise element by element through registers.
//
// Grid: a block for each unit of work (Units). Block: 256 threads, warps 2 x 4 over a tile of 128 x 128, 64 x 32 each.
// Shared memory: a ring of 3 stages of both tiles, 32 of the depth each: 48 KiB; then the staged tile in its place. So two blocks fit
// the 100 KiB of a multiprocessor of compute capability 8.6, 8.9 and 12.0. One
// __syncthreads a block of the depth: it publishes that block's tiles, and frees those of the one before.
#pragma once
#include "linear_epilogue.cuh"

constexpr int MMA_TILE = 128;
constexpr int MMA_TILE_K = 32;
constexpr int MMA_STAGES = 3;
constexpr int MMA_THREADS = 256;

struct MmaShared {
    union {
        struct {
            bf16 a[MMA_STAGES][MMA_TILE * MMA_TILE_K];
            bf16 b[MMA_STAGES][MMA_TILE * MMA_TILE_K];
        };
        bf16 staging[MMA_TILE * MMA_TILE];
    };
};
constexpr int MMA_SHARED = 48 * 1024;
static_assert(sizeof(MmaShared) == MMA_SHARED, "what the launch asks for");

// Where 16-byte chunk `chunk` of row `row` of a tile lies, so that eight rows of one chunk, which ldmatrix reads at a
// time, lie in different banks. K-major: 128 rows of 4 chunks; MN-major: 32 rows of 16 chunks.
template <bool MN_MAJOR>
DEVICE int mma_chunk(int row, int chunk) {
    return MN_MAJOR ? (row * 16 + (chunk ^ (row & 7))) * 8 : (row * 4 + (chunk ^ ((row >> 1) & 3))) * 8;
}

// The tile at (`first` of M or N, `at` of the depth) of an operand of `size` x `depth`; zeros outside.
template <bool MN_MAJOR, bool ALIGNED>
DEVICE void load_mma_tile(bf16* tile, const bf16* from, int first, int at, int size, int depth) {
    constexpr int CHUNKS = MN_MAJOR ? 16 : 4;  // in a row
    int height = MN_MAJOR ? depth : size, width = MN_MAJOR ? size : depth;
    int top = MN_MAJOR ? at : first, left = MN_MAJOR ? first : at;
#pragma unroll
    for (int i = 0; i < MMA_TILE * MMA_TILE_K / 8 / MMA_THREADS; i++) {
        int row = i * (MMA_THREADS / CHUNKS) + threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        bf16* to = tile + mma_chunk<MN_MAJOR>(row, chunk);
        int count = top + row < height ? width - (left + 8 * chunk) : 0;
        const bf16* source = from + (count > 0 ? int64_t(top + row) * width + left + 8 * chunk : 0);
        if (ALIGNED) ptx::cp_async16(to, source, count > 0);
        else store8(to, load_some(source, count));
    }
}

// The fragment of 16 of M or N at `first` by 16 of the depth at `at`. Its four registers are, of A, the (M, K) halves
// (0, 0) (1, 0) (0, 1) (1, 1), and of B the (N, K) halves (0, 0) (0, 1) (1, 0) (1, 1).
template <bool MN_MAJOR, bool IS_A>
DEVICE void load_fragment(uint32_t (&fragment)[4], const bf16* tile, int first, int at) {
    int matrix = lane_id() / 8, line = lane_id() % 8;
    int outer = IS_A ? matrix & 1 : matrix >> 1, inner = IS_A ? matrix >> 1 : matrix & 1;
    if (MN_MAJOR) ptx::ldmatrix_x4_trans(fragment, tile + mma_chunk<true>(at + 8 * inner + line, first / 8 + outer));
    else ptx::ldmatrix_x4(fragment, tile + mma_chunk<false>(first + 8 * outer + line, at / 8 + inner));
}

// WEIGHT: `out` is f32 [splits, rows, columns]. Otherwise `splits` is 1 and `epilogue` says what becomes of C.
template <bool A_M_MAJOR, bool B_N_MAJOR, bool ALIGNED, bool WEIGHT, class Kind>
DEVICE void mma_product(const bf16* a, const bf16* b, int rows, int columns, int depth, int splits,
                        const Epilogue<Kind>& epilogue, float* out) {
    DYNAMIC_SHARED(MmaShared, shared);
    Unit unit = Units(rows, columns, depth, MMA_TILE, MMA_TILE, MMA_TILE_K, splits)[blockIdx.x];
    int warp_row = warp_id() % 2 * 64, warp_column = warp_id() / 2 * 32;

    auto load = [&](int block) {
        int stage = (block - unit.first) % MMA_STAGES;
        if (block < unit.last) {
            load_mma_tile<A_M_MAJOR, ALIGNED>(shared->a[stage], a, unit.row, block * MMA_TILE_K, rows, depth);
            load_mma_tile<B_N_MAJOR, ALIGNED>(shared->b[stage], b, unit.column, block * MMA_TILE_K, columns, depth);
        }
        ptx::cp_async_commit();  // a group for each block, empty or not, so that the waits below count alike
    };
    for (int i = 0; i < MMA_STAGES - 1; i++) load(unit.first + i);

    float acc[4][4][4] = {};
    for (int block = unit.first; block < unit.last; block++) {
        ptx::cp_async_wait<MMA_STAGES - 2>();
        __syncthreads();
        load(block + MMA_STAGES - 1);
        int stage = (block - unit.first) % MMA_STAGES;
#pragma unroll
        for (int k = 0; k < MMA_TILE_K; k += 16) {
            uint32_t a_fragment[4][4], b_fragment[2][4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                load_fragment<A_M_MAJOR, true>(a_fragment[i], shared->a[stage], warp_row + 16 * i, k);
            }
#pragma unroll
            for (int j = 0; j < 2; j++) {
                load_fragment<B_N_MAJOR, false>(b_fragment[j], shared->b[stage], warp_column + 16 * j, k);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const uint32_t* half = b_fragment[j / 2] + j % 2 * 2;
                    ptx::mma_m16n8k16(acc[i][j], a_fragment[i], half[0], half[1]);
                }
            }
        }
    }

    int row = warp_row + lane_id() / 4, pair = 2 * (lane_id() % 4);
    if constexpr (WEIGHT) {
        float* to = out + int64_t(unit.split) * rows * columns;
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int at_row = unit.row + row + 16 * i, at_column = unit.column + warp_column + 8 * j + pair;
                store_pair<ALIGNED>(to, at_row, at_column, rows, columns, acc[i][j][0], acc[i][j][1]);
                store_pair<ALIGNED>(to, at_row + 8, at_column, rows, columns, acc[i][j][2], acc[i][j][3]);
            }
        }
    } else {
        __syncthreads();  // the last tiles have been read
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int column = warp_column + 8 * j, at_column = unit.column + column + pair;
            float low = epilogue.bias && at_column < columns ? float(epilogue.bias[at_column]) : 0.f;
            float high = epilogue.bias && at_column + 1 < columns ? float(epilogue.bias[at_column + 1]) : 0.f;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t upper = ptx::cvt_bf16x2(acc[i][j][0] + low, acc[i][j][1] + high);
                uint32_t lower = ptx::cvt_bf16x2(acc[i][j][2] + low, acc[i][j][3] + high);
                bf16* staging = shared->staging + pair;
                *reinterpret_cast<uint32_t*>(staging + staged_chunk<MMA_TILE>(row + 16 * i, column / 8)) = upper;
                *reinterpret_cast<uint32_t*>(staging + staged_chunk<MMA_TILE>(row + 16 * i + 8, column / 8)) = lower;
            }
        }
        epilogue_store<MMA_TILE, MMA_THREADS, ALIGNED>(shared->staging, epilogue, unit.row, unit.column, rows, columns,
                                                       threadIdx.x, [] { __syncthreads(); });
    }
}
