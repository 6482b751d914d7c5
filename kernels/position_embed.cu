// The class token in front of the patches, and positions on all of them.
#include "positions.cuh"

// x[b, 0] = first + position[0], x[b, 1 + p] = patches[b, p] + position[1 + p]: patches [images, patches, width], first
// [width] (the class token), position [tokens, width], x [images, tokens, width], tokens = 1 + patches.
//
// A warp a row of x: 256 threads a block, ceil(images tokens / 8) blocks, no shared memory, no thread waits for another.
// Floor: 4 bytes and 1 operation a value.
KERNEL(256, 1, position_embed, const bf16* patches, const bf16* first, const bf16* position, bf16* x, int images,
       int tokens, int width) {
    int row = blockIdx.x * 8 + warp_id();
    if (row >= images * tokens) return;
    int image = row / tokens, token = row % tokens;
    const bf16* from = token == 0 ? first : patches + int64_t(row - image - 1) * width;
    const bf16* place = position + int64_t(token) * width;
    bf16* to = x + int64_t(row) * width;
    if (width % 8 == 0)
        add_rows<8>(from, place, to, width);
    else
        add_rows<1>(from, place, to, width);
}

template <int N>
DEVICE void position_slice(const bf16* dx, bf16* dpatches, float* partials, int images, int tokens, int width,
                           int per_slice) {
    int64_t count = int64_t(tokens) * width, first = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    if (first >= count) return;
    // Without the class token, what lies at `first` lies `width` earlier, in rows shorter by as much.
    bf16* patch = first < width ? nullptr : dpatches + first - width;
    sum_slice<N>(dx, partials, images, count, per_slice, first, [&](int image, const Packed<N>& packed) {
        if (patch) store_packed(patch + image * (count - width), packed);
    });
}

// dpatches[b, p] = dx[b, 1 + p], and partials [gridDim.y, tokens, width] of the sums over b of dx[b], for
// position_embed_backward_sum. dx [images, tokens, width], dpatches [images, tokens - 1, width].
//
// 256 threads a block; x: ceil(tokens width / 4 / 256) blocks (without the / 4 where width is not a multiple of 4), y:
// ceil(images / per_slice). A thread goes through the images of its slice. No shared memory, no thread waits for another.
// Floor: 4 bytes and 1 operation a value.
KERNEL(256, 1, position_embed_backward, const bf16* dx, bf16* dpatches, float* partials, int images, int tokens, int width,
       int per_slice) {
    if (width % 4 == 0)
        position_slice<4>(dx, dpatches, partials, images, tokens, width, per_slice);
    else
        position_slice<1>(dx, dpatches, partials, images, tokens, width, per_slice);
}

// dposition [tokens, width] = the sums of partials [slices, tokens, width], and dclass [width] = dposition[0].
//
// A thread a value: 256 a block, ceil(tokens width / 256) blocks; no shared memory, no thread waits for another.
KERNEL(256, 1, position_embed_backward_sum, const float* partials, float* dclass, float* dposition, int slices, int tokens,
       int width) {
    int64_t count = int64_t(tokens) * width, index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index >= count) return;
    float sum = sum_slices(partials, slices, count, index);
    dposition[index] = sum;
    if (index < width) dclass[index] = sum;
}
