// What the two families of product kernels share: the order of the tiles, and what follows a product.
#pragma once
#include "common.cuh"

// What follows C = A B + bias.
enum class EpilogueKind : int {
    NONE,                 // out = C
    GELU,                 // pre = C, out = pre Phi(pre)
    QUICK_GELU,           // pre = C, out = pre sigmoid(1.702 pre)
    RESIDUAL,             // out = C + other
    GELU_BACKWARD,        // out = C gelu'(other)
    QUICK_GELU_BACKWARD,  // out = C quick_gelu'(other)
};

// A kind that is known when the kernel is compiled: of the others nothing is left in it.
template <EpilogueKind KIND>
struct Known {
    __device__ constexpr operator EpilogueKind() const { return KIND; }
};

// KIND: Known, or EpilogueKind where it is known at the launch alone.
template <class Kind>
struct Epilogue {
    Kind kind;
    const bf16* bias;   // [columns], or null
    const bf16* other;  // [rows, columns]: what RESIDUAL adds, or the forward pass's `pre`; else null
    bf16* pre;          // [rows, columns]: what the activations keep; else null
    bf16* out;          // [rows, columns]

    __device__ constexpr bool keeps_pre() const {
        return kind == EpilogueKind::GELU || kind == EpilogueKind::QUICK_GELU;
    }
    __device__ constexpr bool reads_other() const { return kind != EpilogueKind::NONE && !keeps_pre(); }
};
using NoEpilogue = Epilogue<Known<EpilogueKind::NONE>>;

// The activations are right, relative to themselves, to 4e-5 and the rounding to bf16 (2^-8), for every bf16 down to where the
// result is no normal number, 2^-126; what is smaller may be 0. Beside its zero the derivative of quick_gelu is a sum of terms
// near 1, and right to 2^-23. Infinities and NaNs give what the formulas give in IEEE arithmetic: gelu(inf) = inf, gelu(-inf)
// = NaN as -inf times 0. tests/cuda/activations.rs holds all 65,536 to it.
//
// What decays is computed as such, so that no digits cancel in the tail of negative x: 2 to the power of a polynomial in
// |x|, which benches/activations.py fits. A value takes one ex2 and no rcp: MUFU gives 16 results a cycle where FMA gives
// 128. The polynomials have negative leading coefficients and go to -inf beyond the range of the fit, so nothing is clamped.
// The powers are 16 or 64 times what they stand for, so that ex2 and rcp do not flush them to 0 before the results are.

// 16 Phi(-a), a >= 0. Phi is the distribution function of the standard normal.
DEVICE float normal_tail(float a) {
    float log2 = -1.91234717e-09f;
    log2 = fmaf(log2, a, 1.39714587e-07f);
    log2 = fmaf(log2, a, -4.48830951e-06f);
    log2 = fmaf(log2, a, 8.39236163e-05f);
    log2 = fmaf(log2, a, -0.00102276693f);
    log2 = fmaf(log2, a, 0.0086739352f);
    log2 = fmaf(log2, a, -0.0539711937f);
    log2 = fmaf(log2, a, -0.458776951f);
    log2 = fmaf(log2, a, -1.15098643f);
    log2 = fmaf(log2, a, 2.9999702f);
    return ptx::ex2(log2);
}

DEVICE float gelu(float x) {
    float tail = normal_tail(fabsf(x));
    return x * 0.0625f * (x < 0.f ? tail : 16.f - tail);
}

// Phi(x) + x phi(x), which is 1 less that of -x. Its zero is a factor, so that it is right beside it.
DEVICE float gelu_derivative(float x) {
    float a = fabsf(x);
    float log2 = -4.65243885e-11f;
    log2 = fmaf(log2, a, 3.83202625e-09f);
    log2 = fmaf(log2, a, -1.39851963e-07f);
    log2 = fmaf(log2, a, 2.98750888e-06f);
    log2 = fmaf(log2, a, -4.16336989e-05f);
    log2 = fmaf(log2, a, 0.000400369667f);
    log2 = fmaf(log2, a, -0.00275217299f);
    log2 = fmaf(log2, a, 0.0139123341f);
    log2 = fmaf(log2, a, -0.0532592796f);
    log2 = fmaf(log2, a, -0.561915338f);
    log2 = fmaf(log2, a, -0.382835656f);
    log2 = fmaf(log2, a, 3.41157913f);
    float power = ptx::ex2(log2), to_zero = fmaf(a, -0.0625f, 0.0469869703f);
    // Fused in so many words, so that all kernels that have this have the same bits.
    return x < 0.f ? to_zero * power : fmaf(-to_zero, power, 1.f);
}

// 64 sigmoid(1.702 x)
DEVICE float quick_gate(float x) { return ptx::rcp(0.015625f + ptx::ex2(fmaf(x, -2.45546696f, -6.f))); }

DEVICE float quick_gelu(float x) { return x * 0.015625f * quick_gate(x); }

DEVICE float quick_gelu_derivative(float x) {
    float gate = quick_gate(x);
    return gate * fmaf(x * (1.702f / 64.f), fmaf(gate, -0.015625f, 1.f), 0.015625f);
}

// Eight values of the product as they leave; `other` where the kind has one.
template <class Kind>
DEVICE Pack8 epilogue_apply(Kind kind, const Pack8& product, const Pack8& other) {
    if (kind == EpilogueKind::NONE) return product;
    float v[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float x = product.get(i);
        switch (kind) {
            case EpilogueKind::GELU: v[i] = gelu(x); break;
            case EpilogueKind::QUICK_GELU: v[i] = quick_gelu(x); break;
            case EpilogueKind::RESIDUAL: v[i] = x + other.get(i); break;
            case EpilogueKind::GELU_BACKWARD: v[i] = x * gelu_derivative(other.get(i)); break;
            default: v[i] = x * quick_gelu_derivative(other.get(i));
        }
    }
    return pack_values(v);
}

// A tile waits for its epilogue as bf16 in shared memory, row after row, the 16-byte chunks of a row exchanged so that
// neither the fragments (8 rows x 4 bytes x 4 lanes) nor whole rows of chunks meet in a bank. Element (row, 8 chunk).
template <int TILE_N>
DEVICE int staged_chunk(int row, int chunk) {
    return (row * (TILE_N / 8) + (chunk ^ (row & 7))) * 8;
}

// Up to eight values from a row whose width need not be a multiple of eight; zeros after `count`.
DEVICE Pack8 load_some(const bf16* from, int count) {
    Pack8 pack;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t low = 2 * i < count ? from[2 * i].bits : 0, high = 2 * i + 1 < count ? from[2 * i + 1].bits : 0;
        pack.word[i] = low | high << 16;
    }
    return pack;
}
DEVICE void store_some(bf16* to, const Pack8& pack, int count) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if (i < count) to[i].bits = uint16_t(pack.word[i / 2] >> (i & 1 ? 16 : 0));
    }
}

// Rows of a thread that epilogue_store takes at a time. RESIDUAL computes least, and waits for memory instead.
template <class Kind>
struct Batch {
    static constexpr int ROWS = 1;
};
template <EpilogueKind KIND>
struct Batch<Known<KIND>> {
    static constexpr int ROWS = KIND == EpilogueKind::RESIDUAL ? 8 : 4;
};

// `THREADS` threads take a staged tile of 128 x TILE_N through its epilogue to memory, in 16-byte accesses that are
// consecutive over a warp. `ready` waits until the tile is staged. ALIGNED: `columns` is a multiple of eight.
//
// In the wgmma kernels a warp of these is alone on its scheduler: while it waits, nothing else is issued. So a thread takes
// rows in batches that have no branch in them, and whose rows fill each other's waits; what a batch needs is asked for
// while the one before it is computed. Rows below the tile or the matrix are computed from zeros and not stored.
template <int TILE_N, int THREADS, bool ALIGNED, class Kind, class Ready>
DEVICE void epilogue_store(const bf16* staged, const Epilogue<Kind>& epilogue, int first_row, int first_column, int rows,
                           int columns, int thread, Ready ready) {
    constexpr int CHUNKS = TILE_N / 8;
    constexpr int ROWS = THREADS / CHUNKS;  // from a row of a thread to its next one
    constexpr int BATCH = ALIGNED ? Batch<Kind>::ROWS : 1;
    static_assert(THREADS % CHUNKS == 0, "a thread keeps its columns");
    int chunk = thread % CHUNKS, row = thread / CHUNKS;
    int column = first_column + 8 * chunk;
    int count = columns - column;
    int height = count <= 0 ? 0 : rows - first_row < 128 ? rows - first_row : 128;
    int64_t at = int64_t(first_row + row) * columns + column;
    const int64_t step = int64_t(ROWS) * columns;

    // The batch that is `ahead` batches further on: what memory has of it, and what was staged.
    auto fetch = [&](Pack8(&other)[BATCH], int ahead) {
        if (!epilogue.reads_other()) return;
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int further = ahead * BATCH + i;
            const bf16* from = epilogue.other + at + further * step;
            if (row + further * ROWS < height) other[i] = ALIGNED ? load8(from) : load_some(from, count);
        }
    };
    auto unstage = [&](Pack8(&product)[BATCH], int ahead) {
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int from = row + (ahead * BATCH + i) * ROWS;
            product[i] = from < height ? load8(staged + staged_chunk<TILE_N>(from, chunk)) : Pack8{};
        }
    };
    // Addresses are computed outside of conditions, so that a load or a store is all that a condition guards: no branch.
    auto store = [&](bf16* to, int i, const Pack8& pack) {
        to += at + i * step;
        bool inside = row + i * ROWS < height;
        if (ALIGNED && inside) store8(to, pack);
        if (!ALIGNED && inside) store_some(to, pack, count);
    };
    auto finish = [&](const Pack8(&product)[BATCH], const Pack8(&other)[BATCH]) {
        Pack8 out[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) out[i] = epilogue_apply(epilogue.kind, product[i], other[i]);
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            if (epilogue.keeps_pre()) store(epilogue.pre, i, product[i]);
            store(epilogue.out, i, out[i]);
        }
        row += BATCH * ROWS;
        at += BATCH * step;
    };
    if (epilogue.reads_other()) {
        Pack8 next[BATCH] = {};
        fetch(next, 0);
        ready();
#pragma unroll 1
        while (true) {
            // A copy, and a branch after the loads, which the compiler would else move down to where they are used.
            Pack8 product[BATCH], other[BATCH];
#pragma unroll
            for (int i = 0; i < BATCH; i++) other[i] = next[i];
            fetch(next, 1);
            if (row >= height) break;
            unstage(product, 0);
            finish(product, other);
        }
    } else {
        Pack8 even[BATCH], odd[BATCH], none[BATCH] = {};
        ready();
        unstage(even, 0);
#pragma unroll 1
        while (row < height) {
            unstage(odd, 1);
            finish(even, none);
            if (row >= height) break;
            unstage(even, 1);
            finish(odd, none);
        }
    }
}

// One unit of work: a tile of the output, and the blocks of the depth that it sums.
struct Unit {
    int split;
    int row, column;  // the tile's first
    int first, last;  // blocks [first, last) of the depth
};

// A product cut into units, and their order, which keeps what runs at the same time in few rows and columns, so that
// their operands are read from memory once and then from the L2 cache: splits of the depth outermost, then groups of 16
// rows of tiles, in a group column after column. A split has at least one block where `splits` <= `blocks`.
struct Units {
    int tile_rows, tile_columns;
    int row_tiles, column_tiles;
    int splits;
    int blocks;  // of the depth
    int count;

    __device__ __forceinline__ Units(int rows, int columns, int depth, int tile_rows, int tile_columns, int tile_depth,
                                     int splits)
        : tile_rows(tile_rows),
          tile_columns(tile_columns),
          row_tiles((rows + tile_rows - 1) / tile_rows),
          column_tiles((columns + tile_columns - 1) / tile_columns),
          splits(splits),
          blocks((depth + tile_depth - 1) / tile_depth),
          count(row_tiles * column_tiles * splits) {}

    __device__ __forceinline__ Unit operator[](int index) const {
        constexpr int GROUP = 16;
        int split = index / (row_tiles * column_tiles);
        index -= split * row_tiles * column_tiles;
        int top = index / (GROUP * column_tiles) * GROUP;
        index -= top * column_tiles;
        int height = row_tiles - top < GROUP ? row_tiles - top : GROUP;
        Unit unit;
        unit.split = split;
        unit.row = (top + index % height) * tile_rows;
        unit.column = index / height * tile_columns;
        int share = blocks / splits, larger = blocks % splits;  // the first splits take one block more
        unit.first = split * share + (split < larger ? split : larger);
        unit.last = unit.first + share + (split < larger ? 1 : 0);
        return unit;
    }
};

// Two neighbouring values of an f32 output. ALIGNED: `columns` is even, and so is `column`.
template <bool ALIGNED>
DEVICE void store_pair(float* out, int row, int column, int rows, int columns, float first, float second) {
    if (row >= rows || column >= columns) return;
    float* to = out + int64_t(row) * columns + column;
    if (ALIGNED) {
        struct alignas(8) Pair {
            float first, second;
        };
        *reinterpret_cast<Pair*>(to) = Pair{first, second};
    } else {
        to[0] = first;
        if (column + 1 < columns) to[1] = second;
    }
}

// Where threads that each summed eight columns of some rows meet: thread t has columns 8 (t % (columns / 8)) and on, those with
// the same columns have other rows. A column's eight places are four banks apart, so that neither the threads' own sums nor
// those of neighbouring columns lie in one bank.
template <int THREADS>
struct EightColumnSums {
    float sum[8][THREADS + 4];

    __device__ __forceinline__ void put(int thread, const float (&sums)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i][thread] = sums[i];
    }
    // After a barrier: the sum of a column, in the order of the threads.
    template <int COLUMNS>
    __device__ __forceinline__ float total(int column) const {
        float total = 0.f;
#pragma unroll
        for (int first = 0; first < THREADS; first += COLUMNS / 8) total += sum[column % 8][first + column / 8];
        return total;
    }
};
