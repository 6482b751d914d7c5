// A tile of similarities of the contrastive objectives: how operands come in, the product, and how it lies in shared memory.
#pragma once
#include "common.cuh"

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

// Texts and images of one tile, and the columns of the operands that one step takes.
constexpr int TILE = 64;
constexpr int TILE_THREADS = 256;
// Steps in flight or in use: one is multiplied while two are on their way.
constexpr int STAGES = 3;
// bf16 of one operand in one step, and of the whole ring (text and image side by side in each stage).
constexpr int CHUNK = TILE * TILE;
constexpr int RING = STAGES * 2 * CHUNK;
// f32 from one text's similarities to the next one's: 272 bytes shift neighbouring rows by 16 bytes against the banks.
constexpr int SIMILARITY_STRIDE = TILE + 4;
constexpr int SIMILARITIES = TILE * SIMILARITY_STRIDE;

// What is excluded by nobody: no key of a sample, a text or a class under Negatives::All or Others.
constexpr uint32_t NOBODY = 0xffffffffu;
enum class Negatives : int { ALL, OTHERS, OTHER_CLASSES };

// The samples that share one text: places [first, end) in the order by text. `key` is what image anchors exclude texts by.
struct alignas(16) TextRecord {
    uint32_t first, end, key, unused;
};

// A sample as image: `key` is what text anchors exclude images by; `refused` the key of texts that do not count for its own
// image anchor; `text` its text.
struct alignas(16) ImageRecord {
    float positive;
    uint32_t text, key, refused;
};

// phi, in the exponents of 2 that the tiles work with.
struct Surrogate {
    float margin;
    int hinge;
    // log2(e) / tau.
    float scale;

    // phi(x) log2(e) / tau
    __device__ __forceinline__ float exponent(float x) const {
        float reach = fmaxf(margin + x, 0.f);
        return (hinge ? reach * reach : x) * scale;
    }
    // phi'(x)
    __device__ __forceinline__ float slope(float x) const { return hinge ? 2.f * fmaxf(margin + x, 0.f) : 1.f; }
};

DEVICE Surrogate surrogate(int hinge, float margin, const float* log_scale) {
    Surrogate phi;
    phi.margin = margin;
    phi.hinge = hinge;
    phi.scale = expf(*log_scale) * LOG2_E;
    return phi;
}

// Where 8 values (16 bytes, a unit) of a row lie in a tile with rows of `UNITS` units. ldmatrix reads the same unit of eight
// rows at once; the exclusive or puts those into different banks.
template <int UNITS>
DEVICE int place(int row, int unit) {
    return (row * UNITS + (unit ^ (row & 7))) * 8;
}

// Begins the copy of 64 rows and 8 UNITS columns of a matrix [rows, width], zeros outside of it. Rows that do not start on 16
// bytes are copied value by value, and are there at once.
template <int UNITS>
DEVICE void load_tile(bf16* to, const bf16* matrix, int rows, int width, int first_row, int first_column) {
    // A thread's rows are a multiple of 8 apart: the same place in the swizzle, so that addresses only advance.
    constexpr int ROWS = TILE_THREADS / UNITS;
    static_assert(ROWS % 8 == 0, "place() repeats every 8 rows");
    int row = threadIdx.x / UNITS, unit = threadIdx.x % UNITS;
    int column = first_column + unit * 8;
    // Of the thread's rows, those before this one are inside.
    int rows_left = column < width ? rows - first_row - row : 0;
    const bf16* from = matrix + (int64_t(first_row + row) * width + column);
    to += place<UNITS>(row, unit);
    if (width % 8 == 0) {
#pragma unroll
        for (int i = 0; i < TILE; i += ROWS) {
            ptx::cp_async16(to + i * UNITS * 8, i < rows_left ? from : matrix, i < rows_left);
            from += int64_t(ROWS) * width;
        }
    } else {
#pragma unroll 1
        for (int i = 0; i < TILE; i += ROWS) {
            float value[8];
#pragma unroll
            for (int k = 0; k < 8; k++) value[k] = i < rows_left && column + k < width ? float(from[k]) : 0.f;
            store8(to + i * UNITS * 8, pack_values(value));
            from += int64_t(ROWS) * width;
        }
    }
}

// First text and first image of a tile.
struct TileOrigin {
    int text, image;
};

// Accumulators of a tile of similarities: warp w holds texts 32 (w % 2) to + 31 and images 16 (w / 2) to + 15, as 2 by 2 tiles
// of ptx::mma_m16n8k16.
struct Similarities {
    float sum[2][2][4];
};

// The operands of a sequence of tiles, in steps of 64 columns, on their way through a ring of STAGES steps.
struct TileStream {
    const bf16* text;
    const bf16* image;
    int texts, samples, width;
    bf16* ring;
    int tiles;
    int steps_per_tile;
    // The stage that is multiplied next, and the step that is fetched next.
    int stage, fetch_stage, fetch_tile, fetch_step;

    // Fetches the next step, if any is left; the caller commits.
    template <class Origin>
    __device__ __forceinline__ void fetch(const Origin& origin) {
        if (fetch_tile < tiles) {
            TileOrigin at = origin(fetch_tile);
            bf16* to = ring + fetch_stage * 2 * CHUNK;
            load_tile<TILE / 8>(to, text, texts, width, at.text, fetch_step * TILE);
            load_tile<TILE / 8>(to + CHUNK, image, samples, width, at.image, fetch_step * TILE);
        }
        fetch_stage = fetch_stage + 1 == STAGES ? 0 : fetch_stage + 1;
        if (++fetch_step == steps_per_tile) {
            fetch_step = 0;
            fetch_tile++;
        }
    }

    // Starts the first steps of the first tile: tile n has its corner at origin(n).
    template <class Origin>
    __device__ __forceinline__ void start(const Origin& origin) {
        steps_per_tile = (width + TILE - 1) / TILE;
        stage = fetch_stage = fetch_tile = fetch_step = 0;
        for (int i = 0; i < STAGES - 1; i++) {
            fetch(origin);
            ptx::cp_async_commit();
        }
    }

    // The next tile. `beside()` begins the tile's other copies: it is called when all threads are done with the tile before,
    // and what it copies is there for the thread itself when this returns, for the others after the next __syncthreads.
    template <class Origin, class Beside>
    __device__ __forceinline__ Similarities multiply(const Origin& origin, const Beside& beside) {
        Similarities result;
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 2; j++)
#pragma unroll
                for (int k = 0; k < 4; k++) result.sum[i][j][k] = 0.f;
        for (int step = 0; step < steps_per_tile; step++) {
            // This step is here, and every thread is done with the stage that the next copy overwrites.
            ptx::cp_async_wait<STAGES - 2>();
            __syncthreads();
            fetch(origin);
            if (step == 0) beside();
            ptx::cp_async_commit();
            multiply_step(result);
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
        // With STAGES steps or more the waits above have seen the group of `beside`.
        if (steps_per_tile < STAGES) ptx::cp_async_wait<0>();
        return result;
    }

    __device__ __forceinline__ void multiply_step(Similarities& result) const {
        const bf16* texts_in = ring + stage * 2 * CHUNK;
        const bf16* images_in = texts_in + CHUNK;
        int lane = lane_id();
        // 16 columns further is an exclusive or with 16 values, in the swizzle of place(); 16 rows further, the same place.
        int text_place = place<TILE / 8>((warp_id() & 1) * 32 + (lane & 15), lane >> 4);
        int image_place = place<TILE / 8>((warp_id() >> 1) * 16 + (lane & 7) + (lane >> 4) * 8, lane >> 3 & 1);
#pragma unroll
        for (int k = 0; k < TILE; k += 16) {
            uint32_t b[4];
            ptx::ldmatrix_x4(b, images_in + (image_place ^ k));
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint32_t a[4];
                ptx::ldmatrix_x4(a, texts_in + (text_place ^ k) + 16 * i * TILE);
                ptx::mma_m16n8k16(result.sum[i][0], a, b[0], b[1]);
                ptx::mma_m16n8k16(result.sum[i][1], a, b[2], b[3]);
            }
        }
    }
};

// Puts a tile into shared memory, [text][image] with rows of SIMILARITY_STRIDE.
DEVICE void store_similarities(float* tile, const Similarities& values) {
    int lane = lane_id();
    int text = (warp_id() & 1) * 32 + (lane >> 2);
    int image = (warp_id() >> 1) * 16 + (lane & 3) * 2;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float* to = tile + (text + 16 * i + 8 * half) * SIMILARITY_STRIDE + image + 8 * j;
                to[0] = values.sum[i][j][2 * half];
                to[1] = values.sum[i][j][2 * half + 1];
            }
}
