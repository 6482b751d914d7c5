// What the lanes of a warp do together: they meet, and the last to arrive does the work for all.
#pragma once
#include "block.hpp"
#include "counters.hpp"

namespace emulator {

struct Collective {
    const char* name;
    void (*run)(Warp& warp, uint32_t mask, Site site);  // reads and writes each lane's `argument`
};

// Returns when all lanes of `mask` have called it. They must agree on the operation, the mask and the place.
void collective(const Collective& kind, uint32_t mask, void* argument, Site site);

// Instructions of a whole warp (`.aligned`).
inline void whole_warp(const Collective& kind, void* argument, Site site) { collective(kind, ~0u, argument, site); }

template <class T>
struct Shuffle {
    T value, result;
    int source;  // the lane to read, or -1: the own value
};

[[noreturn]] void bad_shuffle_source(int lane, int source, uint32_t mask, Site site);

template <class T>
T shuffle(const char* name, uint32_t mask, T value, int source, Site site) {
    Shuffle<T> argument{value, value, source};
    const Collective kind{name, [](Warp& warp, uint32_t lanes, Site at) {
                              counters::shuffled(warp);
                              for (uint32_t rest = lanes; rest; rest &= rest - 1) {
                                  int lane = __builtin_ctz(rest);
                                  auto* mine = static_cast<Shuffle<T>*>(warp.lanes[lane].argument);
                                  if (mine->source < 0) continue;
                                  if (!(lanes >> mine->source & 1)) bad_shuffle_source(lane, mine->source, lanes, at);
                                  mine->result = static_cast<Shuffle<T>*>(warp.lanes[mine->source].argument)->value;
                              }
                          }};
    collective(kind, mask, &argument, site);
    return argument.result;
}

unsigned ballot(const char* name, uint32_t mask, bool predicate, Site site);
void sync_warp(uint32_t mask, Site site);

}  // namespace emulator

static inline void __syncwarp(unsigned mask = ~0u, emulator::Site site = emulator::Site::here()) {
    emulator::sync_warp(mask, site);
}

// `width` is a power of two: lanes exchange within groups of that many.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, emulator::Site site = emulator::Site::here()) {
    int lane = emulator::self->lane;
    return emulator::shuffle("__shfl_sync", mask, value, (lane & ~(width - 1)) | (source & (width - 1)), site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, emulator::Site site = emulator::Site::here()) {
    int lane = emulator::self->lane, source = lane ^ bits;
    bool inside = source <= (lane | (width - 1));  // an earlier group may be read, a later one not
    return emulator::shuffle("__shfl_xor_sync", mask, value, inside ? source : -1, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   emulator::Site site = emulator::Site::here()) {
    int lane = emulator::self->lane, source = lane + int(delta);
    return emulator::shuffle("__shfl_down_sync", mask, value, source <= (lane | (width - 1)) ? source : -1, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, emulator::Site site = emulator::Site::here()) {
    int lane = emulator::self->lane, source = lane - int(delta);
    return emulator::shuffle("__shfl_up_sync", mask, value, source >= (lane & ~(width - 1)) ? source : -1, site);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
    return emulator::ballot("__ballot_sync", mask, predicate, site);
}
static inline int __any_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
    return emulator::ballot("__any_sync", mask, predicate, site) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, emulator::Site site = emulator::Site::here()) {
    return emulator::ballot("__all_sync", mask, predicate, site) == mask;
}
