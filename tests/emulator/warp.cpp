#include "warp.hpp"

#include "race.hpp"

namespace emulator {

void collective(const Collective& kind, uint32_t mask, void* argument, Site site) {
    Thread& me = *self;
    Warp& warp = block->warps[me.warp];
    if (!(mask >> me.lane & 1)) block->fail(site, "%s: lane %d is not in its own mask %08x", kind.name, me.lane, mask);
    if (mask & ~warp.exists)
        block->fail(site, "%s: mask %08x names lanes that the block does not have", kind.name, mask);
    me.operation = kind.name;
    me.site = site;
    me.mask = mask;
    me.argument = argument;
    warp.arrived |= 1u << me.lane;
    if ((warp.arrived & mask) != mask) {
        me.state = State::warp;
        block->park();
        return;
    }
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        Thread& other = warp.lanes[__builtin_ctz(rest)];
        if ((other.operation != kind.name && strcmp(other.operation, kind.name)) || other.mask != mask ||
            !(other.site == site))
            block->fail(site,
                        "divergent warp operation: lane %d is at %s, mask %08x, line %d; lane %d at %s, mask %08x",
                        me.lane, kind.name, mask, site.line, other.lane, other.operation, other.mask);
    }
    counters::warp_met(warp, mask);
    kind.run(warp, mask, site);
    warp.arrived &= ~mask;
    block->wake(warp, mask);
    block->yield();
}

void bad_shuffle_source(int lane, int source, uint32_t mask, Site site) {
    block->fail(site, "shuffle: lane %d reads lane %d, which is not in mask %08x", lane, source, mask);
}

void sync_warp(uint32_t mask, Site site) {
    static const Collective kind{"__syncwarp", [](Warp& warp, uint32_t lanes, Site) {
                                     race::warp_met(warp, lanes);
                                     counters::warp_barrier(warp);
                                 }};
    collective(kind, mask, nullptr, site);
}

namespace {
struct Ballot {
    bool predicate;
    unsigned result;
};
void run_ballot(Warp& warp, uint32_t mask, Site) {
    counters::voted(warp);
    unsigned result = 0;
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        int lane = __builtin_ctz(rest);
        if (static_cast<Ballot*>(warp.lanes[lane].argument)->predicate) result |= 1u << lane;
    }
    for (uint32_t rest = mask; rest; rest &= rest - 1)
        static_cast<Ballot*>(warp.lanes[__builtin_ctz(rest)].argument)->result = result;
}
}  // namespace

unsigned ballot(const char* name, uint32_t mask, bool predicate, Site site) {
    Ballot argument{predicate, 0};
    collective({name, run_ballot}, mask, &argument, site);
    return argument.result;
}

}  // namespace emulator
