// Products on Hopper's tensor cores: persistent, warp-specialised; TMA fills a ring of tiles, wgmma empties it, and
// warps of their own take finished tiles through the epilogue while the next ones are being multiplied.
//
// C[rows, columns] = A B, bf16 with f32 accumulation. A is [rows, depth] (K-major) or [depth, rows] (M-major), B is
// [columns, depth] (K-major) or [depth, columns] (N-major), row-major in memory, rows of a multiple of 16 bytes.
//
// Grid: any number of blocks (as many as multiprocessors), which share the units of work; WGMMA_SHARED bytes each.
// Block: three warpgroups.
//   0  warp 0, producer: one thread waits for `empty`, announces bytes on `full`, issues TMA, for each 64 of the depth
//      warps 1 to 3, epilogue: take staged tiles to memory (products); sum A's columns beside wgmma (weight gradients)
//   1, 2  consumers, 64 rows of the tile each: wait for `full`, issue four wgmma m64nTILE_Nk16, and arrive on `empty`
//      when those of the stage before are done, so that one group is always under way
// Barriers (mbarrier, arrivals in a phase):
//   full[stage]   1 (producer) + the bytes of both tiles
//   empty[stage]  8 (a lane of each consumer warp); weight gradients: 11 (and of each epilogue warp)
//   staged        256 (consumers): the tile lies in `staging`
//   drained       96 (epilogue): `staging` may be written, and `bias` holds those of this tile and the next; phase i,
//                 of n + 1 for n tiles, lets tile i be staged and tile i + 1 begin
//
// Timeline of a block, products:   producer  | load 0 .. | load 1 ..  | load 2 ..
//                                  consumers | multiply 0 |stage| multiply 1 |stage| ...
//                                  epilogue  | bias 0, 1        | store 0, bias 2  | store 1, bias 3 ...
// While the consumers convert and stage a tile, the tensor cores rest: everything that can be is done elsewhere. So the
// bias is no addition after the sums but what they start from.
#pragma once
#include "linear_epilogue.cuh"
#if defined(HOPPER) || defined(EMULATOR)

constexpr int WGMMA_TILE_M = 128;
constexpr int WGMMA_TILE_K = 64;  // 128 bytes: the width of the swizzle
constexpr int WGMMA_THREADS = 384;  // of 168 registers each, which every role has enough of: none moves its own
constexpr int EPILOGUE_THREADS = 96;

// Dynamic shared memory of every launch: one block of these 227 KiB runs on a multiprocessor at a time.
constexpr int WGMMA_SHARED = 212 * 1024;

// What is waited for, by name.
enum class Barrier : int { OTHER, FULL, EMPTY, STAGED, DRAINED };

template <int TILE_N, bool WEIGHT>
struct WgmmaShared {
    // Weight gradients stage nothing, so that their ring has a stage more.
    static constexpr int STAGES = TILE_N == 256 ? (WEIGHT ? 4 : 3) : (WEIGHT ? 6 : 5);

    bf16 a[STAGES][WGMMA_TILE_M * WGMMA_TILE_K];
    bf16 b[STAGES][TILE_N * WGMMA_TILE_K];
    bf16 staging[WEIGHT ? 8 : WGMMA_TILE_M * TILE_N];
    float bias[2][TILE_N];  // products: of even and of odd tiles
    EightColumnSums<WEIGHT ? EPILOGUE_THREADS : 0> sums;  // weight gradients: of A
    uint64_t full[STAGES], empty[STAGES], staged, drained;
};

// A place in the ring: the stage, and the parity of its current phase.
template <int STAGES>
struct Ring {
    int stage = 0;
    uint32_t parity = 0;
    __device__ __forceinline__ void advance() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// A tile of SIZE x 64: K-major as one box of SIZE rows of 64 values of K; MN-major as boxes of 64 rows of K, of 64
// values of M or N each, one after the other.
template <bool MN_MAJOR, int SIZE>
DEVICE void load_wgmma_tile(bf16* tile, const TensorMap* map, int first, int depth, uint64_t* full) {
    if (MN_MAJOR) {
#pragma unroll
        for (int i = 0; i < SIZE; i += 64) ptx::tma_load_2d(tile + i * WGMMA_TILE_K, map, first + i, depth, full);
    } else {
        ptx::tma_load_2d(tile, map, depth, first, full);
    }
}

// acc[64 x TILE_N] += a[64 x 64] b[64 x TILE_N].
template <bool A_M_MAJOR, bool B_N_MAJOR, int TILE_N>
DEVICE void multiply_block(float (&acc)[TILE_N / 2], const bf16* a, const bf16* b) {
    constexpr uint32_t BOX = 64 * 128, GROUP = 8 * 128;  // bytes of 64 rows and of 8 rows of 128
    uint64_t a_tile = ptx::wgmma_descriptor(a, A_M_MAJOR ? BOX : 16, GROUP);
    uint64_t b_tile = ptx::wgmma_descriptor(b, B_N_MAJOR ? BOX : 16, GROUP);
#pragma unroll
    for (int k = 0; k < WGMMA_TILE_K / 16; k++) {
        uint64_t a_step = a_tile + k * (A_M_MAJOR ? 128 : 2), b_step = b_tile + k * (B_N_MAJOR ? 128 : 2);
        if constexpr (TILE_N == 256) ptx::wgmma_m64n256k16<A_M_MAJOR, B_N_MAJOR>(acc, a_step, b_step);
        else ptx::wgmma_m64n128k16<A_M_MAJOR, B_N_MAJOR>(acc, a_step, b_step);
    }
}

// Producer, one thread.
template <bool A_M_MAJOR, bool B_N_MAJOR, int TILE_N, bool WEIGHT>
DEVICE void wgmma_produce(WgmmaShared<TILE_N, WEIGHT>* shared, const TensorMap* a, const TensorMap* b,
                          const Units& units) {
    Ring<WgmmaShared<TILE_N, WEIGHT>::STAGES> ring;
    ptx::prefetch_tensormap(a);
    ptx::prefetch_tensormap(b);
    for (int index = blockIdx.x; index < units.count; index += gridDim.x) {
        Unit unit = units[index];
#pragma unroll 1
        for (int block = unit.first; block < unit.last; block++) {
            // The phase before the first counts as completed: the first round passes at once.
            ptx::mbarrier_wait(&shared->empty[ring.stage], ring.parity ^ 1, int(Barrier::EMPTY));
            uint64_t* full = &shared->full[ring.stage];
            ptx::mbarrier_arrive_expect_tx(full, (WGMMA_TILE_M + TILE_N) * WGMMA_TILE_K * sizeof(bf16));
            int at = block * WGMMA_TILE_K;
            load_wgmma_tile<A_M_MAJOR, WGMMA_TILE_M>(shared->a[ring.stage], a, unit.row, at, full);
            load_wgmma_tile<B_N_MAJOR, TILE_N>(shared->b[ring.stage], b, unit.column, at, full);
            ring.advance();
        }
    }
}

// Consumers: warpgroup `half` of two multiplies its 64 rows; weight gradients leave from the registers.
template <bool A_M_MAJOR, bool B_N_MAJOR, int TILE_N, bool WEIGHT>
DEVICE void wgmma_consume(WgmmaShared<TILE_N, WEIGHT>* shared, int half, int rows, int columns, const Units& units,
                          float* out) {
    Ring<WgmmaShared<TILE_N, WEIGHT>::STAGES> ring;
    int row = half * 64 + warp_id() % 4 * 16 + lane_id() / 4;  // of the tile, and row + 8: what a lane holds,
    int pair = 2 * (lane_id() % 4);                            // in columns pair and pair + 1 of each eight
    uint32_t parity = 0;                                       // of the tiles
    if (!WEIGHT) ptx::mbarrier_wait(&shared->drained, 0, int(Barrier::DRAINED));  // for the first bias
    for (int index = blockIdx.x; index < units.count; index += gridDim.x, parity ^= 1) {
        Unit unit = units[index];
        float acc[TILE_N / 2];
#pragma unroll
        for (int j = 0; j < TILE_N / 8; j++) {
            acc[4 * j] = acc[4 * j + 2] = WEIGHT ? 0.f : shared->bias[parity][8 * j + pair];
            acc[4 * j + 1] = acc[4 * j + 3] = WEIGHT ? 0.f : shared->bias[parity][8 * j + pair + 1];
        }
        int previous = 0, block = unit.first;
#pragma unroll 1
        do {  // a unit has a block: without a path around the loop the accumulators stay where they are
            ptx::mbarrier_wait(&shared->full[ring.stage], ring.parity, int(Barrier::FULL));
            ptx::wgmma_fence();
            multiply_block<A_M_MAJOR, B_N_MAJOR, TILE_N>(acc, shared->a[ring.stage] + half * 64 * WGMMA_TILE_K,
                                                         shared->b[ring.stage]);
            ptx::wgmma_commit();
            ptx::wgmma_wait<1>(acc);
            if (block > unit.first && lane_id() == 0) ptx::mbarrier_arrive(&shared->empty[previous]);
            previous = ring.stage;
            ring.advance();
        } while (++block < unit.last);
        ptx::wgmma_wait<0>(acc);
        if (lane_id() == 0) ptx::mbarrier_arrive(&shared->empty[previous]);

        if constexpr (WEIGHT) {
            float* to = out + int64_t(unit.split) * rows * columns;
#pragma unroll
            for (int j = 0; j < TILE_N / 8; j++) {
                int column = unit.column + 8 * j + pair;
                store_pair<true>(to, unit.row + row, column, rows, columns, acc[4 * j], acc[4 * j + 1]);
                store_pair<true>(to, unit.row + row + 8, column, rows, columns, acc[4 * j + 2], acc[4 * j + 3]);
            }
        } else {
            ptx::mbarrier_wait(&shared->drained, parity, int(Barrier::DRAINED));
            // Chunks that are eight apart share an address but for a constant.
#pragma unroll
            for (int chunk = 0; chunk < 8; chunk++) {
                uint32_t* to = reinterpret_cast<uint32_t*>(shared->staging + staged_chunk<TILE_N>(row, chunk) + pair);
#pragma unroll
                for (int j = chunk; j < TILE_N / 8; j += 8) {
                    to[4 * (j - chunk)] = ptx::cvt_bf16x2(acc[4 * j], acc[4 * j + 1]);
                    to[4 * (j - chunk + TILE_N)] = ptx::cvt_bf16x2(acc[4 * j + 2], acc[4 * j + 3]);  // row + 8
                }
            }
            ptx::mbarrier_arrive(&shared->staged);
        }
    }
}

// Epilogue of the products: `thread` of EPILOGUE_THREADS.
template <int TILE_N, class Kind>
DEVICE void wgmma_finish(WgmmaShared<TILE_N, false>* shared, const Epilogue<Kind>& epilogue, int rows, int columns,
                         const Units& units, int thread) {
    auto load_bias = [&](int index, uint32_t parity) {
        if (index >= units.count) return;
        int first = units[index].column;
        for (int i = thread; i < TILE_N; i += EPILOGUE_THREADS) {
            bool valid = epilogue.bias && first + i < columns;
            shared->bias[parity][i] = valid ? float(epilogue.bias[first + i]) : 0.f;
        }
    };
    int index = blockIdx.x, step = gridDim.x;
    load_bias(index, 0);
    load_bias(index + step, 1);
    ptx::mbarrier_arrive(&shared->drained);
    for (uint32_t parity = 0; index < units.count; index += step, parity ^= 1) {
        Unit unit = units[index];
        auto ready = [&] { ptx::mbarrier_wait(&shared->staged, parity, int(Barrier::STAGED)); };
        epilogue_store<TILE_N, EPILOGUE_THREADS, true>(shared->staging, epilogue, unit.row, unit.column, rows, columns,
                                                       thread, ready);
        load_bias(index + 2 * step, parity);
        ptx::mbarrier_arrive(&shared->drained);
    }
}

// Beside the consumers of a weight gradient: column sums of A, in the units of the first column of tiles. `thread` of
// EPILOGUE_THREADS takes eight columns, and every sixth row of the depth.
template <int TILE_N>
DEVICE void wgmma_sum(WgmmaShared<TILE_N, true>* shared, int rows, const Units& units, float* sums, int thread) {
    Ring<WgmmaShared<TILE_N, true>::STAGES> ring;
    int chunk = thread % 16, lane = thread / 16;
    for (int index = blockIdx.x; index < units.count; index += gridDim.x) {
        Unit unit = units[index];
        bool summed = sums && unit.column == 0;
        float sum[8] = {};
        for (int block = unit.first; block < unit.last; block++) {
            ptx::mbarrier_wait(&shared->full[ring.stage], ring.parity, int(Barrier::FULL));
            if (summed) {
                const bf16* box = shared->a[ring.stage] + chunk / 8 * 64 * WGMMA_TILE_K;
#pragma unroll
                for (int first = 0; first < WGMMA_TILE_K; first += 6) {
                    int k = first + lane;
                    if (k >= WGMMA_TILE_K) break;
                    Pack8 values = load8(box + (k * 8 + ((chunk % 8) ^ (k % 8))) * 8);  // as TMA swizzles
#pragma unroll
                    for (int i = 0; i < 8; i++) sum[i] += values.get(i);
                }
            }
            __syncwarp();
            if (lane_id() == 0) ptx::mbarrier_arrive(&shared->empty[ring.stage]);
            ring.advance();
        }
        if (summed) {
            shared->sums.put(thread, sum);
            ptx::bar_sync(1, EPILOGUE_THREADS);
            for (int i = thread; i < WGMMA_TILE_M && unit.row + i < rows; i += EPILOGUE_THREADS) {
                sums[int64_t(unit.split) * rows + unit.row + i] = shared->sums.template total<WGMMA_TILE_M>(i);
            }
            ptx::bar_sync(1, EPILOGUE_THREADS);  // before the next unit's sums
        }
    }
}

// WEIGHT: `out` is f32 [splits, rows, columns], the depth cut into `splits`, and `sums` (if not null) is f32
// [splits, rows], the sums of A over the depth. Otherwise `splits` is 1 and `epilogue` says what becomes of C.
template <bool A_M_MAJOR, bool B_N_MAJOR, int TILE_N, bool WEIGHT, class Kind>
DEVICE void wgmma_product(const TensorMap* a, const TensorMap* b, int rows, int columns, int depth, int splits,
                          const Epilogue<Kind>& epilogue, float* out, float* sums) {
    static_assert(!WEIGHT || (A_M_MAJOR && B_N_MAJOR), "weight gradients sum over the rows of both operands");
    using Shared = WgmmaShared<TILE_N, WEIGHT>;
    static_assert(sizeof(Shared) <= WGMMA_SHARED, "the ring and the staged tile fit");
    DYNAMIC_SHARED(Shared, shared);
    if (threadIdx.x == 0) {
        for (int i = 0; i < Shared::STAGES; i++) {
            ptx::mbarrier_init(&shared->full[i], 1);
            ptx::mbarrier_init(&shared->empty[i], WEIGHT ? 11 : 8);
        }
        ptx::mbarrier_init(&shared->staged, 256);
        ptx::mbarrier_init(&shared->drained, EPILOGUE_THREADS);
        ptx::fence_mbarrier_init();
    }
    __syncthreads();

    Units units(rows, columns, depth, WGMMA_TILE_M, TILE_N, WGMMA_TILE_K, splits);
    int warpgroup = warp_id() / 4;
    if (warpgroup == 0) {
        if (threadIdx.x == 0) wgmma_produce<A_M_MAJOR, B_N_MAJOR, TILE_N, WEIGHT>(shared, a, b, units);
        if (threadIdx.x >= 32) {
            if constexpr (WEIGHT) wgmma_sum<TILE_N>(shared, rows, units, sums, threadIdx.x - 32);
            else wgmma_finish<TILE_N>(shared, epilogue, rows, columns, units, threadIdx.x - 32);
        }
    } else {
        wgmma_consume<A_M_MAJOR, B_N_MAJOR, TILE_N, WEIGHT>(shared, warpgroup - 1, rows, columns, units, out);
    }
}

#endif
