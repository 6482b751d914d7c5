// ldmatrix and mma against the fragment layouts of the PTX ISA ("Matrix fragments for mma.m16n8k16", "ldmatrix").
#include "selftest.cuh"

// Row r of matrix m holds 64 m + 8 r + column.
SELFTEST(32, selftest_ldmatrix) {
    UNUSED;
    STATIC_SHARED(Pack8[32], rows);
    uint16_t* values = reinterpret_cast<uint16_t*>(rows);
    int lane = lane_id();
    for (int column = 0; column < 8; column++) values[lane * 8 + column] = lane * 8 + column;
    __syncwarp();
    uint32_t straight[4], turned[4];
    ptx::ldmatrix_x4(straight, &rows[lane]);
    ptx::ldmatrix_x4_trans(turned, &rows[lane]);
    for (int m = 0; m < 4; m++)
        for (int half = 0; half < 2; half++) {
            int row = lane / 4, column = lane % 4 * 2 + half;
            expect(failures, (straight[m] >> 16 * half & 0xffff) == 64 * m + 8 * row + column);
            expect(failures, (turned[m] >> 16 * half & 0xffff) == 64 * m + 8 * column + row);
        }
}

SELFTEST(64, selftest_mma) {
    UNUSED;
    int group = lane_id() >> 2, in_group = lane_id() % 4;
    uint16_t a[8], b[4];
    for (int i = 0; i < 8; i++) {
        int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
        int column = in_group * 2 + (i & 1) + (i < 4 ? 0 : 8);
        a[i] = bf16(small(row, column)).bits;
    }
    for (int i = 0; i < 4; i++) {
        int row = in_group * 2 + (i & 1) + (i < 2 ? 0 : 8);
        b[i] = bf16(small(row + 50, group)).bits;
    }
    float d[4];
    uint32_t packed[4];
    for (int i = 0; i < 4; i++) {
        d[i] = 1000 * i + lane_id();
        packed[i] = a[2 * i] | uint32_t(a[2 * i + 1]) << 16;
    }
    ptx::mma_m16n8k16(d, packed, b[0] | uint32_t(b[1]) << 16, b[2] | uint32_t(b[3]) << 16);
    for (int i = 0; i < 4; i++) {
        int row = i < 2 ? group : group + 8, column = in_group * 2 + (i & 1);
        float sum = 1000 * i + lane_id();
        for (int k = 0; k < 16; k++) sum += small(row, k) * small(k + 50, column);
        expect(failures, d[i] == sum);
    }
}
