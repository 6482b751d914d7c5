// The first pass over the similarities: sums of exponentials of both directions, relative to running maxima.
#pragma once
#include "contrastive_tile.cuh"

// An exponent below all that occur. Finite, so that a term with weight 0 stays 0.
constexpr float NOTHING = -1e30f;

// The terms of one anchor so far, in exponents of 2: sums of 2^(z - largest) times 1, phi' and z.
struct alignas(16) Sums {
    float largest, total, slope, height;
};

// A sample as text anchor: images with the key `refused` do not count.
struct alignas(16) TextAnchor {
    float positive;
    uint32_t text, refused, unused;
};

DEVICE Sums no_sums() {
    Sums sums;
    sums.largest = NOTHING;
    sums.total = sums.slope = sums.height = 0.f;
    return sums;
}

DEVICE Sums merged(const Sums& a, const Sums& b) {
    Sums sums;
    sums.largest = fmaxf(a.largest, b.largest);
    float of_a = ptx::ex2(a.largest - sums.largest), of_b = ptx::ex2(b.largest - sums.largest);
    sums.total = a.total * of_a + b.total * of_b;
    sums.slope = a.slope * of_a + b.slope * of_b;
    sums.height = a.height * of_a + b.height * of_b;
    return sums;
}

// Over the four lanes that share an anchor, the same bits in each of them.
DEVICE Sums merged_over_4_lanes(Sums sums) {
#pragma unroll
    for (int offset = 1; offset < 4; offset *= 2) {
        Sums other;
        other.largest = __shfl_xor_sync(ALL_LANES, sums.largest, offset);
        other.total = __shfl_xor_sync(ALL_LANES, sums.total, offset);
        other.slope = __shfl_xor_sync(ALL_LANES, sums.slope, offset);
        other.height = __shfl_xor_sync(ALL_LANES, sums.height, offset);
        sums = merged(sums, other);
    }
    return sums;
}

// Adds N opponents at differences S_ij - S_ii, each `count` times; the maximum is raised once for all of them.
template <int N>
DEVICE void add_terms(Sums& sums, const float (&difference)[N], const float (&count)[N], const Surrogate& phi) {
    float exponent[N];
    float largest = sums.largest;
#pragma unroll
    for (int i = 0; i < N; i++) {
        exponent[i] = count[i] > 0.f ? phi.exponent(difference[i]) : NOTHING;
        largest = fmaxf(largest, exponent[i]);
    }
    float keep = ptx::ex2(sums.largest - largest);
    sums.largest = largest;
    sums.total *= keep;
    sums.slope *= keep;
    sums.height *= keep;
#pragma unroll
    for (int i = 0; i < N; i++) {
        float term = count[i] * ptx::ex2(exponent[i] - largest);
        sums.total += term;
        sums.slope += term * phi.slope(difference[i]);
        sums.height += term * exponent[i];
    }
}

// log((1 - gamma) u + gamma g) from log u and log g; a first visit (NaN) and gamma >= 1 take log g.
DEVICE float moved_average(float old, float log_g, float gamma) {
    if (isnan(old) || gamma >= 1.f) return log_g;
    float a = log1pf(-gamma) + old, b = logf(gamma) + log_g;
    float largest = fmaxf(a, b);
    return largest == -INFINITY ? largest : largest + log1pf(expf(fminf(a, b) - largest));
}

struct SweepShared {
    bf16 ring[RING];
    float similarity[SIMILARITIES];
    TextRecord texts[TILE];
    ImageRecord images[TILE];
};
constexpr int SUMS_SHARED = 67 * 1024;
static_assert(sizeof(SweepShared) == SUMS_SHARED, "what the launch asks for");

// The body of contrastive_sums. Four neighbouring lanes share an anchor; lane q of them takes opponents q, q + 4, ...
DEVICE void sweep(const bf16* image, const bf16* text, const TextRecord* texts, const ImageRecord* images,
                  const TextAnchor* anchors, const Surrogate& phi, Sums* image_sums, Sums* text_sums, int samples,
                  int text_count, int width, bool excludes_one, int text_tiles_per_slice, int image_tiles_per_group) {
    DYNAMIC_SHARED(SweepShared, shared);
    int text_tile = blockIdx.x * text_tiles_per_slice, image_tile = blockIdx.y * image_tiles_per_group;
    int text_tiles = min(text_tiles_per_slice, (text_count + TILE - 1) / TILE - text_tile);
    int image_tiles = min(image_tiles_per_group, (samples + TILE - 1) / TILE - image_tile);
    auto origin = [&](int tile) {
        TileOrigin at;
        at.image = (image_tile + tile / text_tiles) * TILE;
        at.text = (text_tile + tile % text_tiles) * TILE;
        return at;
    };
    TileStream stream;
    stream.text = text;
    stream.image = image;
    stream.texts = text_count;
    stream.samples = samples;
    stream.width = width;
    stream.ring = shared->ring;
    stream.tiles = text_tiles * image_tiles;
    stream.start(origin);

    int anchor_in_tile = threadIdx.x >> 2, quarter = threadIdx.x & 3;
    Sums row = no_sums();
    for (int tile = 0; tile < stream.tiles; tile++) {
        TileOrigin at = origin(tile);
        Similarities similarities = stream.multiply(origin, [&]() {
            int i = threadIdx.x & (TILE - 1);
            if (threadIdx.x < TILE) {
                bool valid = at.text + i < text_count;
                ptx::cp_async16(shared->texts + i, texts + (valid ? at.text + i : 0), valid);
            } else if (threadIdx.x < 2 * TILE) {
                bool valid = at.image + i < samples;
                ptx::cp_async16(shared->images + i, images + (valid ? at.image + i : 0), valid);
            }
        });
        store_similarities(shared->similarity, similarities);
        __syncthreads();
        const float* similarity = shared->similarity;
        float difference[TILE / 4], count[TILE / 4];

        // Image anchors against the texts of the tile. Texts outside of the matrix have no samples.
        ImageRecord own = shared->images[anchor_in_tile];
#pragma unroll
        for (int k = 0; k < TILE / 4; k++) {
            int opponent = 4 * k + quarter;
            TextRecord record = shared->texts[opponent];
            float copies = float(int(record.end - record.first));
            float if_refused = excludes_one ? copies - 1.f : 0.f;
            count[k] = record.key == own.refused && copies > 0.f ? if_refused : copies;
            difference[k] = similarity[opponent * SIMILARITY_STRIDE + anchor_in_tile] - own.positive;
        }
        add_terms(row, difference, count, phi);
        if (at.text == (text_tile + text_tiles - 1) * TILE) {
            row = merged_over_4_lanes(row);
            int sample = at.image + anchor_in_tile;
            if (quarter == 0 && sample < samples) image_sums[int64_t(blockIdx.x) * samples + sample] = row;
            row = no_sums();
        }

        // The text anchors of the tile's texts against its images.
        int end = shared->texts[min(TILE, text_count - at.text) - 1].end;
        Sums* kept = text_sums + int64_t(blockIdx.y) * samples;
        for (int first = shared->texts[0].first; first < end; first += TILE) {
            int place = min(first + anchor_in_tile, end - 1);
            TextAnchor anchor = anchors[place];
            Sums before = no_sums();
            bool writes = quarter == 0 && first + anchor_in_tile < end;
            if (writes && tile >= text_tiles) before = kept[place];
            const float* column = similarity + (anchor.text - at.text) * SIMILARITY_STRIDE;
#pragma unroll
            for (int k = 0; k < TILE / 4; k++) {
                int opponent = 4 * k + quarter;
                bool counts = at.image + opponent < samples && shared->images[opponent].key != anchor.refused;
                count[k] = counts ? 1.f : 0.f;
                difference[k] = column[opponent] - anchor.positive;
            }
            Sums terms = no_sums();
            add_terms(terms, difference, count, phi);
            terms = merged_over_4_lanes(terms);
            if (writes) kept[place] = merged(before, terms);
        }
    }
}
