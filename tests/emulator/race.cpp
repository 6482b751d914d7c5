// A happens-before race checker with vector clocks, for shared memory and, across the blocks of a launch, global
// memory.
//
// Agents are what can access memory at its own pace: every thread, the cp.async engine of every thread, the wgmma
// engine of every warp, and for every mbarrier the copy engine (TMA) that reports to it. Each agent has a clock that
// ticks when others may learn of what it has done. An access is a race if an earlier one to the same bytes, one of them
// a write, is not known to the accessing agent. Engines act with the knowledge of whoever started them.
//
// The generic and the asynchronous proxy: what threads and cp.async wrote may be read by wgmma, or overwritten by TMA,
// only if the writing thread has executed fence_proxy_async since: `fenced` is the part of `known` for which that is
// so.
#include "race.hpp"

#include <dlfcn.h>
#include <stdio.h>

#include <algorithm>
#include <unordered_map>

#include "access.hpp"
#include "launch.hpp"
#include "shared_memory.hpp"

namespace emulator {
namespace race {

namespace {

constexpr int TRANSFER_AGENTS = 64;
constexpr uint16_t NOBODY = 0xffff;

struct Knowledge {
    std::vector<uint32_t> known, fenced;  // a clock for each agent
    explicit Knowledge(size_t agents) : known(agents), fenced(agents) {}
    void join(const Knowledge& other) {
        for (size_t i = 0; i < known.size(); i++) {
            known[i] = std::max(known[i], other.known[i]);
            fenced[i] = std::max(fenced[i], other.fenced[i]);
        }
    }
};
using Shared = std::shared_ptr<const Knowledge>;

// What a thread knows: what it shares with others since they last met, and on top of it what it knows of itself, of its
// cp.async engine and of its warp's wgmma engine.
struct ThreadClock {
    Shared base;
    uint32_t own, copies, wgmma;
    uint32_t fenced_own, fenced_copies;
};

// Knowledge that several threads contribute to.
struct Gathering {
    std::shared_ptr<Knowledge> sum;
    std::vector<Shared> joined;  // the bases that are in it already
};

// Where an access was made: a program counter, counted from the library's start, or, from SITE on, one of State::sites.
using Place = uint32_t;
constexpr Place SITE = 1u << 31;

struct __attribute__((packed, aligned(2))) Epoch {
    uint32_t clock = 0;
    uint16_t agent = NOBODY;
};

// Two bytes of shared memory.
struct Cell {
    uint32_t block = 0;  // the block that the rest is about
    Epoch write;
    bool atomic = false, asynchronous = false;
    Epoch reads[4];
    Place written = 0, read = 0;
};

// Two bytes of global memory: the last write and one read, of one block, or reads of several. Blocks of earlier
// launches do not count.
struct GlobalCell {
    uint32_t write_block = 0, read_block = 0;
    Epoch write, read;
    bool atomic = false, several_readers = false;
    Place written = 0, read_at = 0;
};
constexpr size_t PAGE = 4096;
constexpr size_t MOST_PAGES = 2048;  // kept from launch to launch: 128 MiB
struct GlobalPage {
    GlobalCell cells[PAGE / 2];
};

}  // namespace

struct State {
    uint32_t blocks = 0;       // started so far: a name for the one that runs
    uint32_t first_block = 0;  // the first of the launch
    int threads = 0, warps = 0, agents = 0;
    std::vector<Cell> cells;
    std::vector<ThreadClock> clocks;
    std::vector<uint32_t> copy_clocks, wgmma_clocks, transfer_clocks;
    std::vector<std::vector<uint32_t>> copy_groups, wgmma_groups;  // the engine's clock when each group was committed
    std::vector<Shared> wgmma_knowledge;
    Gathering barriers[16];
    std::unordered_map<uint64_t*, Gathering> mbarriers;  // arrivals of the phase under way
    std::unordered_map<uint64_t*, Shared> completed;     // and of the last that has completed
    struct Merge {
        Shared left, right, sum;
    } merges[8];
    size_t next_merge = 0;

    std::unordered_map<uintptr_t, std::unique_ptr<GlobalPage>> pages;
    std::vector<Site> sites;
    uintptr_t recent_number[64] = {};
    GlobalPage* recent_page[64] = {};
};

namespace {

State& state() { return *block->race; }
int copy_agent(int thread) { return state().threads + thread; }
int wgmma_agent(int warp) { return 2 * state().threads + warp; }
int transfer_agent(const Mbarrier& barrier) {
    return 2 * state().threads + state().warps + block->mbarriers->number(barrier) % TRANSFER_AGENTS;
}

// ---- places

const char library_anchor = 0;

uintptr_t library_base() {
    static const uintptr_t base = [] {
        Dl_info info;
        return dladdr(&library_anchor, &info) ? reinterpret_cast<uintptr_t>(info.dli_fbase) : 0;
    }();
    return base;
}

Place place_of(const void* pc) { return Place(reinterpret_cast<uintptr_t>(pc) - library_base()); }

Place place_of(Site site) {
    std::vector<Site>& sites = state().sites;
    size_t i = sites.size();
    while (i > 0 && !(sites[i - 1] == site)) i--;
    if (i == 0) {
        sites.push_back(site);
        i = sites.size();
    }
    return SITE + Place(i - 1);
}

// ---- knowledge

void add_private(Knowledge& to, int thread) {
    const ThreadClock& clock = state().clocks[thread];
    auto raise = [](uint32_t& value, uint32_t least) { value = std::max(value, least); };
    raise(to.known[thread], clock.own);
    raise(to.known[copy_agent(thread)], clock.copies);
    raise(to.known[wgmma_agent(thread / 32)], clock.wgmma);
    raise(to.fenced[thread], clock.fenced_own);
    raise(to.fenced[copy_agent(thread)], clock.fenced_copies);
}

void contribute(Gathering& gathering, int thread) {
    ThreadClock& clock = state().clocks[thread];
    if (!gathering.sum) {
        gathering.sum = std::make_shared<Knowledge>(*clock.base);
        gathering.joined.push_back(clock.base);
    } else if (std::find(gathering.joined.begin(), gathering.joined.end(), clock.base) == gathering.joined.end()) {
        gathering.sum->join(*clock.base);
        gathering.joined.push_back(clock.base);
    }
    add_private(*gathering.sum, thread);
    clock.own++;
}

Shared merge(const Shared& left, const Shared& right) {
    State& s = state();
    if (left == right) return left;
    for (const State::Merge& known : s.merges)
        if (known.left == left && known.right == right) return known.sum;
    auto sum = std::make_shared<Knowledge>(*left);
    sum->join(*right);
    s.merges[s.next_merge++ % 8] = {left, right, sum};
    return sum;
}

// The threads learn what they all know, and tick.
template <class Threads>
void meet(const Threads& threads, Gathering gathering = {}) {
    for (int thread : threads) contribute(gathering, thread);
    Shared sum = std::move(gathering.sum);
    for (int thread : threads) state().clocks[thread].base = sum;
}

// ---- who accesses: an agent, and whose knowledge it acts on

struct Accessor {
    uint16_t agent;
    uint32_t clock;
    bool asynchronous;     // by way of the asynchronous proxy
    int thread;            // whose knowledge, or -1:
    const Knowledge* all;  // this

    uint32_t known(uint16_t of) const {
        if (thread < 0) return all->known[of];
        const ThreadClock& mine = state().clocks[thread];
        if (of == thread) return mine.own;
        uint32_t shared = mine.base->known[of];
        if (of == copy_agent(thread)) return std::max(shared, mine.copies);
        if (of == wgmma_agent(thread / 32)) return std::max(shared, mine.wgmma);
        return shared;
    }
    uint32_t fenced(uint16_t of) const {
        if (thread < 0) return all->fenced[of];
        const ThreadClock& mine = state().clocks[thread];
        uint32_t shared = mine.base->fenced[of];
        if (of == thread) return std::max(shared, mine.fenced_own);
        if (of == copy_agent(thread)) return std::max(shared, mine.fenced_copies);
        return shared;
    }
    bool after(const Epoch& epoch) const { return epoch.agent == NOBODY || known(epoch.agent) >= epoch.clock; }
};

Accessor by_thread(int thread) { return {uint16_t(thread), state().clocks[thread].own, false, thread, nullptr}; }

// ---- reports

std::string name_of(int agent) {
    State& s = state();
    if (agent < s.threads) return "thread " + std::to_string(agent);
    if (agent < 2 * s.threads) return "cp.async of thread " + std::to_string(agent - s.threads);
    if (agent < 2 * s.threads + s.warps) return "wgmma of warp " + std::to_string(agent - 2 * s.threads);
    return "TMA";
}

// Through addr2line, which comes with the compiler: "common.cuh:33 from layer_norm.cu:51".
std::string name_of_place(Place place) {
    auto short_name = [](std::string path) { return path.substr(path.rfind('/') + 1); };
    if (place >= SITE) {
        const Site& site = state().sites[place - SITE];
        return short_name(site.file) + ":" + std::to_string(site.line);
    }
    Dl_info info;
    if (!dladdr(&library_anchor, &info)) return "?";
    char command[1024], line[1024];
    snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%x 2>/dev/null", info.dli_fname, place - 1);
    std::vector<std::string> lines;
    if (FILE* pipe = popen(command, "r")) {
        while (fgets(line, sizeof line, pipe)) {
            std::string text = short_name(line);
            lines.push_back(text.substr(0, text.find_first_of(" \n")));
        }
        pclose(pipe);
    }
    snprintf(line, sizeof line, "offset 0x%x", place - 1);
    if (lines.empty() || lines[0][0] == '?') return line;
    return lines.size() == 1 ? lines[0] : lines.front() + " from " + lines.back();
}

[[noreturn]] void report(const std::string& where, const Accessor& me, bool write, Place place,
                         const std::string& other, bool other_write, Place other_place, const char* why) {
    block->fail({}, "race on %s: %s %s at %s, %s %s's %s at %s", where.c_str(), name_of(me.agent).c_str(),
                write ? "writes" : "reads", name_of_place(place).c_str(), why, other.c_str(),
                other_write ? "write" : "read", name_of_place(other_place).c_str());
}

constexpr const char* UNORDERED = "not ordered after";

// ---- shared memory

void touch(const Accessor& me, size_t offset, size_t bytes, int access, Place place) {
    State& s = state();
    bool write = access & WRITE, atomic = access & ATOMIC;
    for (size_t i = offset / 2; i <= (offset + bytes - 1) / 2; i++) {
        Cell& cell = s.cells[i];
        if (cell.block != s.blocks) {
            cell = Cell();
            cell.block = s.blocks;
        }
        auto where = [&] { return block->shared->describe(i * 2); };
        if (!me.after(cell.write) && !(atomic && cell.atomic))
            report(where(), me, write, place, name_of(cell.write.agent), true, cell.written, UNORDERED);
        if (me.asynchronous && cell.write.agent != NOBODY && !cell.asynchronous &&
            me.fenced(cell.write.agent) < cell.write.clock)
            report(where(), me, write, place, name_of(cell.write.agent), true, cell.written,
                   "by way of the asynchronous proxy, without fence_proxy_async after");
        if (write) {
            for (Epoch& read : cell.reads) {
                if (!me.after(read) && !atomic)
                    report(where(), me, true, place, name_of(read.agent), false, cell.read, UNORDERED);
                read = Epoch();
            }
            cell.write = {me.clock, me.agent};
            cell.atomic = atomic;
            cell.asynchronous = me.asynchronous;
            cell.written = place;
        } else if (!atomic) {
            // Of the readers since the last write, four: preferably not those that the new one comes after.
            Epoch* slot = nullptr;
            for (Epoch& read : cell.reads)
                if (read.agent == me.agent || me.after(read)) {
                    slot = &read;
                    break;
                }
            if (!slot) slot = &cell.reads[(me.agent * 7 + me.clock) % 4];
            *slot = {me.clock, me.agent};
            cell.read = place;
        }
    }
}

void touch_shared(const Accessor& me, const void* address, size_t bytes, int access, Place place) {
    touch(me, size_t(static_cast<const char*>(address) - block->shared->window), bytes, access, place);
}

// ---- global memory

GlobalPage& page_of(uintptr_t address) {
    State& s = state();
    uintptr_t number = address / PAGE;
    size_t slot = number % 64;
    if (s.recent_number[slot] != number || !s.recent_page[slot]) {
        std::unique_ptr<GlobalPage>& page = s.pages[number];
        if (!page) page.reset(new GlobalPage);
        s.recent_number[slot] = number;
        s.recent_page[slot] = page.get();
    }
    return *s.recent_page[slot];
}

void touch_global(const Accessor& me, const void* address, size_t bytes, int access, Place place) {
    State& s = state();
    bool write = access & WRITE, atomic = access & ATOMIC;
    uintptr_t begin = reinterpret_cast<uintptr_t>(address);
    GlobalPage* page = nullptr;
    for (uintptr_t at = begin & ~uintptr_t(1); at < begin + bytes; at += 2) {
        if (!page || at % PAGE == 0) page = &page_of(at);
        GlobalCell& cell = page->cells[at % PAGE / 2];
        bool written = cell.write_block >= s.first_block, was_read = cell.read_block >= s.first_block;
        char where[64];
        auto describe = [&] {
            snprintf(where, sizeof where, "global memory at %p", reinterpret_cast<void*>(at));
            return std::string(where);
        };
        auto other = [&](uint32_t other_block, uint16_t agent) {
            return other_block == s.blocks ? name_of(agent) : std::string("another block");
        };
        if (written && !(atomic && cell.atomic) && (cell.write_block != s.blocks || !me.after(cell.write)))
            report(describe(), me, write, place, other(cell.write_block, cell.write.agent), true, cell.written,
                   UNORDERED);
        if (write) {
            bool elsewhere = cell.read_block != s.blocks || cell.several_readers;
            if (was_read && !atomic && (elsewhere || !me.after(cell.read)))
                report(describe(), me, true, place, other(elsewhere ? 0 : cell.read_block, cell.read.agent), false,
                       cell.read_at, UNORDERED);
            cell.write_block = s.blocks;
            cell.write = {me.clock, me.agent};
            cell.atomic = atomic;
            cell.written = place;
        } else if (!atomic) {
            cell.several_readers = was_read && (cell.several_readers || cell.read_block != s.blocks);
            // Within a block one reader is remembered, which the new one follows if it can.
            if (cell.read_block != s.blocks || me.after(cell.read) || (me.agent + me.clock) % 4 == 0) {
                cell.read = {me.clock, me.agent};
                cell.read_at = place;
            }
            cell.read_block = s.blocks;
        }
    }
}

}  // namespace

// ---- what happens

void launch_started(Block& b) {
    if (!b.race) b.race = std::make_shared<State>();
    State& s = *b.race;
    s.first_block = s.blocks + 1;
    if (s.pages.size() <= MOST_PAGES) return;
    s.pages.clear();
    for (GlobalPage*& page : s.recent_page) page = nullptr;
}

void block_started(Block& b) {
    State& s = *b.race;
    s.blocks++;
    s.threads = b.threads_count;
    s.warps = int(b.warps.size());
    s.agents = 2 * s.threads + s.warps + TRANSFER_AGENTS;
    size_t cells = b.shared->capacity_bytes() / 2;
    if (s.cells.size() < cells) s.cells.resize(cells);
    Shared nothing = std::make_shared<Knowledge>(s.agents);
    s.clocks.assign(s.threads, ThreadClock{nothing, 1, 0, 0, 0, 0});
    s.copy_clocks.assign(s.threads, 1);
    s.wgmma_clocks.assign(s.warps, 1);
    s.transfer_clocks.assign(TRANSFER_AGENTS, 0);
    s.copy_groups.assign(s.threads, {});
    s.wgmma_groups.assign(s.warps, {});
    s.wgmma_knowledge.assign(s.warps, nullptr);
    for (Gathering& barrier : s.barriers) barrier = Gathering();
    s.mbarriers.clear();
    s.completed.clear();
    for (State::Merge& merge : s.merges) merge = State::Merge();
}

void warp_met(Warp& warp, uint32_t lanes) {
    std::vector<int> threads;
    for (uint32_t rest = lanes; rest; rest &= rest - 1) threads.push_back(warp.number * 32 + __builtin_ctz(rest));
    meet(threads);
}

void barrier_arrived(int id) { contribute(state().barriers[id], self->number); }

void barrier_completed(int id) {
    std::vector<int> threads;
    for (const Thread& thread : block->threads)
        if (thread.state == emulator::State::barrier && thread.barrier == id) threads.push_back(thread.number);
    Gathering& arrived = state().barriers[id];
    if (!threads.empty()) meet(threads, std::move(arrived));
    arrived = Gathering();
}

void mbarrier_initialised(const Mbarrier& barrier, Site site) {
    touch_shared(by_thread(self->number), barrier.address, 8, WRITE + ATOMIC, place_of(site));
}
void mbarrier_used(const Mbarrier& barrier, Site site) {
    // A use changes it, but uses are atomic to each other: what matters is the initialisation before.
    touch_shared(by_thread(self->number), barrier.address, 8, READ, place_of(site));
}
void mbarrier_arrived(const Mbarrier& barrier) { contribute(state().mbarriers[barrier.address], self->number); }

void mbarrier_completed(const Mbarrier& barrier) {
    Gathering& phase = state().mbarriers[barrier.address];
    state().completed[barrier.address] = std::move(phase.sum);
    phase = Gathering();
}

void mbarrier_waited(const Mbarrier& barrier) {
    auto completed = state().completed.find(barrier.address);
    if (completed == state().completed.end()) return;  // the phase before the first
    ThreadClock& clock = state().clocks[self->number];
    clock.base = merge(clock.base, completed->second);
}

void proxy_fenced() {
    ThreadClock& clock = state().clocks[self->number];
    clock.fenced_own = clock.own;
    clock.fenced_copies = clock.copies;
    clock.own++;  // what it writes from now on is not fenced
}

void matrix_row_read(const Thread& thread, const void* row, Site site) {
    touch_shared(by_thread(thread.number), row, 16, READ, place_of(site));
}

void copy_issued(void* to, const void* from, Site site) {
    int thread = self->number;
    Place place = place_of(site);
    if (from) touch_global(by_thread(thread), from, 16, READ, place);
    touch_shared({uint16_t(copy_agent(thread)), state().copy_clocks[thread], false, thread, nullptr}, to, 16, WRITE,
                 place);
}

void copy_committed() {
    int thread = self->number;
    state().copy_groups[thread].push_back(state().copy_clocks[thread]++);
}

void copy_waited(int pending) {
    int thread = self->number;
    std::vector<uint32_t>& groups = state().copy_groups[thread];
    if (int(groups.size()) <= pending) return;
    auto end = groups.end() - pending;
    state().clocks[thread].copies = *(end - 1);
    groups.erase(groups.begin(), end);
}

uint32_t transfer_issued(const Mbarrier& barrier, void* to, size_t bytes, Site site) {
    int agent = transfer_agent(barrier);
    uint32_t clock = ++state().transfer_clocks[block->mbarriers->number(barrier) % TRANSFER_AGENTS];
    touch_shared({uint16_t(agent), clock, true, self->number, nullptr}, to, bytes, WRITE, place_of(site));
    return clock;
}

void transfer_read(const void* from, size_t bytes, Site site) {
    touch_global(by_thread(self->number), from, bytes, READ, place_of(site));
}

void transfer_landed(const Mbarrier& barrier, uint32_t clock) {
    Gathering& phase = state().mbarriers[barrier.address];
    if (!phase.sum) phase.sum = std::make_shared<Knowledge>(state().agents);
    uint32_t& known = phase.sum->known[transfer_agent(barrier)];
    known = std::max(known, clock);
}

void wgmma_issued(const Warp& warp) {
    Gathering together;
    for (int lane = 0; lane < 32; lane++) contribute(together, warp.number * 32 + lane);
    state().wgmma_knowledge[warp.number] = together.sum;
}

void wgmma_read(const Warp& warp, const void* from, Site site) {
    State& s = state();
    touch_shared({uint16_t(wgmma_agent(warp.number)), s.wgmma_clocks[warp.number], true, -1,
                  s.wgmma_knowledge[warp.number].get()},
                 from, 16, READ, place_of(site));
}

void wgmma_committed(const Warp& warp) {
    state().wgmma_groups[warp.number].push_back(state().wgmma_clocks[warp.number]++);
}

void wgmma_waited(const Warp& warp, int pending) {
    std::vector<uint32_t>& groups = state().wgmma_groups[warp.number];
    if (int(groups.size()) <= pending) return;
    auto end = groups.end() - pending;
    for (int lane = 0; lane < 32; lane++) state().clocks[warp.number * 32 + lane].wgmma = *(end - 1);
    groups.erase(groups.begin(), end);
}

}  // namespace race

// ---- the kernel's own loads and stores

void accessed(void* address, size_t bytes, int access, void* pc) {
    if (!self) return;
    Block& b = *block;
    if (b.owns(address)) return;
    race::Place place = race::place_of(pc);
    SharedMemory& shared = *b.shared;
    if (!shared.contains(address))
        return race::touch_global(race::by_thread(self->number), address, bytes, access, place);
    size_t offset = size_t(static_cast<char*>(address) - shared.window);
    if (!shared.valid(offset, bytes))
        b.fail({}, "%zu bytes at %s are outside of shared memory, at %s", bytes, shared.describe(offset).c_str(),
               race::name_of_place(place).c_str());
    race::touch(race::by_thread(self->number), offset, bytes, access, place);
}

}  // namespace emulator
