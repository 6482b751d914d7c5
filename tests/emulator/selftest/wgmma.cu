// wgmma in both majornesses and every width, against "Register fragments and shared memory matrix layouts" of the PTX
// ISA.
#include "selftest.cuh"

constexpr int K = 64;

// Where element (row, column) of an operand with 128-byte rows lies, in values: rows in groups of 8, each 1024 bytes,
// the 16-byte chunks of a row exchanged by the row's number in its group.
DEVICE int in_rows_of_64(int row, int column) { return row * 64 + ((column / 8) ^ (row % 8)) * 8 + column % 8; }

// K-major: row = M or N, column = K. MN-major: blocks of 64 of M or N, in each row = K.
DEVICE int place(bool mn_major, int mn, int k) {
    return mn_major ? mn / 64 * (K * 64) + in_rows_of_64(k, mn % 64) : in_rows_of_64(mn, k);
}

template <int N, int A_MN_MAJOR, int B_MN_MAJOR>
DEVICE void multiply(float (&d)[N / 2], uint64_t a, uint64_t b) {
    if constexpr (N == 64) ptx::wgmma_m64n64k16<A_MN_MAJOR, B_MN_MAJOR>(d, a, b);
    if constexpr (N == 128) ptx::wgmma_m64n128k16<A_MN_MAJOR, B_MN_MAJOR>(d, a, b);
    if constexpr (N == 256) ptx::wgmma_m64n256k16<A_MN_MAJOR, B_MN_MAJOR>(d, a, b);
}

template <int N, int A_MN_MAJOR, int B_MN_MAJOR>
DEVICE void test(int* failures, bf16* shared) {
    bf16 *a = shared, *b = shared + 64 * K;
    for (int i = threadIdx.x; i < 64 * K; i += 128) a[place(A_MN_MAJOR, i / K, i % K)] = small(i / K, i % K);
    for (int i = threadIdx.x; i < N * K; i += 128) b[place(B_MN_MAJOR, i / K, i % K)] = small(i % K + 5, i / K);
    ptx::fence_proxy_async();
    __syncthreads();
    float d[N / 2];
    for (int i = 0; i < N / 2; i++) d[i] = i;
    uint64_t at_a = ptx::wgmma_descriptor(a, K * 128, 1024), at_b = ptx::wgmma_descriptor(b, K * 128, 1024);
    ptx::wgmma_fence();
    for (int k = 0; k < K / 16; k++) {
        multiply<N, A_MN_MAJOR, B_MN_MAJOR>(d, at_a + k * (A_MN_MAJOR ? 128 : 2), at_b + k * (B_MN_MAJOR ? 128 : 2));
        if (k == 1) ptx::wgmma_commit();
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>(d);
    ptx::wgmma_wait<0>(d);
    for (int i = 0; i < N / 2; i++) {
        int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + (i % 4 < 2 ? 0 : 8);
        int column = i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
        float sum = i;
        for (int k = 0; k < K; k++) sum += small(row, k) * small(k + 5, column);
        expect(failures, d[i] == sum);
    }
    __syncthreads();
}

template <int N>
DEVICE void test_all(int* failures, bf16* shared) {
    test<N, 0, 0>(failures, shared);
    test<N, 0, 1>(failures, shared);
    test<N, 1, 0>(failures, shared);
    test<N, 1, 1>(failures, shared);
}

SELFTEST(128, selftest_wgmma_64) {
    UNUSED;
    DYNAMIC_SHARED(bf16, shared);
    test_all<64>(failures, shared);
}
SELFTEST(128, selftest_wgmma_128) {
    UNUSED;
    DYNAMIC_SHARED(bf16, shared);
    test_all<128>(failures, shared);
}
SELFTEST(128, selftest_wgmma_256) {
    UNUSED;
    DYNAMIC_SHARED(bf16, shared);
    test_all<256>(failures, shared);
}

// One producer warpgroup with TMA, two consumer warpgroups, a ring of three stages: d = map map^T over its 90 columns,
// each consumer for the same 64 rows. Full: 1 arrival and the bytes; empty: 1 arrival a consumer warp.
SELFTEST(384, selftest_pipeline) {
    UNUSED;
    constexpr int STAGES = 3, STEPS = 8;
    DYNAMIC_SHARED(bf16, tiles);
    STATIC_SHARED(uint64_t[STAGES], full);
    STATIC_SHARED(uint64_t[STAGES], empty);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            ptx::mbarrier_init(&full[i], 1);
            ptx::mbarrier_init(&empty[i], 8);
        }
        ptx::fence_mbarrier_init();
        // As bf16, element i of the map would be the number with the bits i: replaced by exact small numbers.
        for (int i = 0; i < DATA_ROWS * DATA_PITCH; i++) data[i] = bf16(small(i / DATA_PITCH, i % DATA_PITCH)).bits;
    }
    __syncthreads();
    if (warp_id() < 4) {
        ptx::setmaxnreg_dec<40>();
        if (threadIdx.x == 0)
            for (int step = 0; step < STEPS; step++) {
                int stage = step % STAGES;
                ptx::mbarrier_wait(&empty[stage], step / STAGES % 2 ^ 1);
                ptx::mbarrier_arrive_expect_tx(&full[stage], 64 * 128);
                ptx::tma_load_2d(tiles + stage * 4096, &map, step % 2 * 64, 0, &full[stage]);
            }
    } else {
        ptx::setmaxnreg_inc<232>();
        float d[32];
        for (int i = 0; i < 32; i++) d[i] = 0.f;
        for (int step = 0; step < STEPS; step++) {
            int stage = step % STAGES;
            ptx::mbarrier_wait(&full[stage], step / STAGES % 2);
            uint64_t at = ptx::wgmma_descriptor(tiles + stage * 4096, 0, 1024);
            ptx::wgmma_fence();
            for (int k = 0; k < 4; k++) ptx::wgmma_m64n64k16<0, 0>(d, at + 2 * k, at + 2 * k);
            ptx::wgmma_commit();
            ptx::wgmma_wait<0>(d);
            if (lane_id() == 0) ptx::mbarrier_arrive(&empty[stage]);
        }
        for (int i = 0; i < 32; i++) {
            int row = warp_id() % 4 * 16 + lane_id() / 4 + i / 2 % 2 * 8,
                column = i / 4 * 8 + lane_id() % 4 * 2 + i % 2;
            float sum = 0.f;
            for (int k = 0; k < MAP_COLUMNS; k++) sum += small(row, k) * small(column, k);
            expect(failures, d[i] == STEPS / 2 * sum);
        }
    }
}
