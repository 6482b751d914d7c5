// Which thread runs next; barriers; errors and deadlock.
#include <stdarg.h>
#include <stdio.h>

#include <utility>

#include "address.hpp"
#include "block.hpp"
#include "counters.hpp"
#include "cp_async.hpp"
#include "launch.hpp"
#include "mbarrier.hpp"
#include "race.hpp"
#include "shared_memory.hpp"
#include "tma.hpp"
#include "wgmma.hpp"

namespace emulator {

thread_local Block* block;
thread_local Thread* self;

namespace {

bool waits_at(const Thread& thread, int barrier) { return thread.state == State::barrier && thread.barrier == barrier; }

const char* file_name(const char* path) {
    const char* slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string text(const char* format, ...) {
    char buffer[512];
    va_list list;
    va_start(list, format);
    vsnprintf(buffer, sizeof buffer, format, list);
    va_end(list);
    return buffer;
}

}  // namespace

Block::Block()
    : shared(new SharedMemory),
      copies(new CopyQueues),
      mbarriers(new MbarrierTable),
      transfers(new TransferQueue),
      wgmmas(new WgmmaQueues) {}
Block::~Block() {}

uint64_t Block::random() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

bool Block::owns(const void* p) const {
    auto within = [p](const void* begin, size_t bytes) { return size_t((const char*)p - (const char*)begin) < bytes; };
    return stacks.contains(p) || within(threads.data(), threads.size() * sizeof(Thread)) ||
           within(this, sizeof *this) || within(warps.data(), warps.size() * sizeof(Warp)) ||
           within(shared.get(), sizeof *shared) || p == &block || p == &self;
}

Completion Block::completion() const { return Completion(launch->schedule.completion); }

bool Block::run(const Launch& from, uint3 at) {
    launch = &from;
    index = at;
    prepare();
    block = this;
    self = nullptr;
    Thread* first = next();
    self = first;
    switch_fiber(main_fiber, first->fiber);
    self = nullptr;
    if (!failed) {
        std::string damage = shared->damage();
        std::string report = take_address_report();
        if (!report.empty()) damage = report;
        if (!damage.empty()) {
            error = text("block (%u,%u,%u): %s", index.x, index.y, index.z, damage.c_str());
            failed = true;
        }
    }
    counters::block_ended(*this);
    return !failed;
}

void Block::prepare() {
    dimensions = launch->block;
    grid = launch->grid;
    threads_count = int(dimensions.x * dimensions.y * dimensions.z);
    random_state = launch->schedule.seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull + index.x * 7919ull +
                   index.y * 104729ull + index.z * 1299709ull;
    for (int i = 0; i < 4; i++) random();
    failed = false;
    error.clear();

    int warps_count = (threads_count + 31) / 32;
    threads.resize(threads_count);
    warps.resize(warps_count);
    stacks.reserve(threads_count);
    for (int i = 0; i < warps_count; i++) {
        int lanes = threads_count - i * 32;
        uint32_t all = lanes >= 32 ? ~0u : (1u << lanes) - 1;
        warps[i] = Warp{i, &threads[i * 32], all, all, all, 0, i};
        warp_at[i] = i;
    }
    ready_places = warps_count == 32 ? ~0u : (1u << warps_count) - 1;
    if (launch->schedule.order)
        for (int i = warps_count - 1; i > 0; i--) exchange_places(i, int(random() % uint64_t(i + 1)));
    for (int i = 0; i < threads_count; i++) {
        Thread& thread = threads[i];
        thread = Thread{};
        thread.index = {i % dimensions.x, i / dimensions.x % dimensions.y, i / dimensions.x / dimensions.y};
        thread.number = i;
        thread.warp = i / 32;
        thread.lane = i % 32;
        thread.state = State::ready;
        stacks.prepare(thread.fiber, i, thread_main);
    }
    live = threads_count;
    memset(barriers, 0, sizeof barriers);
    shared->start(launch->shared_bytes);
    copies->start(threads_count);
    mbarriers->start();
    transfers->start();
    wgmmas->start(warps_count);
    race::block_started(*this);
    counters::block_started(*this);
}

void Block::thread_main() {
    fiber_started(block->main_fiber);
    block->launch->kernel->call(block->launch->arguments);
    block->exit_thread();
}

void Block::exit_thread() {
    Thread& me = *self;
    Warp& warp = warps[me.warp];
    if (Stacks::overflowed(me.fiber)) fail({}, "its stack has overflowed: too many local variables for the emulator");
    wgmmas->thread_exits(me);
    me.state = State::exited;
    warp.live &= ~(1u << me.lane);
    not_ready(me);
    live--;
    if (!live) {
        transfers->block_ends();
        leave_fiber(me.fiber, main_fiber);
    }
    complete_if_full(0);  // those who have exited no longer count for __syncthreads
    Thread* other = next();
    if (!other) deadlock();
    self = other;
    leave_fiber(me.fiber, other->fiber);
}

// In order: lanes in turn, then the next warp. Otherwise warps have random priorities, which change now and then: one
// warp runs far ahead of the others, which finds more missing barriers than choosing evenly does; lanes run in random
// order.
Thread* Block::next() {
    bool shuffled = launch->schedule.order;
    uint64_t dice = shuffled || transfers->pending() ? random() : 0;
    if (completion() == RANDOM && transfers->pending() && dice % 8 == 0) transfers->land_one();
    while (!ready_places) {
        if (!transfers->pending()) return nullptr;
        transfers->land_one();
    }
    if (shuffled) {
        uint32_t warps_count = uint32_t(warps.size());
        if ((dice >> 8 & 1023) == 0)
            exchange_places(int((dice >> 20 & 255) % warps_count), int((dice >> 28 & 255) % warps_count));
        Warp& warp = warps[warp_at[__builtin_ctz(ready_places)]];
        int turn = int(dice >> 40) & 31;
        uint32_t turned = warp.ready >> turn | (turn ? warp.ready << (32 - turn) : 0);
        return &warp.lanes[(__builtin_ctz(turned) + turn) & 31];
    }
    int number = self ? self->warp : 0;
    if (uint32_t ready = warps[number].ready) {
        uint32_t later = self && self->lane < 31 ? ready & ~0u << (self->lane + 1) : 0;
        return &warps[number].lanes[__builtin_ctz(later ? later : ready)];
    }
    uint32_t later = number < 31 ? ready_places & ~0u << (number + 1) : 0;
    Warp& warp = warps[warp_at[__builtin_ctz(later ? later : ready_places)]];
    return &warp.lanes[__builtin_ctz(warp.ready)];
}

void Block::exchange_places(int left, int right) {
    std::swap(warp_at[left], warp_at[right]);
    ready_places &= ~(1u << left | 1u << right);
    for (int place : {left, right}) {
        Warp& warp = warps[warp_at[place]];
        warp.place = place;
        if (warp.ready) ready_places |= 1u << place;
    }
}

void Block::not_ready(Thread& thread) {
    Warp& warp = warps[thread.warp];
    warp.ready &= ~(1u << thread.lane);
    if (!warp.ready) ready_places &= ~(1u << warp.place);
}

void Block::switch_to(Thread& thread) {
    Thread* me = self;
    if (&thread == me) return;
    self = &thread;
    switch_fiber(me->fiber, thread.fiber);
}

void Block::park() {
    not_ready(*self);
    Thread* other = next();
    if (!other) deadlock();
    switch_to(*other);
}

void Block::wake(Warp& warp, uint32_t lanes) {
    for (uint32_t rest = lanes; rest; rest &= rest - 1) warp.lanes[__builtin_ctz(rest)].state = State::ready;
    warp.ready |= lanes;
    ready_places |= 1u << warp.place;
}

void Block::yield() {
    if (launch->schedule.order) switch_to(*next());
}

void Block::barrier(int id, int expected, bool wait, const char* operation, Site site) {
    if (id < 0 || id > 15) fail(site, "%s: barrier %d does not exist (0 to 15)", operation, id);
    if (expected && (expected < 0 || expected % 32 || expected > 1024))
        fail(site, "%s: barrier %d: %d threads, which is not a multiple of 32", operation, id, expected);
    Barrier& barrier = barriers[id];
    uint32_t bit = 1u << self->lane;
    if (barrier.arrived && barrier.expected != expected)
        fail(site, "%s: barrier %d: %d threads expected here, %d by those who came before", operation, id, expected,
             barrier.expected);
    if (barrier.lanes[self->warp] & bit)
        fail(site, "%s: barrier %d: this thread arrives a second time before the barrier has completed", operation, id);
    barrier.expected = expected;
    barrier.arrived++;
    barrier.lanes[self->warp] |= bit;
    self->operation = operation;
    self->site = site;
    self->barrier = id;
    if (wait) self->state = State::barrier;
    else race::barrier_arrived(id);
    if (complete_if_full(id)) {
        if (wait) yield();
    } else if (wait) {
        park();
    }
}

bool Block::complete_if_full(int id) {
    Barrier& barrier = barriers[id];
    if (!barrier.arrived || barrier.arrived < (barrier.expected ? barrier.expected : live)) return false;
    complete(id);
    return true;
}

void Block::complete(int id) {
    Barrier& barrier = barriers[id];
    // The hardware counts whole warps: what lanes of one warp do apart from each other, it does not tell apart.
    for (Warp& warp : warps) {
        uint32_t lanes = barrier.lanes[warp.number];
        if (!lanes) continue;
        Thread& first = warp.lanes[__builtin_ctz(lanes)];
        uint32_t missing = (barrier.expected ? warp.exists : warp.live) & ~lanes;
        if (missing)
            fail(first.site, "%s: barrier %d completes with only lanes %08x of warp %d; lane %d is elsewhere",
                 first.operation, id, lanes, warp.number, __builtin_ctz(missing));
        for (uint32_t rest = lanes; rest; rest &= rest - 1) {
            Thread& other = warp.lanes[__builtin_ctz(rest)];
            if (!waits_at(first, id) || !waits_at(other, id) || other.site == first.site) continue;
            fail(first.site, "divergent %s: lane %d of warp %d arrives here, lane %d at %s:%d", first.operation,
                 first.lane, warp.number, other.lane, file_name(other.site.file), other.site.line);
        }
    }
    int sum = 0;
    for (Warp& warp : warps)
        for (uint32_t rest = barrier.lanes[warp.number]; rest; rest &= rest - 1)
            sum += warp.lanes[__builtin_ctz(rest)].predicate != 0;
    int count = barrier.arrived;
    race::barrier_completed(id);
    for (Warp& warp : warps)
        if (uint32_t lanes = barrier.lanes[warp.number])
            counters::barrier_completed(warp, waits_at(warp.lanes[__builtin_ctz(lanes)], id));
    for (Warp& warp : warps)
        for (uint32_t rest = barrier.lanes[warp.number]; rest; rest &= rest - 1) {
            Thread& thread = warp.lanes[__builtin_ctz(rest)];
            if (!waits_at(thread, id)) continue;
            if (!strcmp(thread.operation, "__syncthreads_and")) thread.reduced = sum == count;
            else if (!strcmp(thread.operation, "__syncthreads_or")) thread.reduced = sum > 0;
            else thread.reduced = sum;
            wake(thread);
        }
    barrier = Barrier{};
}

std::string Block::waiting() const {
    struct Group {
        std::string what;
        std::vector<int> threads;
    };
    std::vector<Group> groups;
    for (const Thread& thread : threads) {
        std::string what;
        if (thread.state == State::warp) {
            uint32_t missing = thread.mask & ~warps[thread.warp].arrived;
            what = text("at %s, mask %08x, for lanes %08x", thread.operation, thread.mask, missing);
            if (missing & ~warps[thread.warp].live) what += " (some of which have exited)";
        } else if (thread.state == State::barrier) {
            const Barrier& barrier = barriers[thread.barrier];
            what = text("at %s (barrier %d: %d of %d have arrived)", thread.operation, thread.barrier, barrier.arrived,
                        barrier.expected ? barrier.expected : live);
        } else if (thread.state == State::mbarrier) {
            what = "at mbarrier_wait, " + mbarriers->describe(thread.mbarrier, thread.parity);
        } else {
            continue;
        }
        what += text(", %s:%d", file_name(thread.site.file), thread.site.line);
        Group* group = nullptr;
        for (Group& g : groups)
            if (g.what == what) group = &g;
        if (!group) {
            groups.push_back({what, {}});
            group = &groups.back();
        }
        group->threads.push_back(thread.number);
    }
    std::string all;
    for (const Group& group : groups) {
        all += "; ";
        all += group.threads.size() == 1 ? text("thread %d waits ", group.threads[0])
                                         : text("%zu threads (%d to %d) wait ", group.threads.size(),
                                                group.threads.front(), group.threads.back());
        all += group.what;
    }
    int exited = threads_count - live;
    if (exited) all += text("; %d have exited", exited);
    return all;
}

void Block::deadlock() {
    failed = true;
    error = text("block (%u,%u,%u): deadlock", index.x, index.y, index.z) + waiting();
    leave_fiber(self->fiber, main_fiber);
}

void Block::fail(Site site, const char* format, ...) {
    char message[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(message, sizeof message, format, list);
    va_end(list);
    failed = true;
    uint3 at = self->index;
    error = text("block (%u,%u,%u), thread (%u,%u,%u)", index.x, index.y, index.z, at.x, at.y, at.z);
    if (site.line) error += text(", %s:%d", file_name(site.file), site.line);
    error += ": ";
    error += message;
    leave_fiber(self->fiber, main_fiber);
}

}  // namespace emulator
