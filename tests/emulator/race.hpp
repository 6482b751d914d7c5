// The race checker's view of what happens (flavour RACE only; otherwise these functions are empty).
//
// Kernels are compiled with -fsanitize=thread; access_hooks.cpp receives their loads and stores, race.cpp judges them.
#pragma once
#include "block.hpp"
#include "mbarrier.hpp"

namespace emulator {
namespace race {

#ifdef EMULATOR_RACE
#define EMULATOR_HOOK(type, declaration) type declaration;
#else
#define EMULATOR_HOOK(type, declaration) \
    inline type declaration { return type(); }
#endif

EMULATOR_HOOK(void, launch_started(Block&))
EMULATOR_HOOK(void, block_started(Block&))

// Order between threads.
EMULATOR_HOOK(void, warp_met(Warp&, uint32_t lanes))
EMULATOR_HOOK(void, barrier_arrived(int id))  // by bar_arrive: without waiting
EMULATOR_HOOK(void, barrier_completed(int id))
EMULATOR_HOOK(void, mbarrier_initialised(const Mbarrier&, Site))
EMULATOR_HOOK(void, mbarrier_used(const Mbarrier&, Site))
EMULATOR_HOOK(void, mbarrier_arrived(const Mbarrier&))
EMULATOR_HOOK(void, mbarrier_completed(const Mbarrier&))
EMULATOR_HOOK(void, mbarrier_waited(const Mbarrier&))
EMULATOR_HOOK(void, proxy_fenced())

// Accesses that the emulator makes in a thread's name, and those of the asynchronous engines.
EMULATOR_HOOK(void, matrix_row_read(const Thread&, const void* row, Site))
EMULATOR_HOOK(void, copy_issued(void* to, const void* from, Site))
EMULATOR_HOOK(void, copy_committed())
EMULATOR_HOOK(void, copy_waited(int pending))
EMULATOR_HOOK(uint32_t, transfer_issued(const Mbarrier&, void* to, size_t bytes, Site))
EMULATOR_HOOK(void, transfer_read(const void* from, size_t bytes, Site))
EMULATOR_HOOK(void, transfer_landed(const Mbarrier&, uint32_t clock))
EMULATOR_HOOK(void, wgmma_issued(const Warp&))
EMULATOR_HOOK(void, wgmma_read(const Warp&, const void* from, Site))
EMULATOR_HOOK(void, wgmma_committed(const Warp&))
EMULATOR_HOOK(void, wgmma_waited(const Warp&, int pending))

#undef EMULATOR_HOOK

#ifdef EMULATOR_RACE
struct State;
#else
struct State {};
#endif

}  // namespace race
}  // namespace emulator
