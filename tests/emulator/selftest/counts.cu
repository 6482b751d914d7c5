// What counters must come to: each kernel does a few things whose cost its line of counts.txt says, worked out by hand from
// CUDA's documentation. Launched as the other selftests are (selftest.cuh).
#include "selftest.cuh"

// Needs a value, which is no negative number.
DEVICE void use(int* failures, float value) { expect(failures, !(value < 0)); }

// ---- global memory

SELFTEST(32, count_halves) {
    UNUSED;
    expect(failures, data[threadIdx.x] == threadIdx.x);
}

SELFTEST(32, count_words) {
    UNUSED;
    use(failures, reinterpret_cast<const float*>(data)[threadIdx.x]);
}

SELFTEST(32, count_every_second_word) {
    UNUSED;
    use(failures, reinterpret_cast<const float*>(data)[2 * threadIdx.x]);
}

SELFTEST(32, count_one_word) {
    UNUSED;
    use(failures, reinterpret_cast<const float*>(data)[blockIdx.x]);
}

// From the middle of a sector on.
SELFTEST(32, count_shifted_words) {
    UNUSED;
    use(failures, reinterpret_cast<const float*>(data)[threadIdx.x + 4]);
}

// A copy of 16 bytes a lane is one load and one store.
SELFTEST(32, count_packs) {
    UNUSED;
    bf16* values = reinterpret_cast<bf16*>(data);
    store8(values + 4096 + 8 * threadIdx.x, load8(values + 8 * threadIdx.x));
}

// As many bytes that lie a row of 192 bytes apart: each in a sector of its own, half of which is read.
SELFTEST(32, count_columns) {
    UNUSED;
    Pack8 pack = load8(reinterpret_cast<const bf16*>(data) + DATA_PITCH * threadIdx.x);
    expect(failures, pack.word[0] == (DATA_PITCH * threadIdx.x | (DATA_PITCH * threadIdx.x + 1) << 16));
}

// Two warps, and a third of 8 lanes.
SELFTEST(72, count_part_of_a_warp) {
    UNUSED;
    data[threadIdx.x] = 1;
}

SELFTEST(64, count_atomics) {
    UNUSED;
    STATIC_SHARED(int, sum);
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    atomicAdd(&sum, 1);
    if (threadIdx.x < 8) atomicAdd(failures, 0);
}

// ---- lanes apart

SELFTEST(32, count_two_sides) {
    UNUSED;
    if (threadIdx.x < 8) data[threadIdx.x] = 1;
    else data[threadIdx.x + 100] = 2;
}

// Lane l goes round l % 4 + 1 times: four times for the warp.
SELFTEST(32, count_rounds) {
    UNUSED;
    for (int i = 0; i <= int(threadIdx.x % 4); i++) data[32 * i + threadIdx.x] = 1;
}

// Where the warp has met in between, what comes after is apart from what came before.
SELFTEST(32, count_rounds_and_meetings) {
    UNUSED;
    for (int i = 0; i < 3; i++) {
        if (int(threadIdx.x) % 3 == i) data[threadIdx.x] = 1;
        __syncwarp();
    }
}

// ---- shared memory

DEVICE float* filled() {
    DYNAMIC_SHARED(float, shared);
    return shared;
}

SELFTEST(32, count_shared_words) {
    UNUSED;
    float* shared = filled();
    shared[threadIdx.x] = 1;
    __syncwarp();
    use(failures, shared[31 - threadIdx.x]);
}

// All lanes in one bank, and every second bank.
SELFTEST(32, count_shared_conflicts) {
    UNUSED;
    float* shared = filled();
    shared[32 * threadIdx.x] = 1;
    __syncwarp();
    use(failures, shared[2 * threadIdx.x]);
}

// The same word for all lanes, and one for each four.
SELFTEST(32, count_shared_broadcast) {
    UNUSED;
    float* shared = filled();
    use(failures, shared[7]);
    use(failures, shared[threadIdx.x / 4]);
}

// Two lanes have halves of one word; the rows of a pitch of 33 words lie in different banks.
SELFTEST(32, count_shared_halves) {
    UNUSED;
    float* shared = filled();
    reinterpret_cast<uint16_t*>(shared)[threadIdx.x] = 1;
    __syncwarp();
    shared[33 * threadIdx.x] = 1;
}

// 8 bytes: half a warp at a time. In a row, and 16 bytes apart, which is twice the banks for 16 lanes.
SELFTEST(32, count_shared_pairs) {
    UNUSED;
    float2* pairs = reinterpret_cast<float2*>(filled());
    pairs[threadIdx.x] = make_float2(1, 2);
    __syncwarp();
    pairs[2 * threadIdx.x] = make_float2(1, 2);
}

// 16 bytes: a quarter of a warp at a time. In a row; a column of a tile with rows of 128 bytes; the same where chunks are
// exchanged by their row; and eight lanes alone.
SELFTEST(32, count_shared_packs) {
    UNUSED;
    Pack8* packs = reinterpret_cast<Pack8*>(filled());
    Pack8 pack = load8(reinterpret_cast<const bf16*>(data));
    int row = threadIdx.x;
    packs[row] = pack;
    __syncwarp();
    packs[8 * row] = pack;
    __syncwarp();
    packs[8 * row + row % 8] = pack;
    __syncwarp();
    if (row < 8) packs[row] = pack;
}

// Rows 128 bytes apart, and the same where chunks are exchanged.
SELFTEST(32, count_ldmatrix) {
    UNUSED;
    Pack8* packs = reinterpret_cast<Pack8*>(filled());
    uint32_t registers[4];
    int row = threadIdx.x;
    ptx::ldmatrix_x4(registers, packs + 8 * row);
    ptx::ldmatrix_x4_trans(registers, packs + 8 * row + row % 8);
}

// ---- asynchronous copies

// Half of the lanes have something to copy, the others write zeros.
SELFTEST(32, count_cp_async) {
    UNUSED;
    Pack8* packs = reinterpret_cast<Pack8*>(filled());
    int lane = threadIdx.x;
    ptx::cp_async16(packs + lane, data + 8 * lane, lane < 16);
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
}

// A box of 64 x 64 at row 64 and column 64 of 100 x 90: 36 rows of 26 values, which begin on a multiple of 64 bytes and touch
// two sectors. One warp copies, the others wait.
SELFTEST(128, count_tma) {
    UNUSED;
    DYNAMIC_SHARED(uint16_t, tile);
    STATIC_SHARED(uint64_t, barrier);
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(&barrier, 1);
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        ptx::mbarrier_arrive_expect_tx(&barrier, 64 * 64 * 2);
        ptx::tma_load_2d(tile, &map, 64, 64, &barrier);
    }
    ptx::mbarrier_wait(&barrier, 0);
}

// ---- products

// 4 of 16 x 8 x 16 by each of two warps; a third warp does nothing.
SELFTEST(96, count_mma) {
    UNUSED;
    float d[4] = {};
    uint32_t a[4] = {};
    if (warp_id() == 2) return;
    for (int i = 0; i < 4; i++) ptx::mma_m16n8k16(d, a, 0, 0);
    use(failures, d[0]);
}

// Two of 64 x 128 x 16: of A 2 KiB, of B 4 KiB each.
SELFTEST(128, count_wgmma) {
    UNUSED;
    DYNAMIC_SHARED(uint16_t, tile);
    float d[64] = {};
    uint64_t a = ptx::wgmma_descriptor(tile, 16, 1024), b = ptx::wgmma_descriptor(tile + 4096, 16, 1024);
    ptx::wgmma_fence();
    for (int i = 0; i < 2; i++) ptx::wgmma_m64n128k16<0, 0>(d, a, b);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>(d);
    use(failures, d[0]);
}

// ---- the rest

SELFTEST(64, count_warp_operations) {
    UNUSED;
    float value = __shfl_xor_sync(ALL_LANES, 1.f, 1);
    value += __shfl_sync(ALL_LANES, value, 0);
    expect(failures, __all_sync(ALL_LANES, value == 2) && __ballot_sync(ALL_LANES, true) == ALL_LANES);
    __syncwarp();
    if (threadIdx.x < 16) __syncwarp(0xffff);
}

// Of one lane, and of all.
SELFTEST(32, count_special) {
    UNUSED;
    float value = threadIdx.x;
    if (threadIdx.x == 3) value = ptx::ex2(value);
    use(failures, ptx::ex2(value) + ptx::rcp(value + 1));
}

// All meet twice; one warp tells the other three and does not wait.
SELFTEST(128, count_barriers) {
    UNUSED;
    __syncthreads();
    if (warp_id() == 0) ptx::bar_arrive(1, 128);
    else ptx::bar_sync(1, 128);
    expect(failures, __syncthreads_or(1));
}

// Stores that lie on both sides of a barrier at which a warp does not wait are apart, however the lanes take turns.
SELFTEST(64, count_arrivals) {
    UNUSED;
    if (warp_id() == 1) return ptx::bar_sync(1, 64);
    for (int i = 0; i < 2; i++) {
        data[32 * i + threadIdx.x] = 1;
        if (i == 0) ptx::bar_arrive(1, 64);
    }
}
