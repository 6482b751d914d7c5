// mbarriers: a phase completes when all arrivals and all announced bytes have come.
//
// The state lives in a table beside shared memory; the eight bytes hold a mark, so that a barrier overwritten with
// data, or never initialised, is found.
#pragma once
#include <string>
#include <vector>

#include "block.hpp"

namespace emulator {

struct Mbarrier {
    uint64_t* address;
    int initialiser;  // the thread, for fence_mbarrier_init
    bool fenced;
    uint32_t arrivals;     // expected in each phase
    uint32_t outstanding;  // of them, in this one
    int64_t bytes;         // announced and not yet come; below 0 if they came first
    uint32_t phase;        // how many have completed
};

struct MbarrierTable {
    void start() { barriers.clear(); }
    // The barrier at this address; an error if there is none.
    Mbarrier& at(uint64_t* address, const char* operation, Site site);
    // After a change: completes the phase if nothing is outstanding, and wakes who waits.
    void update(Mbarrier& barrier);
    std::string describe(uint64_t* address, uint32_t parity) const;
    int number(const Mbarrier& barrier) const { return int(&barrier - barriers.data()); }

    std::vector<Mbarrier> barriers;
};

}  // namespace emulator

namespace ptx {
void mbarrier_init(uint64_t* barrier, uint32_t arrivals, emulator::Site site = emulator::Site::here());
void fence_mbarrier_init();
void mbarrier_arrive(uint64_t* barrier, emulator::Site site = emulator::Site::here());
void mbarrier_arrive_expect_tx(uint64_t* barrier, uint32_t bytes, emulator::Site site = emulator::Site::here());
// A barrier that never comes is found at once, whatever its `name`.
void mbarrier_wait(uint64_t* barrier, uint32_t parity, int name = 0, emulator::Site site = emulator::Site::here());
void fence_proxy_async();
}  // namespace ptx
