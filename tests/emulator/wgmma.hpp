// wgmma: asynchronous matrix multiplication by a warpgroup, operands in shared memory.
//
// Each warp computes the 16 rows it holds, so the four warps need not meet. From its issue until it has been waited
// for, an accumulator's registers hold NaN: a kernel that reads them too early shows it in every schedule.
#pragma once
#include <memory>
#include <vector>

#include "block.hpp"

namespace emulator {

// Registers that wgmma accumulates into, while they are in flight and after.
struct Accumulator {
    float* registers[32];  // of each lane: `columns` / 2 floats
    int columns;
    int in_flight;         // operations issued and not waited for
    float value[16][256];  // the warp's rows
};

struct WgmmaOperation {
    uint64_t a, b;
    bool a_mn_major, b_mn_major;
    Accumulator* accumulator;
    Site site;
};

// Of every warp: operations not yet executed, those not yet waited for, and where its groups end.
struct WgmmaQueues {
    struct Queue {
        std::vector<WgmmaOperation> operations;
        size_t executed = 0;
        std::vector<size_t> groups;
        std::vector<std::unique_ptr<Accumulator>> accumulators;
        bool fenced = false;
        uint64_t history = 0;  // a hash of all wgmma instructions: those of a warpgroup's four warps must be the same
    };
    void start(int warps);
    void thread_exits(const Thread& thread);
    std::vector<Queue> queues;
};

void wgmma(float* d, uint64_t a, uint64_t b, int columns, bool a_mn_major, bool b_mn_major, Site site);
void wgmma_wait(int pending, Site site);
void set_registers(int count, Site site);

}  // namespace emulator

namespace ptx {
uint64_t wgmma_descriptor(const void* tile, uint32_t leading, uint32_t stride,
                          emulator::Site site = emulator::Site::here());
void wgmma_fence(emulator::Site site = emulator::Site::here());
void wgmma_commit(emulator::Site site = emulator::Site::here());
template <int pending, int N>
void wgmma_wait(float (&)[N], emulator::Site site = emulator::Site::here()) {
    emulator::wgmma_wait(pending, site);
}
template <int A_MN_MAJOR, int B_MN_MAJOR>
void wgmma_m64n64k16(float (&d)[32], uint64_t a, uint64_t b, emulator::Site site = emulator::Site::here()) {
    emulator::wgmma(d, a, b, 64, A_MN_MAJOR, B_MN_MAJOR, site);
}
template <int A_MN_MAJOR, int B_MN_MAJOR>
void wgmma_m64n128k16(float (&d)[64], uint64_t a, uint64_t b, emulator::Site site = emulator::Site::here()) {
    emulator::wgmma(d, a, b, 128, A_MN_MAJOR, B_MN_MAJOR, site);
}
template <int A_MN_MAJOR, int B_MN_MAJOR>
void wgmma_m64n256k16(float (&d)[128], uint64_t a, uint64_t b, emulator::Site site = emulator::Site::here()) {
    emulator::wgmma(d, a, b, 256, A_MN_MAJOR, B_MN_MAJOR, site);
}

template <int registers>
void setmaxnreg_inc(emulator::Site site = emulator::Site::here()) {
    static_assert(registers >= 24 && registers <= 256 && registers % 8 == 0, "24 to 256 registers, a multiple of 8");
    emulator::set_registers(registers, site);
}
template <int registers>
void setmaxnreg_dec(emulator::Site site = emulator::Site::here()) {
    static_assert(registers >= 24 && registers <= 256 && registers % 8 == 0, "24 to 256 registers, a multiple of 8");
    emulator::set_registers(registers, site);
}
}  // namespace ptx
