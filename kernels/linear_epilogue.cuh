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

struct Epilogue {
    EpilogueKind kind;
    const bf16* bias;   // [columns], or null
    const bf16* other;  // [rows, columns]: what RESIDUAL adds, or the forward pass's `pre`; else null
    bf16* pre;          // [rows, columns]: what the activations keep; else null
    bf16* out;          // [rows, columns]
};

// Phi(x), the distribution function of the standard normal, and e^(-x^2/2).
//
// The tail Phi(-|x|) = e^(-x^2/2) erfcx(|x| / sqrt 2) / 2 is computed as such, so that no digits cancel for negative x.
// erfcx(z) is a polynomial in 1 / (1 + 0.54 z), minimax in relative error: 4e-5, a fiftieth of a bf16's rounding.
DEVICE float normal_cdf(float x, float& gaussian) {
    gaussian = ptx::ex2(x * x * -0.72134752f);
    float t = ptx::rcp(fmaf(fabsf(x), 0.38183766f, 1.f));
    float erfcx = fmaf(fmaf(fmaf(-0.17879754f, t, 0.36851827f), t, 0.19053784f), t, 0.31566037f);
    erfcx = fmaf(erfcx, t, 0.30404215f) * t;
    float tail = 0.5f * gaussian * erfcx;
    return x < 0.f ? tail : 1.f - tail;
}

DEVICE float gelu(float x) {
    float gaussian;
    return x * normal_cdf(x, gaussian);
}

// Phi(x) + x phi(x).
DEVICE float gelu_derivative(float x) {
    float gaussian;
    float cdf = normal_cdf(x, gaussian);
    return fmaf(x * 0.39894228f, gaussian, cdf);
}

// sigmoid(1.702 x)
DEVICE float quick_gate(float x) { return ptx::rcp(1.f + ptx::ex2(x * -2.45546696f)); }

DEVICE float quick_gelu(float x) { return x * quick_gate(x); }

DEVICE float quick_gelu_derivative(float x) {
    float gate = quick_gate(x);
    return gate * fmaf(1.702f * x, 1.f - gate, 1.f);
}

// Eight values of the product as they leave; `other` where the kind has one. The switch is uniform over the grid.
DEVICE Pack8 epilogue_apply(EpilogueKind kind, const Pack8& product, const Pack8& other) {
    if (kind == EpilogueKind::NONE) return product;
    float v[8];
    switch (kind) {
        case EpilogueKind::GELU:
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = gelu(product.get(i));
            break;
        case EpilogueKind::QUICK_GELU:
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = quick_gelu(product.get(i));
            break;
        case EpilogueKind::RESIDUAL:
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = product.get(i) + other.get(i);
            break;
        case EpilogueKind::GELU_BACKWARD:
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = product.get(i) * gelu_derivative(other.get(i));
            break;
        default:
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = product.get(i) * quick_gelu_derivative(other.get(i));
    }
    return pack8(v);
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

// `THREADS` threads take a staged tile of 128 x TILE_N through its epilogue to memory, in 16-byte accesses that are
// consecutive over a warp. `ready` waits until the tile is staged; what is read from memory is asked for before, and
// then always one batch ahead. ALIGNED: `columns` is a multiple of eight.
template <int TILE_N, int THREADS, bool ALIGNED, class Ready>
DEVICE void epilogue_store(const bf16* staged, const Epilogue& epilogue, int first_row, int first_column, int rows,
                           int columns, int thread, Ready ready) {
    constexpr int CHUNKS = TILE_N / 8;
    constexpr int ROWS = THREADS / CHUNKS;  // at a time
    constexpr int BATCH = ALIGNED ? 4 : 1;
    static_assert(THREADS % CHUNKS == 0, "a thread keeps its columns");
    int chunk = thread % CHUNKS;
    int column = first_column + 8 * chunk;
    int count = columns - column;
    int height = count <= 0 ? 0 : rows - first_row < 128 ? rows - first_row : 128;
    const int64_t corner = int64_t(first_row) * columns + column;

    auto fetch = [&](Pack8(&other)[BATCH], int first) {
        if (!epilogue.other) return;
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int row = first + i * ROWS;
            if (row >= height) continue;
            const bf16* from = epilogue.other + corner + int64_t(row) * columns;
            other[i] = ALIGNED ? load8(from) : load_some(from, count);
        }
    };
    Pack8 next[BATCH] = {};
    fetch(next, thread / CHUNKS);
    ready();
#pragma unroll 1
    for (int first = thread / CHUNKS; first < height; first += BATCH * ROWS) {
        Pack8 other[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) other[i] = next[i];
        fetch(next, first + BATCH * ROWS);
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int row = first + i * ROWS;
            if (row >= height) continue;
            int64_t at = corner + int64_t(row) * columns;
            Pack8 product = load8(staged + staged_chunk<TILE_N>(row, chunk));
            Pack8 out = epilogue_apply(epilogue.kind, product, other[i]);
            if (ALIGNED) {
                if (epilogue.pre) store8(epilogue.pre + at, product);
                store8(epilogue.out + at, out);
            } else {
                if (epilogue.pre) store_some(epilogue.pre + at, product, count);
                store_some(epilogue.out + at, out, count);
            }
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
