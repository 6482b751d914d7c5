// Token embedding plus position.
#include "positions.cuh"

// x[t, l] = table[ids[t, l]] + position[l]: ids [texts, tokens], table [vocabulary, width], position [context, width],
// x [texts, tokens, width].
//
// A warp a row of x: 256 threads a block, ceil(texts tokens / 8) blocks, no shared memory, no thread waits for another.
// Floor: 4 bytes (2 where the table's rows come from a cache) and 1 operation a value.
KERNEL(256, 1, token_embed, const uint32_t* ids, const bf16* table, const bf16* position, bf16* x, int texts, int tokens,
       int width) {
    int place = blockIdx.x * 8 + warp_id();
    if (place >= texts * tokens) return;
    const bf16* word = table + int64_t(ids[place]) * width;
    const bf16* where = position + int64_t(place % tokens) * width;
    bf16* to = x + int64_t(place) * width;
    if (width % 8 == 0)
        add_rows<8>(word, where, to, width);
    else
        add_rows<1>(word, where, to, width);
}

// ---- Backward. The places are sorted by their ids, places of one id in their own order: a stable radix sort in passes of 8
// bits, two kernels each. Then equal ids are neighbours, and their rows of dx are summed in that order. No sum depends on which
// thread came first, as it would with atomic additions.

// An id in the upper half, the place that holds it in the lower.
using Entry = uint64_t;
DEVICE uint32_t id_of(Entry entry) { return uint32_t(entry >> 32); }
DEVICE uint32_t place_of(Entry entry) { return uint32_t(entry); }

constexpr int DIGITS = 256;
constexpr int ROUNDS = 8;             // in which a warp goes through its entries, a lane each
constexpr int TILE = 256 * ROUNDS;    // entries of a block of 256 threads
typedef uint32_t DigitCounts[8][DIGITS];  // for each warp

// Entry `i` as the pass before left it, or as ids and places are to begin with.
DEVICE Entry entry_at(const uint32_t* ids, const Entry* from, int i) {
    return from ? from[i] : Entry(ids[i]) << 32 | uint32_t(i);
}

// The lanes whose digit is this lane's, among those that are `valid`.
DEVICE uint32_t lanes_with(uint32_t digit, bool valid) {
    uint32_t lanes = __ballot_sync(ALL_LANES, valid);
#pragma unroll
    for (int bit = 0; bit < 8; bit++) {
        bool set = digit >> bit & 1;
        uint32_t having = __ballot_sync(ALL_LANES, set);
        lanes &= set ? having : ~having;
    }
    return lanes;
}

// The first entry of this lane's warp and round in the block's tile.
DEVICE int entry_index(int round) { return blockIdx.x * TILE + (warp_id() * ROUNDS + round) * 32 + lane_id(); }

// How often each digit occurs among each warp's entries. All threads of the block; a __syncthreads before and after.
DEVICE void count_digits(const uint32_t (&digits)[ROUNDS], int places, DigitCounts& counts) {
    for (int i = threadIdx.x; i < 8 * DIGITS; i += 256) counts[i / DIGITS][i % DIGITS] = 0;
    __syncthreads();
#pragma unroll
    for (int round = 0; round < ROUNDS; round++) {
        bool valid = entry_index(round) < places;
        uint32_t same = lanes_with(digits[round], valid);
        uint32_t before = same & ((1u << lane_id()) - 1);
        if (valid && before == 0) counts[warp_id()][digits[round]] += __popc(same);
        __syncwarp();
    }
    __syncthreads();
}

// tile_counts[tile, digit]: how often the 8 bits from `shift` of an id are `digit` among the tile's entries. `from` is what the
// pass before sorted, or null in the first.
//
// A block of 256 threads a tile of 2048 entries, ceil(places / 2048) blocks. Static shared memory: 8 KiB. The lanes of a warp
// meet in each of 8 rounds; the warps twice.
KERNEL(256, 1, token_embed_count, const uint32_t* ids, NULLABLE const Entry* from, uint32_t* tile_counts, int places, int shift) {
    STATIC_SHARED(DigitCounts, counts);
    uint32_t digits[ROUNDS];
#pragma unroll
    for (int round = 0; round < ROUNDS; round++) {
        int i = entry_index(round);
        digits[round] = i < places ? id_of(entry_at(ids, from, i)) >> shift & (DIGITS - 1) : 0;
    }
    count_digits(digits, places, counts);
    uint32_t count = 0;
    for (int warp = 0; warp < 8; warp++) count += counts[warp][threadIdx.x];
    tile_counts[blockIdx.x * DIGITS + threadIdx.x] = count;
}

// `to` is `from` (ids and places, where that is null) in the order of the 8 bits from `shift` of the ids, equal ones as they
// were; tile_counts come from token_embed_count.
//
// Blocks and threads as there; thread d adds up digit d's counts over the tiles. Static shared memory: 8 KiB and 32 bytes. The
// lanes of a warp meet in each of 16 rounds; the warps four times.
KERNEL(256, 1, token_embed_order, const uint32_t* ids, NULLABLE const Entry* from, Entry* to, const uint32_t* tile_counts,
       int places, int shift) {
    STATIC_SHARED(DigitCounts, counts);
    STATIC_SHARED(uint32_t[8], warp_totals);
    Entry entries[ROUNDS];
    uint32_t digits[ROUNDS];
#pragma unroll
    for (int round = 0; round < ROUNDS; round++) {
        int i = entry_index(round);
        entries[round] = i < places ? entry_at(ids, from, i) : 0;
        digits[round] = id_of(entries[round]) >> shift & (DIGITS - 1);
    }
    count_digits(digits, places, counts);

    // Where this tile's entries of digit threadIdx.x begin: after all smaller digits, and after its own in earlier tiles.
    uint32_t total = 0, earlier = 0;
#pragma unroll 8
    for (uint32_t tile = 0; tile < gridDim.x; tile++) {
        uint32_t count = tile_counts[tile * DIGITS + threadIdx.x];
        total += count;
        if (tile < blockIdx.x) earlier += count;
    }
    uint32_t up_to = total;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        uint32_t other = __shfl_up_sync(ALL_LANES, up_to, distance);
        if (lane_id() >= distance) up_to += other;
    }
    if (lane_id() == 31) warp_totals[warp_id()] = up_to;
    __syncthreads();
    uint32_t next = up_to - total + earlier;
    for (int warp = 0; warp < warp_id(); warp++) next += warp_totals[warp];

    // From counts to the place of each warp's next entry of each digit.
    for (int warp = 0; warp < 8; warp++) {
        uint32_t count = counts[warp][threadIdx.x];
        counts[warp][threadIdx.x] = next;
        next += count;
    }
    __syncthreads();
#pragma unroll
    for (int round = 0; round < ROUNDS; round++) {
        bool valid = entry_index(round) < places;
        uint32_t same = lanes_with(digits[round], valid);
        uint32_t before = same & ((1u << lane_id()) - 1);
        uint32_t begin = valid ? counts[warp_id()][digits[round]] : 0;
        __syncwarp();
        if (valid) {
            to[begin + __popc(before)] = entries[round];
            if (before == 0) counts[warp_id()][digits[round]] = begin + __popc(same);
        }
        __syncwarp();
    }
}

// One warp: the entries of one chunk, in N columns a lane.
template <int N>
DEVICE void sum_chunk(const Entry* order, const bf16* dx, float* dtable, float* partials, int places, int width, int chunk) {
    constexpr int AT_ONCE = 8;
    int index = blockIdx.x * 8 + warp_id();
    int64_t begin = int64_t(index) * chunk;
    int column = blockIdx.y * 32 * N + lane_id() * N;
    if (begin >= places || column >= width) return;
    int first = begin, last = min(begin + chunk, int64_t(places));

    float sum[N] = {};
    uint32_t id = id_of(order[first]);
    bool continued = first > 0 && id_of(order[first - 1]) == id;
    auto flush = [&](bool continues) {
        float* to = dtable + int64_t(id) * width;
        if (continued)
            to = partials + int64_t(index) * 2 * width;
        else if (continues)
            to = partials + (int64_t(index) * 2 + 1) * width;
        store_values(to + column, sum);
    };
    for (int base = first; base < last; base += AT_ONCE) {
        uint32_t ids[AT_ONCE];
        Packed<N> packed[AT_ONCE];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
            if (base + j < last) {
                Entry entry = order[base + j];
                ids[j] = id_of(entry);
                packed[j] = load_packed<N>(dx + int64_t(place_of(entry)) * width + column);
            }
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
            if (base + j < last) {
                if (ids[j] != id) {
                    flush(false);
                    id = ids[j];
                    continued = false;
#pragma unroll
                    for (int i = 0; i < N; i++) sum[i] = 0.f;
                }
#pragma unroll
                for (int i = 0; i < N; i++) sum[i] += packed[j].get(i);
            }
    }
    flush(last < places && id_of(order[last]) == id);
}

// dtable[id] = sum of dx over the places that hold id, for the ids whose entries lie in one chunk of `chunk` sorted entries.
// Where an id's entries go on from chunk to chunk, the sum of its part goes to partials [chunks, 2, width]: [., 1] in the
// chunk where the id begins, [., 0] in those after, for token_embed_backward_runs. dtable [vocabulary, width] was zeroed.
//
// A warp a chunk and 128 columns (32 where width is not a multiple of 4): 256 threads a block; x: ceil(places / chunk / 8)
// blocks, y: ceil(width / 128) or ceil(width / 32). No shared memory, no thread waits for another.
// Floor: 2 bytes and 1 operation a value of dx, 4 bytes a value of dtable (where it is zeroed).
KERNEL(256, 2, token_embed_backward, const Entry* order, const bf16* dx, float* dtable, float* partials, int places,
       int width, int chunk) {
    if (width % 4 == 0)
        sum_chunk<4>(order, dx, dtable, partials, places, width, chunk);
    else
        sum_chunk<1>(order, dx, dtable, partials, places, width, chunk);
}

// dtable[id] = the sum of the parts of ids that token_embed_backward met in more than one chunk.
//
// A warp a chunk and 32 columns, of which those have work in whose chunk such an id begins: 256 threads a block; x:
// ceil(places / chunk / 8) blocks, y: ceil(width / 32). The lanes of a warp meet when they look for the id's last chunk.
KERNEL(256, 1, token_embed_backward_runs, const Entry* order, const float* partials, float* dtable, int places, int width,
       int chunk) {
    int index = blockIdx.x * 8 + warp_id();
    int64_t first = int64_t(index) * chunk, last = first + chunk;
    if (last >= places) return;
    uint32_t id = id_of(order[last]);
    bool begins_here = first == 0 || id_of(order[first - 1]) != id;
    if (id_of(order[last - 1]) != id || !begins_here) return;

    // Chunks after this one that begin with the id: the lanes look at 32 at a time.
    int following = 0;
    for (;;) {
        int64_t start = int64_t(index + 1 + following + lane_id()) * chunk;
        uint32_t others = ~__ballot_sync(ALL_LANES, start < places && id_of(order[start]) == id);
        if (others) {
            following += __ffs(others) - 1;
            break;
        }
        following += 32;
    }
    int column = blockIdx.y * 32 + lane_id();
    if (column >= width) return;
    const float* part = partials + int64_t(index) * 2 * width + column;
    float sum = part[width];
#pragma unroll 16
    for (int i = 1; i <= following; i++) sum += part[int64_t(i) * 2 * width];
    dtable[int64_t(id) * width + column] = sum;
}

template <int N>
DEVICE void position_slice(const bf16* dx, float* partials, int texts, int64_t count, int per_slice) {
    int64_t first = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    if (first < count) sum_slice<N>(dx, partials, texts, count, per_slice, first, [](int, const Packed<N>&) {});
}

// partials [gridDim.y, tokens, width] of the sums over t of dx[t], for token_embed_position_backward_sum.
// dx [texts, tokens, width].
//
// 256 threads a block; x: ceil(tokens width / 4 / 256) blocks (without the / 4 where width is not a multiple of 4), y:
// ceil(texts / per_slice). A thread goes through the texts of its slice. No shared memory, no thread waits for another.
// Floor: 2 bytes and 1 operation a value.
KERNEL(256, 1, token_embed_position_backward, const bf16* dx, float* partials, int texts, int tokens, int width,
       int per_slice) {
    int64_t count = int64_t(tokens) * width;
    if (width % 4 == 0)
        position_slice<4>(dx, partials, texts, count, per_slice);
    else
        position_slice<1>(dx, partials, texts, count, per_slice);
}

// dposition [context, width] = the sums of partials [slices, tokens, width], 0 from `tokens` on.
//
// A thread a value: 256 a block, ceil(context width / 256) blocks; no shared memory, no thread waits for another.
KERNEL(256, 1, token_embed_position_backward_sum, const float* partials, float* dposition, int slices, int tokens,
       int context, int width) {
    int64_t count = int64_t(tokens) * width, index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index < int64_t(context) * width) dposition[index] = index < count ? sum_slices(partials, slices, count, index) : 0.f;
}
