// The C interface of a library of kernels, libemulator.so: defined in launch.cpp and tma.cpp, called by the emulated driver
// (driver/) and by emulator.py.
#pragma once
#include <stddef.h>
#include <stdint.h>

extern "C" {

// In which order threads run, and when what is asynchronous takes effect: docs/emulator.md.
struct EmulatorSchedule {
    int order;
    int completion;
    uint64_t seed;
    int threads;
};

// One parameter of a kernel: how many bytes it has, and whether it is a pointer through which the kernel may write.
struct EmulatorParameter {
    uint32_t bytes;
    uint8_t pointer, writes;
};

// What warps have been asked to do, in flavour count: docs/emulator.md has the rules. Numbers of instructions are of whole
// warps, whichever of their lanes take part; `wavefronts` are passes through shared memory, and `ideal` how many of them
// there would be without bank conflicts.
struct EmulatorWarpCounts {
    uint64_t global_loads, global_load_bytes, global_load_sectors;
    uint64_t global_stores, global_store_bytes, global_store_sectors;
    uint64_t global_atomics;
    uint64_t shared_loads, shared_load_wavefronts, shared_load_ideal;
    uint64_t shared_stores, shared_store_wavefronts, shared_store_ideal;
    uint64_t shared_atomics;
    uint64_t matrix_loads, matrix_load_wavefronts, matrix_load_ideal;  // ldmatrix
    uint64_t copies, copy_bytes, copy_sectors;                         // cp.async: from global memory
    uint64_t copy_wavefronts, copy_ideal;                              // and into shared memory
    uint64_t boxes, box_bytes, box_sectors;                            // TMA: from global memory
    uint64_t mmas, wgmmas;          // of a warp: four of them are one of a warpgroup's
    uint64_t multiply_adds;         // of both
    uint64_t wgmma_operand_bytes;   // read from shared memory: A once, B once for the four warps
    uint64_t special;               // ex2, rcp and the like
    uint64_t shuffles, votes, warp_barriers;
    uint64_t barrier_waits, barrier_arrivals;  // of __syncthreads and bar_sync; of bar_arrive
    uint64_t mbarrier_waits, mbarrier_arrivals;
};

// What warps are for, by what they do in a block: those with products, the others with asynchronous copies, and the rest.
enum EmulatorRole { EMULATOR_PRODUCTS, EMULATOR_COPIES, EMULATOR_REST, EMULATOR_ROLES };

struct EmulatorCounters {
    uint64_t launches, blocks;
    uint64_t warps[EMULATOR_ROLES];
    struct EmulatorWarpCounts of[EMULATOR_ROLES];
};

int emulator_check(const char* name, const uint32_t grid[3], const uint32_t block_size[3], uint32_t shared_bytes,
                   const EmulatorSchedule* schedule, char* error, size_t error_bytes);
int emulator_launch(const char* name, const uint32_t grid[3], const uint32_t block_size[3], uint32_t shared_bytes,
                    void** arguments, const EmulatorSchedule* schedule, EmulatorCounters* counters, char* error,
                    size_t error_bytes);
const EmulatorParameter* emulator_parameters(const char* name, int* count);
void emulator_tensor_map(void* map, const void* base, uint64_t columns, uint64_t rows, uint64_t row_bytes,
                         uint32_t box_columns, uint32_t box_rows);
void emulator_forbid(const void* address, size_t bytes, int forbidden);
int emulator_flavour();
}
