// Kernels that are wrong, each in one way: barriers, warps, races.
#include "selftest.cuh"

SELFTEST(64, bad_divergent_barrier) {
    UNUSED;
    if (threadIdx.x < 16) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

SELFTEST(64, bad_barrier_in_loop) {
    UNUSED;
    for (unsigned i = 0; i <= threadIdx.x / 32; i++) ptx::bar_sync(1, 64);
}

SELFTEST(64, bad_barrier_half_warp) {
    UNUSED;
    if (lane_id() < 16) ptx::bar_sync(1, 32);
}

SELFTEST(64, bad_barrier_counts) {
    UNUSED;
    ptx::bar_sync(1, threadIdx.x < 32 ? 64 : 96);
}

SELFTEST(64, bad_arrives_twice) {
    UNUSED;
    if (warp_id() == 0) {
        ptx::bar_arrive(2, 96);
        ptx::bar_arrive(2, 96);
    } else {
        ptx::bar_sync(2, 96);
    }
}

SELFTEST(32, bad_shuffle_own_mask) {
    UNUSED;
    __shfl_sync(0xffffu, 1, 0);
}

SELFTEST(32, bad_shuffle_source) {
    UNUSED;
    if (lane_id() < 16) __shfl_sync(0xffffu, 1, 20);
}

SELFTEST(32, bad_shuffle_lanes_missing) {
    UNUSED;
    if (lane_id() < 30) __shfl_xor_sync(ALL_LANES, 1, 1);
}

SELFTEST(32, bad_shuffle_divergent) {
    UNUSED;
    if (lane_id() < 16) {
        __shfl_xor_sync(ALL_LANES, 1, 1);
    } else {
        __shfl_xor_sync(ALL_LANES, 1, 2);
    }
}

SELFTEST(48, bad_mma_part_of_warp) {
    UNUSED;
    float d[4] = {};
    uint32_t a[4] = {};
    ptx::mma_m16n8k16(d, a, 0, 0);
}

// Lanes read what others wrote: right in no schedule but by luck.
SELFTEST(32, bad_missing_syncwarp) {
    UNUSED;
    STATIC_SHARED(int[32], slot);
    slot[lane_id()] = lane_id();
    expect(failures, slot[31 - lane_id()] == 31 - lane_id());
}

SELFTEST(64, bad_missing_syncthreads) {
    UNUSED;
    STATIC_SHARED(int[64], slot);
    slot[threadIdx.x] = threadIdx.x;
    expect(failures, slot[63 - threadIdx.x] == 63 - threadIdx.x);
}

// Written again while others may still read.
SELFTEST(64, bad_write_after_read) {
    UNUSED;
    STATIC_SHARED(int[64], slot);
    for (int round = 0; round < 4; round++) {
        slot[threadIdx.x] = round;
        __syncthreads();
        expect(failures, slot[63 - threadIdx.x] == round);
    }
}

SELFTEST(32, bad_blocks_write_same) {
    UNUSED;
    data[threadIdx.x] = blockIdx.x;
}

SELFTEST(32, bad_block_reads_other) {
    UNUSED;
    data[blockIdx.x * 32 + threadIdx.x] = 1;
    if (blockIdx.x == 1) expect(failures, data[threadIdx.x] == 1);
}

SELFTEST(64, bad_threads_share_global) {
    UNUSED;
    data[threadIdx.x / 2] = threadIdx.x;
}

SELFTEST(32, bad_too_many_threads) { UNUSED; }

SELFTEST(32, bad_static_shared_size) {
    UNUSED;
    STATIC_SHARED(char[49153], much);
    much[0] = 0;
}
