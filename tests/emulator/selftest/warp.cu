// Shuffles, votes, barriers of a block.
#include "selftest.cuh"

SELFTEST(64, selftest_shuffle) {
    UNUSED;
    int lane = lane_id(), own = threadIdx.x * 10 + 1;
    for (int width = 2; width <= 32; width *= 2) {
        int first = lane / width * width, last = first + width - 1;
        for (int k = 0; k < 32; k += 3) {
            int base = threadIdx.x - lane;
            auto of = [&](int from) { return (base + from) * 10 + 1; };
            expect(failures, __shfl_sync(ALL_LANES, own, k, width) == of(first + k % width));
            expect(failures, __shfl_up_sync(ALL_LANES, own, k, width) == of(lane - k >= first ? lane - k : lane));
            expect(failures, __shfl_down_sync(ALL_LANES, own, k, width) == of(lane + k <= last ? lane + k : lane));
            expect(failures, __shfl_xor_sync(ALL_LANES, own, k, width) == of((lane ^ k) <= last ? lane ^ k : lane));
        }
    }
    float4 wide = {float(lane), 1.f, 2.f, 3.f};
    expect(failures, __shfl_sync(ALL_LANES, wide.x, 5) == 5.f && wide.y == 1.f);
}

SELFTEST(32, selftest_vote) {
    UNUSED;
    int lane = lane_id();
    expect(failures, __ballot_sync(ALL_LANES, lane % 3 == 0) == 0x49249249u);
    expect(failures, __any_sync(ALL_LANES, lane == 7) && !__any_sync(ALL_LANES, lane == 32));
    expect(failures, __all_sync(ALL_LANES, lane < 32) && !__all_sync(ALL_LANES, lane < 31));
    // Two halves of a warp on their own.
    unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    if (lane < 16) expect(failures, __ballot_sync(half, 1) == half);
    else expect(failures, __shfl_sync(half, lane, 20) == 20);
    __syncwarp();
}

SELFTEST(1024, selftest_sync_reduce) {
    UNUSED;
    int count = blockDim.x, mine = threadIdx.x;
    expect(failures, __syncthreads_count(mine % 2) == count / 2);
    expect(failures, __syncthreads_or(mine == 77) != 0);
    expect(failures, __syncthreads_or(0) == 0);
    expect(failures, __syncthreads_and(mine < count) != 0);
    expect(failures, __syncthreads_and(mine != 3) == 0);
}

// Warps leave one after another; those left still synchronise.
SELFTEST(256, selftest_early_exit) {
    UNUSED;
    STATIC_SHARED(int[8], slot);
    for (int last = 7; last >= 0; last--) {
        if (lane_id() == 0) slot[warp_id()] = last;
        __syncthreads();
        for (int w = 0; w <= last; w++) expect(failures, slot[w] == last);
        __syncthreads();
        if (warp_id() == last) return;
    }
}

// A ring of two slots between two producer warps and two consumer warps, with bar_arrive on both sides.
SELFTEST(128, selftest_named_barrier) {
    UNUSED;
    STATIC_SHARED(int[2][64], ring);
    constexpr int FULL = 1, EMPTY = 3, ROUNDS = 10;
    bool producer = warp_id() < 2;
    int i = threadIdx.x % 64;
    if (!producer) {
        ptx::bar_arrive(EMPTY, 128);
        ptx::bar_arrive(EMPTY + 1, 128);
    }
    for (int round = 0; round < ROUNDS; round++) {
        int slot = round % 2;
        if (producer) {
            ptx::bar_sync(EMPTY + slot, 128);
            ring[slot][i] = round * 100 + i;
            ptx::bar_arrive(FULL + slot, 128);
        } else {
            ptx::bar_sync(FULL + slot, 128);
            expect(failures, ring[slot][63 - i] == round * 100 + 63 - i);
            if (round + 2 < ROUNDS) ptx::bar_arrive(EMPTY + slot, 128);
        }
    }
}
