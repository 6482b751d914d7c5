// The copy engine (TMA): boxes of a matrix into shared memory with the 128-byte swizzle.
#pragma once
#include <vector>

#include "block.hpp"

namespace emulator {

// What the emulator keeps in the 128 bytes of a TensorMap. Sizes in elements of bf16.
struct MatrixMap {
    uint64_t mark;
    const char* base;
    uint64_t columns, rows, row_bytes;
    uint32_t box_columns, box_rows;
};

struct Transfer {
    MatrixMap map;  // a copy: the thread that issued it may have exited before it lands
    char* to;
    int x, y;
    uint64_t* barrier;
    uint32_t clock;  // for the race checker
    Site site;
};

struct TransferQueue {
    void start() { transfers.clear(); }
    bool pending() const { return !transfers.empty(); }
    void land_one();
    void block_ends();
    std::vector<Transfer> transfers;
};

// The 128-byte swizzle: a 16-byte chunk's place in its 128-byte row is exchanged by the row's number.
inline uint32_t swizzle(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

}  // namespace emulator

namespace ptx {
void tma_load_2d(void* shared, const TensorMap* map, int x, int y, uint64_t* barrier,
                 emulator::Site site = emulator::Site::here());
void prefetch_tensormap(const TensorMap* map, emulator::Site site = emulator::Site::here());
}  // namespace ptx
