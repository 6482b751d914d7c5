// Kernels that are wrong, each in one way: addresses.
#include "selftest.cuh"

SELFTEST(32, bad_static_overrun) {
    UNUSED;
    STATIC_SHARED(int[32], slot);
    if (lane_id() == 0) slot[0] = 1;
    int* p = slot;
    p[lane_id() + 1 + int(data[0])] = 1;
}

SELFTEST(32, bad_dynamic_overrun) {
    UNUSED;
    DYNAMIC_SHARED(int, slot);
    slot[lane_id() + 1] = 1;
}

SELFTEST(32, bad_global_overrun) {
    UNUSED;
    if (threadIdx.x == 31) data[DATA_ROWS * DATA_PITCH] = 1;
}

SELFTEST(32, bad_vector_alignment) {
    UNUSED;
    store8(reinterpret_cast<bf16*>(data + 8 * lane_id() + 4), Pack8{});
}

SELFTEST(32, bad_cp_async_shared_alignment) {
    UNUSED;
    STATIC_SHARED(Pack8[33], slot);
    ptx::cp_async16(reinterpret_cast<char*>(&slot[lane_id()]) + 8, data);
}

SELFTEST(32, bad_cp_async_global_alignment) {
    UNUSED;
    STATIC_SHARED(Pack8[32], slot);
    ptx::cp_async16(&slot[lane_id()], data + 4);
}

SELFTEST(32, bad_cp_async_overrun) {
    UNUSED;
    STATIC_SHARED(Pack8[31], slot);
    ptx::cp_async16(&slot[lane_id()], data);
}

SELFTEST(32, bad_ldmatrix_alignment) {
    UNUSED;
    STATIC_SHARED(Pack8[33], slot);
    uint32_t r[4];
    ptx::ldmatrix_x4(r, reinterpret_cast<char*>(&slot[lane_id()]) + 2);
}

SELFTEST(32, bad_ldmatrix_global) {
    UNUSED;
    uint32_t r[4];
    ptx::ldmatrix_x4(r, data);
}

SELFTEST(32, bad_register_array) {
    UNUSED;
    float r[4] = {};
    r[data[0] + 4 + lane_id()] = 1.f;
    expect(failures, r[data[1]] == 0.f);
}
