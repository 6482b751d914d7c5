// Kernels that are wrong, each in one way: asynchronous copies, mbarriers, wgmma.
#include "selftest.cuh"

SELFTEST(32, bad_cp_async_no_wait) {
    UNUSED;
    STATIC_SHARED(Pack8[32], slot);
    ptx::cp_async16(&slot[lane_id()], data + 8 * lane_id());
    ptx::cp_async_commit();
    expect(failures, slot[lane_id()].word[0] >> 16 == 8 * lane_id() + 1);
}

SELFTEST(32, bad_cp_async_no_commit) {
    UNUSED;
    STATIC_SHARED(Pack8[32], slot);
    ptx::cp_async16(&slot[lane_id()], data + 8 * lane_id());
    ptx::cp_async_wait<0>();
    expect(failures, slot[lane_id()].word[0] >> 16 == 8 * lane_id() + 1);
}

DEVICE void start(uint64_t* barrier, int arrivals) {
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(barrier, arrivals);
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
}

SELFTEST(64, bad_mbarrier_deadlock) {
    UNUSED;
    STATIC_SHARED(uint64_t, barrier);
    start(&barrier, 2);
    if (threadIdx.x == 0) ptx::mbarrier_arrive(&barrier);
    ptx::mbarrier_wait(&barrier, 0);
}

SELFTEST(64, bad_mbarrier_parity) {
    UNUSED;
    STATIC_SHARED(uint64_t, barrier);
    start(&barrier, 64);
    ptx::mbarrier_arrive(&barrier);
    ptx::mbarrier_wait(&barrier, 1);
    ptx::mbarrier_wait(&barrier, 0);
    ptx::mbarrier_wait(&barrier, 1);
}

SELFTEST(32, bad_mbarrier_uninitialised) {
    UNUSED;
    STATIC_SHARED(uint64_t, barrier);
    ptx::mbarrier_arrive(&barrier);
}

SELFTEST(32, bad_mbarrier_too_many) {
    UNUSED;
    STATIC_SHARED(uint64_t, barrier);
    start(&barrier, 1);
    if (threadIdx.x == 0) {
        ptx::mbarrier_arrive_expect_tx(&barrier, 64);
        ptx::mbarrier_arrive(&barrier);
    }
}

SELFTEST(32, bad_mbarrier_overwritten) {
    UNUSED;
    STATIC_SHARED(uint64_t, barrier);
    start(&barrier, 32);
    if (threadIdx.x == 0) barrier = 0;
    __syncthreads();
    ptx::mbarrier_arrive(&barrier);
}

SELFTEST(64, bad_mbarrier_init_no_sync) {
    UNUSED;
    STATIC_SHARED(uint64_t, barrier);
    if (threadIdx.x == 0) ptx::mbarrier_init(&barrier, 64);
    ptx::mbarrier_arrive(&barrier);
}

SELFTEST(32, bad_tma_bytes) {
    UNUSED;
    DYNAMIC_SHARED(bf16, tile);
    STATIC_SHARED(uint64_t, barrier);
    start(&barrier, 1);
    if (threadIdx.x == 0) {
        ptx::mbarrier_arrive_expect_tx(&barrier, 64 * 128 + 16);
        ptx::tma_load_2d(tile, &map, 0, 0, &barrier);
    }
    ptx::mbarrier_wait(&barrier, 0);
}

SELFTEST(32, bad_tma_alignment) {
    UNUSED;
    DYNAMIC_SHARED(bf16, tile);
    STATIC_SHARED(uint64_t, barrier);
    start(&barrier, 1);
    if (threadIdx.x == 0) ptx::tma_load_2d(tile + 64, &map, 0, 0, &barrier);
}

SELFTEST(32, bad_tma_overrun) {
    UNUSED;
    DYNAMIC_SHARED(bf16, tile);
    STATIC_SHARED(uint64_t, barrier);
    start(&barrier, 1);
    if (threadIdx.x == 0) ptx::tma_load_2d(tile + 4096, &map, 0, 0, &barrier);
}

SELFTEST(32, bad_tma_no_fence) {
    UNUSED;
    DYNAMIC_SHARED(bf16, tile);
    STATIC_SHARED(uint64_t, barrier);
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(&barrier, 1);
        ptx::tma_load_2d(tile, &map, 0, 0, &barrier);
    }
}

SELFTEST(32, bad_tma_not_waited) {
    UNUSED;
    DYNAMIC_SHARED(bf16, tile);
    STATIC_SHARED(uint64_t, barrier);
    start(&barrier, 1);
    if (threadIdx.x == 0) {
        ptx::mbarrier_arrive_expect_tx(&barrier, 64 * 128);
        ptx::tma_load_2d(tile, &map, 0, 0, &barrier);
    }
}

// The tile is read before the transfer has been waited for.
SELFTEST(32, bad_tma_read_early) {
    UNUSED;
    DYNAMIC_SHARED(uint16_t, tile);
    STATIC_SHARED(uint64_t, barrier);
    start(&barrier, 1);
    if (threadIdx.x == 0) {
        ptx::mbarrier_arrive_expect_tx(&barrier, 64 * 128);
        ptx::tma_load_2d(tile, &map, 0, 0, &barrier);
    }
    expect(failures, tile[lane_id()] == lane_id());
    ptx::mbarrier_wait(&barrier, 0);
}

// The tile is loaded again while its reader still reads.
SELFTEST(64, bad_tma_overwrites) {
    UNUSED;
    DYNAMIC_SHARED(uint16_t, tile);
    STATIC_SHARED(uint64_t, barrier);
    start(&barrier, 1);
    for (int phase = 0; phase < 2; phase++) {
        if (threadIdx.x == 0) {
            ptx::mbarrier_arrive_expect_tx(&barrier, 64 * 128);
            ptx::tma_load_2d(tile, &map, 0, phase, &barrier);
        }
        ptx::mbarrier_wait(&barrier, phase);
        if (phase == 0) expect(failures, tile[lane_id()] == lane_id());
    }
}

SELFTEST(32, bad_tma_after_stores) {
    UNUSED;
    DYNAMIC_SHARED(uint16_t, tile);
    STATIC_SHARED(uint64_t, barrier);
    tile[threadIdx.x] = 0;
    start(&barrier, 1);
    if (threadIdx.x == 0) {
        ptx::mbarrier_arrive_expect_tx(&barrier, 64 * 128);
        ptx::tma_load_2d(tile, &map, 0, 0, &barrier);
    }
    ptx::mbarrier_wait(&barrier, 0);
}

// Fills a 64 x 64 tile with ones.
DEVICE void fill(bf16* tile, bool fence) {
    for (int i = threadIdx.x; i < 4096; i += 128) tile[i] = 1.f;
    if (fence) ptx::fence_proxy_async();
    __syncthreads();
}

SELFTEST(128, bad_wgmma_no_proxy_fence) {
    UNUSED;
    DYNAMIC_SHARED(bf16, tile);
    float d[32] = {};
    fill(tile, false);
    uint64_t at = ptx::wgmma_descriptor(tile, 0, 1024);
    ptx::wgmma_fence();
    ptx::wgmma_m64n64k16<0, 0>(d, at, at);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>(d);
    expect(failures, d[0] == 16.f);
}

SELFTEST(128, bad_wgmma_no_fence) {
    UNUSED;
    DYNAMIC_SHARED(bf16, tile);
    float d[32] = {};
    fill(tile, true);
    uint64_t at = ptx::wgmma_descriptor(tile, 0, 1024);
    ptx::wgmma_m64n64k16<0, 0>(d, at, at);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>(d);
    expect(failures, d[0] == 16.f);
}

SELFTEST(128, bad_wgmma_read_early) {
    UNUSED;
    DYNAMIC_SHARED(bf16, tile);
    float d[32] = {};
    fill(tile, true);
    uint64_t at = ptx::wgmma_descriptor(tile, 0, 1024);
    ptx::wgmma_fence();
    ptx::wgmma_m64n64k16<0, 0>(d, at, at);
    ptx::wgmma_commit();
    expect(failures, d[0] == 16.f);
    ptx::wgmma_wait<0>(d);
}

SELFTEST(128, bad_wgmma_not_committed) {
    UNUSED;
    DYNAMIC_SHARED(bf16, tile);
    float d[32] = {};
    fill(tile, true);
    uint64_t at = ptx::wgmma_descriptor(tile, 0, 1024);
    ptx::wgmma_fence();
    ptx::wgmma_m64n64k16<0, 0>(d, at, at);
    ptx::wgmma_wait<0>(d);
    expect(failures, d[0] == 16.f);
}

SELFTEST(128, bad_wgmma_written_in_flight) {
    UNUSED;
    DYNAMIC_SHARED(bf16, tile);
    float d[32] = {};
    fill(tile, true);
    uint64_t at = ptx::wgmma_descriptor(tile, 0, 1024);
    ptx::wgmma_fence();
    ptx::wgmma_m64n64k16<0, 0>(d, at, at);
    ptx::wgmma_commit();
    d[3] = 0.f;
    ptx::wgmma_wait<0>(d);
    expect(failures, d[0] == 16.f);
}

SELFTEST(128, bad_wgmma_touched) {
    UNUSED;
    DYNAMIC_SHARED(bf16, tile);
    float d[32] = {};
    fill(tile, true);
    uint64_t at = ptx::wgmma_descriptor(tile, 0, 1024);
    ptx::wgmma_fence();
    for (int step = 0; step < 2; step++) {
        ptx::wgmma_m64n64k16<0, 0>(d, at, at);
        ptx::wgmma_commit();
        ptx::wgmma_wait<0>(d);
        d[1] = 0.f;
    }
    expect(failures, d[0] == 32.f);
}

SELFTEST(128, bad_wgmma_outside) {
    UNUSED;
    DYNAMIC_SHARED(bf16, tile);
    float d[32] = {};
    fill(tile, true);
    uint64_t at = ptx::wgmma_descriptor(tile, 0, 2048);
    ptx::wgmma_fence();
    ptx::wgmma_m64n64k16<0, 0>(d, at, at);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>(d);
    expect(failures, d[0] == 16.f);
}

SELFTEST(128, bad_wgmma_three_warps) {
    UNUSED;
    DYNAMIC_SHARED(bf16, tile);
    float d[32] = {};
    fill(tile, true);
    if (warp_id() == 2) return;
    uint64_t at = ptx::wgmma_descriptor(tile, 0, 1024);
    ptx::wgmma_fence();
    ptx::wgmma_m64n64k16<0, 0>(d, at, at);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>(d);
    expect(failures, d[0] == 16.f);
}

// The tile is filled again while wgmma may still read it.
SELFTEST(128, bad_wgmma_overwritten) {
    UNUSED;
    DYNAMIC_SHARED(bf16, tile);
    float d[32] = {};
    fill(tile, true);
    uint64_t at = ptx::wgmma_descriptor(tile, 0, 1024);
    ptx::wgmma_fence();
    ptx::wgmma_m64n64k16<0, 0>(d, at, at);
    ptx::wgmma_commit();
    for (int i = threadIdx.x; i < 4096; i += 128) tile[i] = 2.f;
    ptx::wgmma_wait<0>(d);
    expect(failures, d[0] == 16.f);
}
