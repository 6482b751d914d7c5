// Asynchronous copies: cp.async groups, mbarrier phases, TMA boxes.
#include "selftest.cuh"

SELFTEST(32, selftest_cp_async) {
    UNUSED;
    STATIC_SHARED(Pack8[3][32], slots);
    int lane = lane_id();
    for (int group = 0; group < 3; group++) {
        ptx::cp_async16(&slots[group][lane], data + (group * 32 + lane) * 8, lane != 5);
        ptx::cp_async_commit();
    }
    auto right = [&](int group) {
        bool good = true;
        for (int i = 0; i < 8; i++) {
            uint16_t value = slots[group][lane].word[i / 2] >> 16 * (i % 2);
            good &= value == (lane == 5 ? 0 : (group * 32 + lane) * 8 + i);
        }
        return good;
    };
    ptx::cp_async_wait<1>();
    expect(failures, right(0) && right(1));
    ptx::cp_async_commit();  // an empty group
    ptx::cp_async_wait<1>();
    expect(failures, right(2));
    ptx::cp_async_wait<0>();
}

// Two warps hand a value on, phase after phase: parities alternate, a wait for the phase before the first is over at
// once.
SELFTEST(64, selftest_mbarrier) {
    UNUSED;
    STATIC_SHARED(uint64_t[2], barrier);  // full, empty
    STATIC_SHARED(int[32], slot);
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(&barrier[0], 32);
        ptx::mbarrier_init(&barrier[1], 32);
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    int lane = lane_id();
    for (int round = 0; round < 9; round++) {
        uint32_t parity = round % 2;
        if (warp_id() == 0) {
            ptx::mbarrier_wait(&barrier[1], parity ^ 1);
            slot[lane] = round * 32 + lane;
            ptx::mbarrier_arrive(&barrier[0]);
        } else {
            ptx::mbarrier_wait(&barrier[0], parity);
            expect(failures, slot[31 - lane] == round * 32 + 31 - lane);
            ptx::mbarrier_arrive(&barrier[1]);
        }
    }
}

// The place of element (row, column) of a tile of 128-byte rows: 16-byte chunks change places by row % 8.
DEVICE int swizzled(int row, int column) { return row * 64 + ((column / 8) ^ (row % 8)) * 8 + column % 8; }

// Boxes inside, over the right and lower edge, and over the left and upper edge, two boxes to a phase.
SELFTEST(128, selftest_tma) {
    UNUSED;
    DYNAMIC_SHARED(uint16_t, tiles);  // two of 64 x 64
    STATIC_SHARED(uint64_t, barrier);
    if (threadIdx.x == 0) {
        ptx::prefetch_tensormap(&map);
        ptx::mbarrier_init(&barrier, 1);
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    const int x[4] = {0, 64, -8, 24}, y[4] = {0, 64, -5, 90};
    for (int phase = 0; phase < 2; phase++) {
        if (threadIdx.x == 0) {
            ptx::mbarrier_arrive_expect_tx(&barrier, 2 * 64 * 128);
            for (int i = 0; i < 2; i++)
                ptx::tma_load_2d(tiles + i * 4096, &map, x[2 * phase + i], y[2 * phase + i], &barrier);
        }
        ptx::mbarrier_wait(&barrier, phase);
        for (int i = 0; i < 2; i++)
            for (int at = threadIdx.x; at < 4096; at += 128) {
                int row = y[2 * phase + i] + at / 64, column = x[2 * phase + i] + at % 64;
                bool inside = row >= 0 && row < MAP_ROWS && column >= 0 && column < MAP_COLUMNS;
                uint16_t expected = inside ? uint16_t(row * DATA_PITCH + column) : 0;
                expect(failures, tiles[i * 4096 + swizzled(at / 64, at % 64)] == expected);
            }
        __syncthreads();
    }
}
