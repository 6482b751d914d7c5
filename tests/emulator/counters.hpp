// What hardware would have to do for a kernel, counted (flavour COUNT only; otherwise these functions are empty).
//
// Kernels are compiled with -fsanitize=thread; access_hooks.cpp receives their loads and stores. Lanes of a warp run one
// after another here, so what they would do together is put together again: the n-th time that each lane passes a place of
// the code, counted from where the warp last met, is one instruction of the warp. So counts do not depend on the schedule.
#pragma once
#include "access.hpp"
#include "block.hpp"

namespace emulator {
namespace counters {

#ifdef EMULATOR_COUNT
#define EMULATOR_HOOK(declaration) void declaration;
#else
#define EMULATOR_HOOK(declaration) \
    inline void declaration {}
#endif

EMULATOR_HOOK(launch_started(Block&))
EMULATOR_HOOK(block_started(Block&))
EMULATOR_HOOK(block_ended(Block&))
// Adds what the block's turns of this launch came to.
EMULATOR_HOOK(add(const Block&, EmulatorCounters& to))

// Lanes that met; a barrier that completed, at which a warp waited, or only arrived.
EMULATOR_HOOK(warp_met(Warp&, uint32_t lanes))
EMULATOR_HOOK(barrier_completed(Warp&, bool waited))

// What a warp does as one.
EMULATOR_HOOK(shuffled(const Warp&))
EMULATOR_HOOK(voted(const Warp&))
EMULATOR_HOOK(warp_barrier(const Warp&))
EMULATOR_HOOK(matrix_loaded(const Warp&, const void* const rows[32]))
EMULATOR_HOOK(mma(const Warp&))
EMULATOR_HOOK(wgmma(const Warp&, int columns))

// What each lane does for itself, at this place of the code.
EMULATOR_HOOK(special())
EMULATOR_HOOK(copy_issued(const void* to, const void* from, const void* pc))
EMULATOR_HOOK(mbarrier_arrived(const void* pc))
EMULATOR_HOOK(mbarrier_waited(const void* pc))
// A part of a row that TMA reads; the box itself.
EMULATOR_HOOK(box_read(const void* from, size_t bytes))
EMULATOR_HOOK(box_issued())

#undef EMULATOR_HOOK

}  // namespace counters
}  // namespace emulator
