// The second pass: tiles of dS, multiplied as soon as they are made.
#pragma once
#include "contrastive_tile.cuh"

// Columns of the gradient that one block holds.
constexpr int SLICE = 256;
// bf16 from one text's dS to the next one's; the lower parts follow the 64 upper ones.
constexpr int GRADIENT_STRIDE = 2 * SIMILARITY_STRIDE;

// Of a sample as image anchor: its weights are factor 2^(z - offset); `pull` is the row sum at its own text.
struct alignas(16) ImageWeight {
    float offset, factor, pull, unused;
};

// A sample as text anchor: its weights are factor 2^(z - offset); images with the key `refused` have none.
struct alignas(16) WeightedAnchor {
    float positive, offset, factor;
    uint32_t refused;
};

// 99 KiB, all that GPUs of compute capability 8.6 and 8.9 have for a block: so records of texts lie between the rows of
// similarities.
struct GradientShared {
    bf16 ring[RING];
    bf16 opponents[TILE * SLICE];
    float similarity[SIMILARITIES];
    ImageRecord images[TILE];
    ImageWeight weights[TILE];
};
constexpr int GRADIENT_SHARED = 99 * 1024;
static_assert(sizeof(GradientShared) == GRADIENT_SHARED, "what the launch asks for");

// The record of the tile's text `row`: behind its similarities, where no bank needs anything.
DEVICE TextRecord* text_record(GradientShared* shared, int row) {
    static_assert((SIMILARITY_STRIDE - TILE) * sizeof(float) == sizeof(TextRecord), "the gap holds a record");
    return reinterpret_cast<TextRecord*>(shared->similarity + row * SIMILARITY_STRIDE + TILE);
}

// Replaces similarities by dS. Warp w takes texts 8 w to 8 w + 7, lane l of it images 2 l and 2 l + 1; a warp's rows are
// read and written by nobody else. Anchors come 32 at a time, one a lane, and go round by shuffles.
DEVICE void differentiate(GradientShared* shared, const WeightedAnchor* anchors, const Surrogate& phi, TileOrigin at,
                          int samples, int text_count, bool excludes_one) {
    int lane = lane_id();
    int text = warp_id() * 8;
    int texts_end = min(text + 8, text_count - at.text);
    if (text >= texts_end) {
        // Rows of no text: zeros, which the product still reads.
        for (int row = text; row < text + 8; row++) {
            uint32_t* to = reinterpret_cast<uint32_t*>(shared->similarity + row * SIMILARITY_STRIDE);
            to[lane] = to[lane + 32] = 0;
        }
        return;
    }
    ImageRecord image[2];
    ImageWeight weight[2];
    bool valid[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        image[i] = shared->images[2 * lane + i];
        weight[i] = shared->weights[2 * lane + i];
        valid[i] = at.image + 2 * lane + i < samples;
    }
    int first = text_record(shared, text)->first;
    int place = first;
    WeightedAnchor held = anchors[min(place + lane, samples - 1)];
    for (int row = text; row < text + 8; row++) {
        float* similarities = shared->similarity + row * SIMILARITY_STRIDE;
        TextRecord record = *text_record(shared, row);
        float similarity[2] = {similarities[2 * lane], similarities[2 * lane + 1]};
        float gradient[2];
        float copies = float(int(record.end - record.first));
        float if_refused = excludes_one ? copies - 1.f : 0.f;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float count = record.key == image[i].refused && copies > 0.f ? if_refused : copies;
            float difference = similarity[i] - image[i].positive;
            // Where it does not count the exponent can be anything, and 0 times infinity would be NaN.
            float exponent = count > 0.f && valid[i] ? phi.exponent(difference) - weight[i].offset : -INFINITY;
            gradient[i] = weight[i].factor * count * ptx::ex2(exponent) * phi.slope(difference);
            if (valid[i] && image[i].text == uint32_t(at.text + row)) gradient[i] -= weight[i].pull;
        }
        for (int row_end = record.end; place < row_end; place++) {
            int from = (place - first) & 31;
            if (from == 0 && place != first) held = anchors[min(place + lane, samples - 1)];
            float positive = __shfl_sync(ALL_LANES, held.positive, from);
            float offset = __shfl_sync(ALL_LANES, held.offset, from);
            float factor = __shfl_sync(ALL_LANES, held.factor, from);
            uint32_t refused = __shfl_sync(ALL_LANES, held.refused, from);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float difference = similarity[i] - positive;
                float exponent = valid[i] && image[i].key != refused ? phi.exponent(difference) - offset : -INFINITY;
                gradient[i] += factor * ptx::ex2(exponent) * phi.slope(difference);
            }
        }
        // dS is written where other lanes' similarities of this row lie.
        __syncwarp();
        uint32_t upper = ptx::cvt_bf16x2(gradient[0], gradient[1]);
        float rest[2] = {gradient[0] - __uint_as_float(upper << 16), gradient[1] - __uint_as_float(upper & 0xffff0000u)};
        uint32_t* to = reinterpret_cast<uint32_t*>(similarities);
        to[lane] = upper;
        to[lane + 32] = ptx::cvt_bf16x2(rest[0], rest[1]);
    }
}

// Warp w holds rows 32 (w % 2) to + 31 and columns 64 (w / 2) to + 63 of the slice, as 2 by 8 tiles of ptx::mma_m16n8k16.
using GradientSum = float[2][8][4];

// sum += dS opponents, 64 opponents deep. Rows are texts (FOR_TEXT) or images.
template <bool FOR_TEXT>
DEVICE void multiply_gradient(GradientSum& sum, const bf16* gradient, const bf16* opponents) {
    int lane = lane_id();
    int first_row = (warp_id() & 1) * 32, first_unit = (warp_id() >> 1) * 8;
    // Not unrolled: the accumulators leave few registers.
#pragma unroll 1
    for (int k = 0; k < TILE / 16; k++) {
        // Upper and lower parts of dS. Memory has it by text and then image: rows are texts, or else the matrix is read
        // transposed.
        uint32_t a[2][2][4];
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int part = 0; part < 2; part++) {
                int row = first_row + 16 * i;
                if constexpr (FOR_TEXT) {
                    const bf16* from = gradient + (row + (lane & 15)) * GRADIENT_STRIDE + 16 * k + (lane >> 4) * 8;
                    ptx::ldmatrix_x4(a[i][part], from + part * TILE);
                } else {
                    int deep = 16 * k + (lane & 7) + (lane >> 4) * 8;
                    const bf16* from = gradient + deep * GRADIENT_STRIDE + row + (lane >> 3 & 1) * 8;
                    ptx::ldmatrix_x4_trans(a[i][part], from + part * TILE);
                }
            }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t b[4];
            ptx::ldmatrix_x4_trans(b, opponents + place<SLICE / 8>(16 * k + (lane & 15), first_unit + 2 * j + (lane >> 4)));
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int part = 0; part < 2; part++) {
                    ptx::mma_m16n8k16(sum[i][2 * j], a[i][part], b[0], b[1]);
                    ptx::mma_m16n8k16(sum[i][2 * j + 1], a[i][part], b[2], b[3]);
                }
        }
    }
}

// The body of contrastive_image_gradient and contrastive_text_gradient.
template <bool FOR_TEXT>
DEVICE void gradient_rows(const bf16* image, const bf16* text, const TextRecord* texts, const ImageRecord* images,
                          const ImageWeight* image_weights, const WeightedAnchor* anchors, const Surrogate& phi,
                          bf16* gradient, float* parts, int samples, int text_count, int width, bool excludes_one,
                          int tiles_per_part) {
    DYNAMIC_SHARED(GradientShared, shared);
    int first_row = blockIdx.x * TILE, first_column = blockIdx.y * SLICE, first_tile = blockIdx.z * tiles_per_part;
    int rows = FOR_TEXT ? text_count : samples;
    int opponent_count = FOR_TEXT ? samples : text_count;
    const bf16* opponents = FOR_TEXT ? image : text;
    auto origin = [&](int tile) {
        int opponent = (first_tile + tile) * TILE;
        TileOrigin at;
        at.text = FOR_TEXT ? first_row : opponent;
        at.image = FOR_TEXT ? opponent : first_row;
        return at;
    };
    TileStream stream;
    stream.text = text;
    stream.image = image;
    stream.texts = text_count;
    stream.samples = samples;
    stream.width = width;
    stream.ring = shared->ring;
    stream.tiles = min(tiles_per_part, (opponent_count + TILE - 1) / TILE - first_tile);
    stream.start(origin);

    GradientSum sum = {};
    for (int tile = 0; tile < stream.tiles; tile++) {
        TileOrigin at = origin(tile);
        Similarities similarities = stream.multiply(origin, [&]() {
            int i = threadIdx.x & (TILE - 1);
            if (threadIdx.x < TILE) {
                bool valid = at.text + i < text_count;
                ptx::cp_async16(text_record(shared, i), texts + (valid ? at.text + i : 0), valid);
            } else if (threadIdx.x < 2 * TILE) {
                bool valid = at.image + i < samples;
                ptx::cp_async16(shared->images + i, images + (valid ? at.image + i : 0), valid);
            } else if (threadIdx.x < 3 * TILE) {
                bool valid = at.image + i < samples;
                ptx::cp_async16(shared->weights + i, image_weights + (valid ? at.image + i : 0), valid);
            }
            load_tile<SLICE / 8>(shared->opponents, opponents, opponent_count, width, FOR_TEXT ? at.image : at.text,
                                 first_column);
        });
        store_similarities(shared->similarity, similarities);
        __syncthreads();
        differentiate(shared, anchors, phi, at, samples, text_count, excludes_one);
        __syncthreads();
        multiply_gradient<FOR_TEXT>(sum, reinterpret_cast<const bf16*>(shared->similarity), shared->opponents);
    }

    int lane = lane_id();
    float* part = parts + int64_t(blockIdx.z) * rows * width;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = first_row + (warp_id() & 1) * 32 + 16 * i + 8 * half + (lane >> 2);
            if (row >= rows) continue;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                int column = first_column + (warp_id() >> 1) * 64 + 8 * j + (lane & 3) * 2;
                int64_t to = int64_t(row) * width + column;
                float low = sum[i][j][2 * half], high = sum[i][j][2 * half + 1];
                if (parts) {
                    if (column < width) part[to] = low;
                    if (column + 1 < width) part[to + 1] = high;
                } else if (width % 2 == 0) {
                    if (column < width) *reinterpret_cast<uint32_t*>(gradient + to) = ptx::cvt_bf16x2(low, high);
                } else {
                    if (column < width) gradient[to] = bf16(low);
                    if (column + 1 < width) gradient[to + 1] = bf16(high);
                }
            }
        }
}
