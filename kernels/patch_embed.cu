// Pixels to patches.
#include "common.cuh"

// Bytes between rows of pixels in shared memory: at least `row_bytes`, a multiple of 16. Where that can be, a patch's rows follow
// one another through the banks as its pixels do within a row, so that what a warp reads of a patch lies in different ones.
DEVICE int pitch_of(int row_bytes, int patch_size) {
    int whole = (row_bytes + 15) / 16 * 16;
    int further = patch_size % 16 == 0 ? 3 * patch_size : 48;
    return whole + ((further - whole) & 127);
}

// value * scale + shift for each of the three channels.
struct Levels {
    float scale[3], shift[3];
};

// As many bytes in one access.
template <int BYTES>
struct Bytes;
template <>
struct Bytes<8> {
    uint64_t bits;
};
template <>
struct Bytes<2> {
    uint16_t bits;
};
template <>
struct Bytes<1> {
    uint8_t bits;
};

// One row of patches from the rows of pixels that it covers. A thread takes PIXELS neighbours in a row of a patch at a time, in
// three accesses, and writes a piece of each channel; neighbouring threads write neighbouring pieces. PIXELS divides patch_size.
template <int PIXELS>
DEVICE void write_patches(const uint8_t* rows, int pitch, bf16* out, int side, int patch_size, const Levels& levels) {
    int area = patch_size * patch_size;
    for (int first = threadIdx.x * PIXELS; first < side * area; first += blockDim.x * PIXELS) {
        int patch = first / area, place = first % area;
        int x = place % patch_size, y = place / patch_size;
        const Bytes<PIXELS>* from =
            reinterpret_cast<const Bytes<PIXELS>*>(rows + y * pitch + (patch * patch_size + x) * 3);
        Bytes<PIXELS> part[3] = {from[0], from[1], from[2]};
        bf16* to = out + patch * 3 * area + place;
#pragma unroll
        for (int channel = 0; channel < 3; channel++) {
            float value[PIXELS];
#pragma unroll
            for (int i = 0; i < PIXELS; i++) {
                int byte = 3 * i + channel;
                float pixel = uint8_t(part[byte / PIXELS].bits >> byte % PIXELS * 8);
                value[i] = pixel * levels.scale[channel] + levels.shift[channel];
            }
            store_values(to + channel * area, value);
        }
    }
}

// patches[b, p, c, ky, kx] = pixels[b, y, x, c] scale[c] + shift[c], patch p = (y / patch_size) side + x / patch_size, side =
// image_size / patch_size: pixels [images, image_size, image_size, 3], patches [images side^2, 3 patch_size^2]. What lies
// right of and below the last whole patch is not read.
//
// A block a row of patches: images side blocks of 256 threads. Dynamic shared memory: patch_size rows of pixels, of
// pitch_of(3 image_size, patch_size) bytes each. One __syncthreads, when the pixels have come: they and the patches of one row are each
// contiguous in memory. Floor: 3 bytes and 2 operations a value.
KERNEL(256, 1, patch_embed, const uint8_t* pixels, bf16* patches, int image_size, int patch_size, float scale_red,
       float scale_green, float scale_blue, float shift_red, float shift_green, float shift_blue) {
    DYNAMIC_SHARED(uint8_t, rows);
    int side = image_size / patch_size, image = blockIdx.x / side, top = blockIdx.x % side * patch_size;
    int row_bytes = 3 * image_size, pitch = pitch_of(row_bytes, patch_size);
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
    bf16* out = patches + int64_t(blockIdx.x) * side * 3 * patch_size * patch_size;
    if (patch_size % 8 == 0)
        write_patches<8>(rows, pitch, out, side, patch_size, levels);
    else if (patch_size % 2 == 0)
        write_patches<2>(rows, pitch, out, side, patch_size, levels);
    else
        write_patches<1>(rows, pitch, out, side, patch_size, levels);
}
