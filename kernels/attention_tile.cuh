// Tiles of one head's rows in shared memory: how they lie, and their ways from global memory, to the tensor cores and
// back.
#pragma once
#include "common.cuh"

// Rows of the tile that a warp owns, and of one step over the other side.
constexpr int STEP = 16;
constexpr float LOG2_E = 1.4426950408889634f;

// Lane l of a warp holds, of an accumulator tile of 16 rows, rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next
// of each group of 8 (ptx::mma_m16n8k16).
DEVICE int lane_row() { return lane_id() >> 2; }
DEVICE int lane_pair() { return lane_id() & 3; }

// The same in all lanes, and the compiler knows: it then needs no provision for divergent branches around collectives.
DEVICE int uniform_warp_id() { return __shfl_sync(ALL_LANES, warp_id(), 0); }

DEVICE int round_up(int n, int to) { return (n + to - 1) / to * to; }

// One head's matrix in global memory: `rows` rows of `columns` values, `stride` values apart.
struct HeadMatrix {
    const bf16* data;
    int stride;
    int rows;
    int columns;
};

// Where 8 values (16 bytes, a chunk) of a row lie in a shared tile with rows of DIM values, 64 or 128. ldmatrix reads
// the same chunk of eight rows at once; the exclusive or puts those into different banks.
template <int DIM>
DEVICE int place(int row, int chunk) {
    return row * DIM + (chunk ^ (row & 7)) * 8;
}

// Begins the copy of rows `first` to `first + count - 1` to a tile, shared between `threads` threads of which this is
// `thread`. Rows and columns past the matrix become zeros.
template <int DIM>
DEVICE void copy_rows(bf16* tile, const HeadMatrix& from, int first, int count, int thread, int threads) {
    constexpr int CHUNKS = DIM / 8;
    int chunk = thread % CHUNKS, step = threads / CHUNKS;
    bool column_exists = chunk * 8 < from.columns;
    const bf16* source = from.data + int64_t(first + thread / CHUNKS) * from.stride + chunk * 8;
#pragma unroll 1
    for (int row = thread / CHUNKS; row < count; row += step, source += step * from.stride) {
        bool valid = column_exists && first + row < from.rows;
        ptx::cp_async16(tile + place<DIM>(row, chunk), valid ? source : from.data, valid);
    }
}

// Waits until at most `pending` (3 when it is more) of the thread's copy groups are under way.
DEVICE void wait_for_copies(int pending) {
    if (pending <= 0) {
        ptx::cp_async_wait<0>();
    } else if (pending == 1) {
        ptx::cp_async_wait<1>();
    } else if (pending == 2) {
        ptx::cp_async_wait<2>();
    } else {
        ptx::cp_async_wait<3>();
    }
}

// Fragments of 16 rows at `rows` (a multiple of 8 rows into a tile) and 16 columns, number `k` along the row. In an
// address, `16 k` may be xor-ed in last because it only reaches bits of the chunk that the lane's part leaves zero or
// swizzled.

// Operand a of a product over columns: 16 rows of the result.
template <int DIM>
DEVICE void load_rows(uint32_t (&fragment)[4], const bf16* rows, int k) {
    int lane = lane_id();
    ptx::ldmatrix_x4(fragment, rows + (place<DIM>((lane >> 3 & 1) * 8 + (lane & 7), lane >> 4) ^ 16 * k));
}

// Operand b of a product over columns: the rows are 16 columns of the result, b0 and b1 of the first eight, then of the
// rest.
template <int DIM>
DEVICE void load_columns(uint32_t (&fragment)[4], const bf16* rows, int k) {
    int lane = lane_id();
    ptx::ldmatrix_x4(fragment, rows + (place<DIM>((lane >> 4) * 8 + (lane & 7), lane >> 3 & 1) ^ 16 * k));
}

// Operand b of a product over rows: the columns are 16 columns of the result, likewise.
template <int DIM>
DEVICE void load_depth(uint32_t (&fragment)[4], const bf16* rows, int k) {
    int lane = lane_id();
    ptx::ldmatrix_x4_trans(fragment, rows + (place<DIM>((lane >> 3 & 1) * 8 + (lane & 7), lane >> 4) ^ 16 * k));
}

// 16 rows as operand a: in registers, or, where those are short, read again at each use.
template <int DIM, bool IN_REGISTERS = (DIM <= 64)>
struct OwnRows;

template <int DIM>
struct OwnRows<DIM, true> {
    uint32_t fragment[DIM / 16][4];

    __device__ __forceinline__ void load(const bf16* rows) {
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) load_rows<DIM>(fragment[k], rows, k);
    }
    __device__ __forceinline__ void get(uint32_t (&a)[4], int k) const {
#pragma unroll
        for (int i = 0; i < 4; i++) a[i] = fragment[k][i];
    }
};

template <int DIM>
struct OwnRows<DIM, false> {
    const bf16* rows;

    __device__ __forceinline__ void load(const bf16* from) { rows = from; }
    __device__ __forceinline__ void get(uint32_t (&a)[4], int k) const { load_rows<DIM>(a, rows, k); }
};

// The 16 x 16 accumulators of two groups of 8 columns as operand a of the next product, rounded to bf16.
DEVICE void to_operand(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = ptx::cvt_bf16x2(left[0], left[1]);
    a[1] = ptx::cvt_bf16x2(left[2], left[3]);
    a[2] = ptx::cvt_bf16x2(right[0], right[1]);
    a[3] = ptx::cvt_bf16x2(right[2], right[3]);
}

// Transposes a 4 x 4 matrix that four neighbouring lanes hold, a row each.
DEVICE void transpose4(uint32_t (&word)[4]) {
    bool odd = lane_id() & 1, upper = lane_id() & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        uint32_t other = __shfl_xor_sync(ALL_LANES, odd ? word[i] : word[i + 1], 1);
        word[i] = odd ? other : word[i];
        word[i + 1] = odd ? word[i + 1] : other;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t other = __shfl_xor_sync(ALL_LANES, upper ? word[i] : word[i + 2], 2);
        word[i] = upper ? other : word[i];
        word[i + 2] = upper ? word[i + 2] : other;
    }
}

// The warp's 16 accumulator rows, times a factor for each of the lane's two rows, as bf16 to rows `first` and on of
// `to`.
// Four lanes gather 16 bytes each, so that a row's pieces of 64 bytes are written whole.
template <int DIM>
DEVICE void store_rows(bf16* to, int stride, int first, int rows, int columns, const float (&sum)[DIM / 8][4],
                       const float (&factor)[2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = first + lane_row() + 8 * half;
#pragma unroll
        for (int j = 0; j < DIM / 8; j += 4) {
            Pack8 pack;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float* pair = sum[j + i] + 2 * half;
                pack.word[i] = ptx::cvt_bf16x2(pair[0] * factor[half], pair[1] * factor[half]);
            }
            transpose4(pack.word);
            int column = (j + lane_pair()) * 8;
            if (row < rows && column < columns) store8(to + int64_t(row) * stride + column, pack);
        }
    }
}
