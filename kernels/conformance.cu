// One tiny kernel for each function of ptx.cuh: it runs the instruction on operands from a buffer and writes down what
// came out. `perennial check` does this before all else and compares with the PTX ISA's own definitions, which
// src/check/conformance.rs spells out. The same kernels run on a GPU and on the emulator, so both are held to one text.
//
// All are one block, and speed does not matter. Functions that mean nothing alone share a kernel.
#include "common.cuh"

// address[t] = ptx::shared_address of byte offset[t] of the block's dynamic shared memory. 128 threads.
KERNEL(128, 1, conformance_shared_address, const uint32_t* offset, uint32_t* address) {
    DYNAMIC_SHARED(unsigned char, bytes);
    address[threadIdx.x] = ptx::shared_address(bytes + offset[threadIdx.x]);
}

// y[i] = ptx::ex2(x[i]): x, y [count]. 128 threads.
KERNEL(128, 1, conformance_ex2, const float* x, float* y, int count) {
    for (int i = threadIdx.x; i < count; i += 128) y[i] = ptx::ex2(x[i]);
}

// y[i] = ptx::rcp(x[i]): x, y [count]. 128 threads.
KERNEL(128, 1, conformance_rcp, const float* x, float* y, int count) {
    for (int i = threadIdx.x; i < count; i += 128) y[i] = ptx::rcp(x[i]);
}

// pair[i] = ptx::cvt_bf16x2(low[i], high[i]): low, high, pair [count]. 128 threads.
KERNEL(128, 1, conformance_cvt_bf16x2, const float* low, const float* high, uint32_t* pair, int count) {
    for (int i = threadIdx.x; i < count; i += 128) pair[i] = ptx::cvt_bf16x2(low[i], high[i]);
}

// The type bf16: narrow[i] = bf16(wide[i]), back[i] = float(narrow[i]): wide, narrow, back [count]. 128 threads.
KERNEL(128, 1, conformance_bf16, const float* wide, bf16* narrow, float* back, int count) {
    for (int i = threadIdx.x; i < count; i += 128) {
        narrow[i] = bf16(wide[i]);
        back[i] = float(narrow[i]);
    }
}

// ptx::cp_async16, cp_async_commit, cp_async_wait: two groups of one 16-byte copy a thread, into shared memory that
// held chunks[0] everywhere. Thread t copies chunks[from[t]] into slot t, then chunks[from[128 + t]] into slot 128 + t,
// and where `from` is below 0 zeros. With one group left under way it reads its own first slot; after both, the second
// slot of the thread opposite: seen[t] is slot t, seen[128 + t] slot 128 + 127 - t.
//
// chunks [any], from [256], seen [256]. 128 threads; 4 KiB of shared memory.
KERNEL(128, 1, conformance_cp_async16, const Pack8* chunks, const int* from, Pack8* seen) {
    DYNAMIC_SHARED(Pack8, slots);
    int t = threadIdx.x, first = from[t], second = from[128 + t];
    slots[t] = chunks[0];
    slots[128 + t] = chunks[0];
    __syncthreads();
    ptx::cp_async16(slots + t, chunks + max(first, 0), first >= 0);
    ptx::cp_async_commit();
    ptx::cp_async16(slots + 128 + t, chunks + max(second, 0), second >= 0);
    ptx::cp_async_commit();
    ptx::cp_async_wait<1>();
    seen[t] = slots[t];
    ptx::cp_async_wait<0>();
    __syncthreads();
    seen[128 + t] = slots[128 + 127 - t];
}

// Copies `chunks` to shared memory and loads four matrices, whose row r of matrix m is chunk row[8 m + r].
// chunks and shared [64], row [32], registers [32, 4].
template <bool TRANSPOSED>
DEVICE void load_matrices(Pack8* shared, const Pack8* chunks, const int* row, uint32_t* registers) {
    int lane = threadIdx.x;
    shared[lane] = chunks[lane];
    shared[32 + lane] = chunks[32 + lane];
    __syncwarp();
    uint32_t r[4];
    if constexpr (TRANSPOSED)
        ptx::ldmatrix_x4_trans(r, shared + row[lane]);
    else
        ptx::ldmatrix_x4(r, shared + row[lane]);
#pragma unroll
    for (int i = 0; i < 4; i++) registers[4 * lane + i] = r[i];
}

// ptx::ldmatrix_x4, as load_matrices says. One warp; 1 KiB of shared memory.
KERNEL(32, 1, conformance_ldmatrix_x4, const Pack8* chunks, const int* row, uint32_t* registers) {
    DYNAMIC_SHARED(Pack8, shared);
    load_matrices<false>(shared, chunks, row, registers);
}

// ptx::ldmatrix_x4_trans, likewise.
KERNEL(32, 1, conformance_ldmatrix_x4_trans, const Pack8* chunks, const int* row, uint32_t* registers) {
    DYNAMIC_SHARED(Pack8, shared);
    load_matrices<true>(shared, chunks, row, registers);
}

// ptx::mma_m16n8k16 on each lane's registers: a [32, 4], b [32, 2], c and d [32, 4], d = a b + c. One warp.
KERNEL(32, 1, conformance_mma_m16n8k16, const uint32_t* a, const uint32_t* b, const float* c, float* d) {
    int lane = threadIdx.x;
    uint32_t left[4];
    float sum[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        left[i] = a[4 * lane + i];
        sum[i] = c[4 * lane + i];
    }
    ptx::mma_m16n8k16(sum, left, b[2 * lane], b[2 * lane + 1]);
#pragma unroll
    for (int i = 0; i < 4; i++) d[4 * lane + i] = sum[i];
}

// ptx::bar_sync and bar_arrive: warps 0 and 1 hand 64 values a round to warps 2 and 3, which take them in reverse.
// Barrier 1 (128 arrivals): the values are there; the writers arrive. Barrier 15 (128): they have been read; the
// readers arrive. Before, each half of the block meets at a barrier of its own (64 arrivals, 2 and 3).
//
// value, seen [rounds + 2, 64]: seen[r, t] = value[r, 63 - t]; the last two are the exchanges within each half. 128
// threads.
KERNEL(128, 1, conformance_bar_sync, const uint32_t* value, uint32_t* seen, int rounds) {
    STATIC_SHARED(uint32_t[2][64], slot);
    int half = threadIdx.x / 64, t = threadIdx.x % 64;
    slot[half][t] = value[(rounds + half) * 64 + t];
    if (half == 0) {
        ptx::bar_sync(2, 64);
        seen[rounds * 64 + t] = slot[0][63 - t];
        ptx::bar_sync(2, 64);
    } else {
        ptx::bar_sync(3, 64);
        seen[(rounds + 1) * 64 + t] = slot[1][63 - t];
    }
    for (int round = 0; round < rounds; round++) {
        if (half == 0) {
            slot[0][t] = value[round * 64 + t];
            ptx::bar_arrive(1, 128);
            ptx::bar_sync(15, 128);
        } else {
            ptx::bar_sync(1, 128);
            seen[round * 64 + t] = slot[0][63 - t];
            ptx::bar_arrive(15, 128);
        }
    }
}

#ifdef HOPPER

// ptx::mbarrier_init, fence_mbarrier_init, mbarrier_arrive, mbarrier_wait: a ring of two stages from warps 0 to 3 to
// warps 4 to 7. full[stage]: 128 arrivals, each writer's; empty[stage]: 4, one a reading warp. Writers wait for a stage
// to be empty, which at first it is: the parity waited for is that of the phase before the first.
//
// value, seen [steps, 128]: seen[s, t] = value[s, 127 - t].
KERNEL(256, 1, conformance_mbarrier_wait, const uint32_t* value, uint32_t* seen, int steps) {
    STATIC_SHARED(uint64_t[2], full);
    STATIC_SHARED(uint64_t[2], empty);
    STATIC_SHARED(uint32_t[2][128], slot);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < 2; stage++) {
            ptx::mbarrier_init(&full[stage], 128);
            ptx::mbarrier_init(&empty[stage], 4);
        }
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    int t = threadIdx.x % 128;
    for (int step = 0; step < steps; step++) {
        int stage = step % 2, parity = step / 2 % 2;
        if (threadIdx.x < 128) {
            ptx::mbarrier_wait(&empty[stage], parity ^ 1);
            slot[stage][t] = value[step * 128 + t];
            ptx::mbarrier_arrive(&full[stage]);
        } else {
            ptx::mbarrier_wait(&full[stage], parity);
            seen[step * 128 + t] = slot[stage][127 - t];
            __syncwarp();
            if (lane_id() == 0) ptx::mbarrier_arrive(&empty[stage]);
        }
    }
}

// ptx::tma_load_2d, prefetch_tensormap, mbarrier_arrive_expect_tx: `pairs` pairs of boxes of `map`, at elements
// (place[2 i], place[2 i + 1]), the shared memory of both copied out as it is. ready: 2 arrivals, of which one
// announces the bytes of both boxes; a pair is a phase.
//
// place [2 pairs, 2], out [2 pairs, box_bytes / 16]; box_bytes a multiple of 1024. 128 threads; 2 box_bytes of shared
// memory.
KERNEL(128, 1, conformance_tma_load_2d, const __grid_constant__ TensorMap map, const int* place, Pack8* out, int pairs,
       int box_bytes) {
    STATIC_SHARED(uint64_t, ready);
    DYNAMIC_SHARED(Pack8, boxes);
    if (threadIdx.x == 0) {
        ptx::prefetch_tensormap(&map);
        ptx::mbarrier_init(&ready, 2);
        ptx::fence_mbarrier_init();
    }
    __syncthreads();
    int chunks = box_bytes / 16;
    for (int pair = 0; pair < pairs; pair++) {
        if (threadIdx.x == 0) {
            const int* at = place + 4 * pair;
            ptx::mbarrier_arrive_expect_tx(&ready, 2 * box_bytes);
            ptx::tma_load_2d(boxes, &map, at[0], at[1], &ready);
            ptx::tma_load_2d(boxes + chunks, &map, at[2], at[3], &ready);
        }
        if (threadIdx.x == 32) ptx::mbarrier_arrive(&ready);
        ptx::mbarrier_wait(&ready, pair % 2);
        for (int i = threadIdx.x; i < 2 * chunks; i += 128) out[pair * 2 * chunks + i] = boxes[i];
        __syncthreads();
    }
}

template <int N, int A_MN_MAJOR, int B_MN_MAJOR>
DEVICE void multiply(float (&d)[N / 2], uint64_t a, uint64_t b) {
    if constexpr (N == 64) ptx::wgmma_m64n64k16<A_MN_MAJOR, B_MN_MAJOR>(d, a, b);
    if constexpr (N == 128) ptx::wgmma_m64n128k16<A_MN_MAJOR, B_MN_MAJOR>(d, a, b);
    if constexpr (N == 256) ptx::wgmma_m64n256k16<A_MN_MAJOR, B_MN_MAJOR>(d, a, b);
}

// Where an operand of 64 values of K lies in shared memory, in bytes: what a descriptor says, and how much further the
// next 16 values of K are.
struct Layout {
    int start, leading, stride, step;
};

// Both operands, in an image of shared memory of so many bytes.
struct Operands {
    Layout a, b;
    int bytes;
};

// The `k`-th 16 values of K.
DEVICE uint64_t operand(const unsigned char* shared, const Layout& layout, int k) {
    return ptx::wgmma_descriptor(shared + layout.start, layout.leading, layout.stride) + (k * layout.step >> 4);
}

// Fills shared memory by ordinary stores, for wgmma.
DEVICE void store_image(unsigned char* shared, const Pack8* image, int bytes) {
    for (int i = threadIdx.x; i < bytes / 16; i += 128) reinterpret_cast<Pack8*>(shared)[i] = image[i];
    ptx::fence_proxy_async();
    __syncthreads();
}

template <int COUNT>
DEVICE void load_registers(float (&d)[COUNT], const float* from) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) d[i] = from[i * 128 + threadIdx.x];
}
template <int COUNT>
DEVICE void store_registers(float* to, const float (&d)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) to[i * 128 + threadIdx.x] = d[i];
}

// sum += A B for A [64, 64] and B [64, N], in four steps of 16: one group.
template <int N, int A_MN_MAJOR, int B_MN_MAJOR>
DEVICE void multiply_all(float (&sum)[N / 2], const unsigned char* shared, const Operands& operands) {
#pragma unroll
    for (int k = 0; k < 4; k++)
        multiply<N, A_MN_MAJOR, B_MN_MAJOR>(sum, operand(shared, operands.a, k), operand(shared, operands.b, k));
    ptx::wgmma_commit();
}

// The kernels conformance_wgmma_m64nNk16_AB, A and B each k for K-major or m for MN-major, and with them
// wgmma_descriptor: d = A B + c for A [64, 64] and B [64, N], which lie in an image of shared memory as `at` says. c
// and d are the registers [N / 2, 128]. One warpgroup.
template <int N, int A_MN_MAJOR, int B_MN_MAJOR>
DEVICE void multiply_image(unsigned char* shared, const Pack8* image, const Operands* at, const float* c, float* d) {
    Operands operands = *at;
    store_image(shared, image, operands.bytes);
    float sum[N / 2];
    load_registers(sum, c);
    ptx::wgmma_fence();
    multiply_all<N, A_MN_MAJOR, B_MN_MAJOR>(sum, shared, operands);
    ptx::wgmma_wait<0>(sum);
    store_registers(d, sum);
}

KERNEL(128, 1, conformance_wgmma_m64n64k16_kk, const Pack8* image, const Operands* at, const float* c, float* d) {
    DYNAMIC_SHARED(unsigned char, shared);
    multiply_image<64, 0, 0>(shared, image, at, c, d);
}
KERNEL(128, 1, conformance_wgmma_m64n64k16_km, const Pack8* image, const Operands* at, const float* c, float* d) {
    DYNAMIC_SHARED(unsigned char, shared);
    multiply_image<64, 0, 1>(shared, image, at, c, d);
}
KERNEL(128, 1, conformance_wgmma_m64n64k16_mk, const Pack8* image, const Operands* at, const float* c, float* d) {
    DYNAMIC_SHARED(unsigned char, shared);
    multiply_image<64, 1, 0>(shared, image, at, c, d);
}
KERNEL(128, 1, conformance_wgmma_m64n64k16_mm, const Pack8* image, const Operands* at, const float* c, float* d) {
    DYNAMIC_SHARED(unsigned char, shared);
    multiply_image<64, 1, 1>(shared, image, at, c, d);
}
KERNEL(128, 1, conformance_wgmma_m64n128k16_kk, const Pack8* image, const Operands* at, const float* c, float* d) {
    DYNAMIC_SHARED(unsigned char, shared);
    multiply_image<128, 0, 0>(shared, image, at, c, d);
}
KERNEL(128, 1, conformance_wgmma_m64n128k16_km, const Pack8* image, const Operands* at, const float* c, float* d) {
    DYNAMIC_SHARED(unsigned char, shared);
    multiply_image<128, 0, 1>(shared, image, at, c, d);
}
KERNEL(128, 1, conformance_wgmma_m64n128k16_mk, const Pack8* image, const Operands* at, const float* c, float* d) {
    DYNAMIC_SHARED(unsigned char, shared);
    multiply_image<128, 1, 0>(shared, image, at, c, d);
}
KERNEL(128, 1, conformance_wgmma_m64n128k16_mm, const Pack8* image, const Operands* at, const float* c, float* d) {
    DYNAMIC_SHARED(unsigned char, shared);
    multiply_image<128, 1, 1>(shared, image, at, c, d);
}
KERNEL(128, 1, conformance_wgmma_m64n256k16_kk, const Pack8* image, const Operands* at, const float* c, float* d) {
    DYNAMIC_SHARED(unsigned char, shared);
    multiply_image<256, 0, 0>(shared, image, at, c, d);
}
KERNEL(128, 1, conformance_wgmma_m64n256k16_km, const Pack8* image, const Operands* at, const float* c, float* d) {
    DYNAMIC_SHARED(unsigned char, shared);
    multiply_image<256, 0, 1>(shared, image, at, c, d);
}
KERNEL(128, 1, conformance_wgmma_m64n256k16_mk, const Pack8* image, const Operands* at, const float* c, float* d) {
    DYNAMIC_SHARED(unsigned char, shared);
    multiply_image<256, 1, 0>(shared, image, at, c, d);
}
KERNEL(128, 1, conformance_wgmma_m64n256k16_mm, const Pack8* image, const Operands* at, const float* c, float* d) {
    DYNAMIC_SHARED(unsigned char, shared);
    multiply_image<256, 1, 1>(shared, image, at, c, d);
}

// ptx::wgmma_fence, wgmma_commit, wgmma_wait: two groups of products. The first one's sums are written while the second
// may be under way, then doubled and multiplied on: d[0] = A B + c[0], d[1] = A B + c[1], d[2] = 2 d[0] + A B.
//
// One warpgroup; A [64, 64], B [64, 64], both K-major, and c [2], d [3] times the registers [32, 128], as above.
KERNEL(128, 1, conformance_wgmma_wait, const Pack8* image, const Operands* at, const float* c, float* d) {
    DYNAMIC_SHARED(unsigned char, shared);
    Operands operands = *at;
    store_image(shared, image, operands.bytes);
    float first[32], second[32];
    load_registers(first, c);
    load_registers(second, c + 32 * 128);
    ptx::wgmma_fence();
    multiply_all<64, 0, 0>(first, shared, operands);
    multiply_all<64, 0, 0>(second, shared, operands);
    ptx::wgmma_wait<1>(first);
    store_registers(d, first);
    ptx::wgmma_wait<0>(second);
    store_registers(d + 32 * 128, second);
#pragma unroll
    for (int i = 0; i < 32; i++) first[i] *= 2.f;
    ptx::wgmma_fence();
    multiply_all<64, 0, 0>(first, shared, operands);
    ptx::wgmma_wait<0>(first);
    store_registers(d + 2 * 32 * 128, first);
}

// ptx::fence_proxy_async: shared memory that wgmma has read is written anew by ordinary stores, `rounds` times, and
// each time wgmma must see what was written last. d[r] = A B of image r.
//
// image [rounds, bytes / 16], both operands K-major as `at` says, N = 64; d [rounds, 32, 128]. One warpgroup.
KERNEL(128, 1, conformance_fence_proxy_async, const Pack8* image, const Operands* at, float* d, int rounds) {
    DYNAMIC_SHARED(unsigned char, shared);
    Operands operands = *at;
    for (int round = 0; round < rounds; round++) {
        store_image(shared, image + round * (operands.bytes / 16), operands.bytes);
        float sum[32];
#pragma unroll
        for (int i = 0; i < 32; i++) sum[i] = 0.f;
        ptx::wgmma_fence();
        multiply_all<64, 0, 0>(sum, shared, operands);
        ptx::wgmma_wait<0>(sum);
        store_registers(d + round * 32 * 128, sum);
        __syncthreads();
    }
}

// Each value xor the sum of all COUNT of them, so that all are in registers at once.
template <int COUNT>
DEVICE void mix(const uint32_t (&value)[COUNT], uint32_t* to) {
    uint32_t sum = 0;
#pragma unroll
    for (int i = 0; i < COUNT; i++) sum += value[i];
#pragma unroll
    for (int i = 0; i < COUNT; i++) to[i * 384 + threadIdx.x] = value[i] ^ sum;
}
template <int COUNT>
DEVICE void load_values_to_mix(uint32_t (&value)[COUNT], const uint32_t* from) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) value[i] = from[i * 384 + threadIdx.x];
}

// ptx::setmaxnreg_dec and setmaxnreg_inc: warpgroup 0 keeps 16 values while it gives registers away, the other two hold
// more values at once than a thread of this block had at its start.
//
// from, to [200, 384], of which warpgroup 0 uses 16 rows: to[i, t] = from[i, t] xor the sum over i of from[i, t],
// modulo 2^32.
KERNEL(384, 1, conformance_setmaxnreg, const uint32_t* from, uint32_t* to) {
    if (warp_id() < 4) {
        uint32_t value[16];
        load_values_to_mix(value, from);
        ptx::setmaxnreg_dec<40>();
        mix(value, to);
    } else {
        ptx::setmaxnreg_inc<232>();
        uint32_t value[200];
        load_values_to_mix(value, from);
        mix(value, to);
    }
}

#endif  // HOPPER
