// Pixels to patches.
#include "common.cuh"

// Bytes between rows of pixels in shared memory: at least `row_bytes`, a multiple of 16, and 48 more than a multiple of 128,
// so that the rows of a patch begin in different banks.
DEVICE int pitch_of(int row_bytes) {
    int whole = (row_bytes + 15) / 16 * 16;
    return whole + ((48 - whole) & 127);
}

// value * scale + shift for each of the three channels.
struct Levels {
    float scale[3], shift[3];
};

// One row of patches, N neighbouring values a thread at a time, from the rows of pixels that it covers. `together`: N
// neighbouring values always lie in one row of one channel of one patch.
template <int N, bool together>
DEVICE void write_patches(const uint8_t* pixels, int pitch, bf16* out, int side, int patch_size, const Levels& levels) {
    int values = 3 * patch_size * patch_size;
    for (int first = threadIdx.x * N; first < side * values; first += blockDim.x * N) {
        int patch = first / values, place = first % values;
        int x = place % patch_size, y = place / patch_size % patch_size, channel = place / patch_size / patch_size;
        float value[N];
#pragma unroll
        for (int i = 0; i < N; i++) {
            float pixel = pixels[y * pitch + (patch * patch_size + x) * 3 + channel];
            // Selected, not indexed: an index known only at run time would put the levels into local memory.
            float scale = channel == 0 ? levels.scale[0] : channel == 1 ? levels.scale[1] : levels.scale[2];
            float shift = channel == 0 ? levels.shift[0] : channel == 1 ? levels.shift[1] : levels.shift[2];
            value[i] = pixel * scale + shift;
            // The next value in the order [patch, channel, y, x].
            x++;
            if (!together && x == patch_size) {
                x = 0;
                if (++y == patch_size) {
                    y = 0;
                    if (++channel == 3) {
                        channel = 0;
                        patch++;
                    }
                }
            }
        }
        store_values(out + first, value);
    }
}

// patches[b, p, c, ky, kx] = pixels[b, y, x, c] scale[c] + shift[c], patch p = (y / patch_size) side + x / patch_size, side =
// image_size / patch_size: pixels [images, image_size, image_size, 3], patches [images side^2, 3 patch_size^2]. What lies
// right of and below the last whole patch is not read.
//
// A block a row of patches: images side blocks of 256 threads. Dynamic shared memory: patch_size rows of pixels, of
// pitch_of(3 image_size) bytes each. One __syncthreads, when the pixels have come: they and the patches of one row are each
// contiguous in memory. Floor: 3 bytes and 2 operations a value.
KERNEL(256, 1, patch_embed, const uint8_t* pixels, bf16* patches, int image_size, int patch_size, float scale_red,
       float scale_green, float scale_blue, float shift_red, float shift_green, float shift_blue) {
    DYNAMIC_SHARED(uint8_t, rows);
    int side = image_size / patch_size, image = blockIdx.x / side, top = blockIdx.x % side * patch_size;
    int row_bytes = 3 * image_size, pitch = pitch_of(row_bytes);
    const uint8_t* from = pixels + (int64_t(image) * image_size + top) * row_bytes;
    if (row_bytes % 16 == 0) {
        int packs = row_bytes / 16;
#pragma unroll 4
        for (int i = threadIdx.x; i < patch_size * packs; i += 256) {
            int y = i / packs, x = i % packs;
            *reinterpret_cast<Pack8*>(rows + y * pitch + x * 16) = reinterpret_cast<const Pack8*>(from)[i];
        }
    } else {
        // Two bytes a thread: the emulator's race checker tells no smaller pieces of shared memory apart.
        int pairs = (row_bytes + 1) / 2;
        for (int i = threadIdx.x; i < patch_size * pairs; i += 256) {
            int y = i / pairs, x = i % pairs * 2;
            rows[y * pitch + x] = from[y * row_bytes + x];
            if (x + 1 < row_bytes) rows[y * pitch + x + 1] = from[y * row_bytes + x + 1];
        }
    }
    __syncthreads();

    Levels levels = {{scale_red, scale_green, scale_blue}, {shift_red, shift_green, shift_blue}};
    int values = 3 * patch_size * patch_size;
    bf16* out = patches + int64_t(blockIdx.x) * side * values;
    if (patch_size % 8 == 0)
        write_patches<8, true>(rows, pitch, out, side, patch_size, levels);
    else if (side * values % 8 == 0)
        write_patches<8, false>(rows, pitch, out, side, patch_size, levels);
    else
        write_patches<1, false>(rows, pitch, out, side, patch_size, levels);
}
