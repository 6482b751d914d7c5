// The race checker's view of what happens (flavour RACE only; otherwise these functions are empty).
//
// Kernels are compiled with -fsanitize=thread; race_hooks.cpp receives their loads and stores.
#pragma once
#include "block.hpp"
#include "mbarrier.hpp"

namespace emulator {
namespace race {

#ifdef EMULATOR_RACE
#define EMULATOR_HOOK(declaration) declaration;
#define EMULATOR_HOOK_CLOCK(declaration) declaration;
#else
#define EMULATOR_HOOK(declaration) inline declaration {}
#define EMULATOR_HOOK_CLOCK(declaration) inline declaration { return 0; }
#endif

EMULATOR_HOOK(void launch_started())
EMULATOR_HOOK(void block_started(Block&))
EMULATOR_HOOK(void block_ended())

// Order between threads.
EMULATOR_HOOK(void warp_met(Warp&, uint32_t))
EMULATOR_HOOK(void barrier_arrived(int))
EMULATOR_HOOK(void barrier_completed(int, const uint32_t*))
EMULATOR_HOOK(void barrier_left(int))
EMULATOR_HOOK(void mbarrier_used(const Mbarrier&, Site))
EMULATOR_HOOK(void mbarrier_arrived(const Mbarrier&))
EMULATOR_HOOK(void mbarrier_completed(const Mbarrier&))
EMULATOR_HOOK(void mbarrier_waited(const Mbarrier&))
EMULATOR_HOOK(void proxy_fenced())

// Accesses that the emulator makes in a thread's name, and those of the asynchronous engines.
EMULATOR_HOOK(void read_shared(const Thread&, const void*, size_t, Site))
EMULATOR_HOOK(void write_shared(const Thread&, const void*, size_t, Site))
EMULATOR_HOOK(void copy_issued(void*, const void*, size_t, Site))
EMULATOR_HOOK(void copy_committed())
EMULATOR_HOOK(void copy_waited(int))
EMULATOR_HOOK_CLOCK(uint32_t transfer_issued(const Mbarrier&, void*, size_t, Site))
EMULATOR_HOOK(void transfer_landed(const Mbarrier&, uint32_t))
EMULATOR_HOOK(void wgmma_issued(const Warp&))
EMULATOR_HOOK(void wgmma_reads(const Warp&, const void*, size_t, Site))
EMULATOR_HOOK(void wgmma_committed(const Warp&))
EMULATOR_HOOK(void wgmma_waited(const Warp&, int))

#undef EMULATOR_HOOK
#undef EMULATOR_HOOK_CLOCK

}  // namespace race
}  // namespace emulator
