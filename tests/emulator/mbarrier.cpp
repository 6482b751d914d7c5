#include "mbarrier.hpp"

#include <stdio.h>

#include "counters.hpp"
#include "race.hpp"
#include "shared_memory.hpp"

namespace emulator {

namespace {
constexpr uint64_t MARK = 0x6d62617272696572;

void arrive(uint64_t* address, uint32_t bytes, const char* operation, Site site) {
    Mbarrier& barrier = block->mbarriers->at(address, operation, site);
    race::mbarrier_used(barrier, site);
    if (!barrier.outstanding)
        block->fail(site, "%s: more than the %u arrivals that mbarrier %s expects", operation, barrier.arrivals,
                    block->shared->describe(shared_offset(address, 8, operation, site)).c_str());
    barrier.bytes += bytes;
    barrier.outstanding--;
    race::mbarrier_arrived(barrier);
    block->mbarriers->update(barrier);
}
}  // namespace

Mbarrier& MbarrierTable::at(uint64_t* address, const char* operation, Site site) {
    shared_offset(address, 8, operation, site);
    for (Mbarrier& barrier : barriers) {
        if (barrier.address != address) continue;
        if (*address != MARK) block->fail(site, "%s: the mbarrier's bytes have been overwritten", operation);
        return barrier;
    }
    block->fail(site, "%s: no mbarrier_init at %s", operation,
                block->shared->describe(shared_offset(address, 8, operation, site)).c_str());
}

void MbarrierTable::update(Mbarrier& barrier) {
    if (barrier.outstanding || barrier.bytes) return;
    barrier.phase++;
    barrier.outstanding = barrier.arrivals;
    race::mbarrier_completed(barrier);
    for (Thread& thread : block->threads)
        if (thread.state == State::mbarrier && thread.mbarrier == barrier.address) block->wake(thread);
}

std::string MbarrierTable::describe(uint64_t* address, uint32_t parity) const {
    for (const Mbarrier& barrier : barriers) {
        if (barrier.address != address) continue;
        char text[256];
        snprintf(text, sizeof text, "%s: parity %u, while phase %u (parity %u) lacks %u of %u arrivals and %lld bytes",
                 block->shared->describe(size_t(reinterpret_cast<char*>(address) - block->shared->window)).c_str(),
                 parity, barrier.phase, barrier.phase & 1, barrier.outstanding, barrier.arrivals,
                 (long long)barrier.bytes);
        return text;
    }
    return "which is not initialised";
}

}  // namespace emulator

namespace ptx {
using namespace emulator;

void mbarrier_init(uint64_t* address, uint32_t arrivals, Site site) {
    if (reinterpret_cast<uintptr_t>(address) % 8) block->fail(site, "mbarrier_init: address is not 8-byte aligned");
    shared_offset(address, 8, "mbarrier_init", site);
    if (arrivals == 0 || arrivals >= 1u << 20) block->fail(site, "mbarrier_init: %u arrivals", arrivals);
    for (Mbarrier& barrier : block->mbarriers->barriers)
        if (barrier.address == address && *address == MARK)
            block->fail(site, "mbarrier_init: it is initialised already");
    auto& barriers = block->mbarriers->barriers;
    for (size_t i = 0; i < barriers.size(); i++)
        if (barriers[i].address == address) barriers.erase(barriers.begin() + long(i--));
    *address = MARK;
    barriers.push_back({address, self->number, false, arrivals, arrivals, 0, 0});
    race::mbarrier_initialised(barriers.back(), site);
}

void fence_mbarrier_init() {
    for (Mbarrier& barrier : block->mbarriers->barriers)
        if (barrier.initialiser == self->number) barrier.fenced = true;
}

void mbarrier_arrive(uint64_t* address, Site site) {
    counters::mbarrier_arrived(__builtin_return_address(0));
    arrive(address, 0, "mbarrier_arrive", site);
}

void mbarrier_arrive_expect_tx(uint64_t* address, uint32_t bytes, Site site) {
    counters::mbarrier_arrived(__builtin_return_address(0));
    arrive(address, bytes, "mbarrier_arrive_expect_tx", site);
}

void mbarrier_wait(uint64_t* address, uint32_t parity, int, Site site) {
    if (parity > 1) block->fail(site, "mbarrier_wait: parity %u", parity);
    counters::mbarrier_waited(__builtin_return_address(0));
    race::mbarrier_used(block->mbarriers->at(address, "mbarrier_wait", site), site);
    // A thread that is woken looks again, as the hardware's loop does: the phase may have moved on twice.
    while ((block->mbarriers->at(address, "mbarrier_wait", site).phase & 1) == parity) {
        self->operation = "mbarrier_wait";
        self->site = site;
        self->mbarrier = address;
        self->parity = parity;
        self->state = State::mbarrier;
        block->park();
    }
    race::mbarrier_waited(block->mbarriers->at(address, "mbarrier_wait", site));
    block->yield();
}

void fence_proxy_async() { race::proxy_fenced(); }
}  // namespace ptx
