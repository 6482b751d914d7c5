#include "counters.hpp"

#include <algorithm>

#include "shared_memory.hpp"

namespace emulator {
namespace counters {

namespace {

using Counts = EmulatorWarpCounts;
constexpr size_t SECTOR = 32;      // bytes of global memory that travel together
constexpr size_t BANKS = 32;       // of shared memory, each four bytes wide
constexpr size_t PIECE = 16;       // the most that a lane moves by one instruction

// What lanes do at a place of the code, each for itself.
enum class Kind : uint8_t {
    GLOBAL_LOAD,
    GLOBAL_STORE,
    GLOBAL_ATOMIC,
    SHARED_LOAD,
    SHARED_STORE,
    SHARED_ATOMIC,
    COPY_FROM,  // cp.async: what it reads, and
    COPY_TO,    // what it writes
    SPECIAL,
    MBARRIER_ARRIVAL,
    MBARRIER_WAIT,
};

// One instruction of a warp: the lanes that have come to it, and their addresses.
struct Instruction {
    uint32_t lanes = 0;
    uintptr_t address[32];
};

// A place of the code, as one warp passes it.
struct Place {
    uint64_t key;
    Kind kind;
    uint8_t bytes;
    bool touched = false;    // since the warp last met
    uint32_t passed[32] = {};  // how often each lane has come since
    std::vector<Instruction> instructions;
};

// A warp's places, by where they are and what happens there.
struct Places {
    Place& at(uint64_t key, Kind kind, size_t bytes) {
        if (2 * (all.size() + 1) > slots.size()) grow();
        size_t slot = slot_of(key);
        while (slots[slot] && slots[slot]->key != key) slot = (slot + 1) % slots.size();
        if (!slots[slot]) {
            all.emplace_back(new Place);
            slots[slot] = all.back().get();
            slots[slot]->key = key;
            slots[slot]->kind = kind;
            slots[slot]->bytes = uint8_t(bytes);
        }
        return *slots[slot];
    }

private:
    size_t slot_of(uint64_t key) const { return size_t(key * 0x9e3779b97f4a7c15ull >> 32) % slots.size(); }
    void grow() {
        slots.assign(std::max<size_t>(64, 2 * slots.size()), nullptr);
        for (auto& place : all) {
            size_t slot = slot_of(place->key);
            while (slots[slot]) slot = (slot + 1) % slots.size();
            slots[slot] = place.get();
        }
    }

    std::vector<std::unique_ptr<Place>> all;
    std::vector<Place*> slots;
};

struct WarpState {
    Counts counts;
    Places places;
    std::vector<Place*> touched;
};

}  // namespace

struct State {
    std::vector<std::unique_ptr<WarpState>> warps;
    EmulatorCounters sum;
};

namespace {

WarpState& of(int warp) { return *block->counters->warps[size_t(warp)]; }

// ---- the rules

// Of addresses that are used together, how many distinct sectors they touch.
uint64_t sectors(const Instruction& instruction, size_t bytes) {
    uintptr_t found[64];
    size_t count = 0;
    for (uint32_t rest = instruction.lanes; rest; rest &= rest - 1) {
        uintptr_t address = instruction.address[__builtin_ctz(rest)];
        for (uintptr_t sector = address / SECTOR; sector <= (address + bytes - 1) / SECTOR; sector++)
            if (!count || found[count - 1] != sector) found[count++] = sector;
    }
    std::sort(found, found + count);
    return uint64_t(std::unique(found, found + count) - found);
}

// The 4-byte words that some lanes ask of shared memory in one go: as many passes as the bank has that is asked for most words.
class Pass {
public:
    void add(uintptr_t address, size_t bytes) {
        for (uint32_t word = uint32_t(address / 4); word <= uint32_t((address + bytes - 1) / 4); word++) {
            uint32_t* bank = words[word % BANKS];
            uint8_t& count = counts[word % BANKS];
            uint8_t known = 0;
            while (known < count && bank[known] != word) known++;
            if (known == count) bank[count++] = word;
            most = std::max(most, count);
        }
    }
    uint64_t wavefronts() const { return most; }

private:
    uint32_t words[BANKS][32];
    uint8_t counts[BANKS] = {};
    uint8_t most = 0;
};

// Up to 4 bytes of each lane: all lanes at once; 8 bytes: half a warp; 16 bytes: a quarter.
void add_wavefronts(const Instruction& instruction, size_t bytes, uint64_t& wavefronts, uint64_t& ideal) {
    int lanes = bytes <= 4 ? 32 : bytes <= 8 ? 16 : 8;
    for (int first = 0; first < 32; first += lanes) {
        Pass pass;
        for (int lane = first; lane < first + lanes; lane++)
            if (instruction.lanes >> lane & 1) pass.add(instruction.address[lane], bytes);
        wavefronts += pass.wavefronts();
        ideal += pass.wavefronts() > 0;
    }
}

// ---- one after another, lanes make a warp's instruction

void execute(const Place& place, const Instruction& instruction, Counts& counts) {
    uint64_t asked = uint64_t(__builtin_popcount(instruction.lanes)) * place.bytes;
    switch (place.kind) {
        case Kind::GLOBAL_LOAD:
            counts.global_loads++;
            counts.global_load_bytes += asked;
            counts.global_load_sectors += sectors(instruction, place.bytes);
            break;
        case Kind::GLOBAL_STORE:
            counts.global_stores++;
            counts.global_store_bytes += asked;
            counts.global_store_sectors += sectors(instruction, place.bytes);
            break;
        case Kind::GLOBAL_ATOMIC: counts.global_atomics++; break;
        case Kind::SHARED_LOAD:
            counts.shared_loads++;
            add_wavefronts(instruction, place.bytes, counts.shared_load_wavefronts, counts.shared_load_ideal);
            break;
        case Kind::SHARED_STORE:
            counts.shared_stores++;
            add_wavefronts(instruction, place.bytes, counts.shared_store_wavefronts, counts.shared_store_ideal);
            break;
        case Kind::SHARED_ATOMIC: counts.shared_atomics++; break;
        case Kind::COPY_FROM:
            counts.copy_bytes += asked;
            counts.copy_sectors += sectors(instruction, place.bytes);
            break;
        case Kind::COPY_TO:
            counts.copies++;
            add_wavefronts(instruction, place.bytes, counts.copy_wavefronts, counts.copy_ideal);
            break;
        case Kind::SPECIAL: counts.special++; break;
        case Kind::MBARRIER_ARRIVAL: counts.mbarrier_arrivals++; break;
        case Kind::MBARRIER_WAIT: counts.mbarrier_waits++; break;
    }
}

// The current thread comes to a place; `address` is where in memory, if it is about memory.
void pass(Kind kind, const void* pc, uintptr_t address, size_t bytes) {
    WarpState& warp = of(self->warp);
    uint64_t key = uint64_t(reinterpret_cast<uintptr_t>(pc)) << 16 ^ uint64_t(kind) << 8 ^ bytes;
    Place& place = warp.places.at(key, kind, bytes);
    if (!place.touched) {
        place.touched = true;
        warp.touched.push_back(&place);
    }
    uint32_t number = place.passed[self->lane]++;
    if (number == place.instructions.size()) place.instructions.emplace_back();
    Instruction& instruction = place.instructions[number];
    instruction.lanes |= 1u << self->lane;
    instruction.address[self->lane] = address;
    if (instruction.lanes != block->warps[size_t(self->warp)].exists) return;
    execute(place, instruction, warp.counts);
    instruction.lanes = 0;
}

// All lanes are at one place: no other comes to what some have passed.
void settle(WarpState& warp) {
    for (Place* place : warp.touched) {
        for (const Instruction& instruction : place->instructions)
            if (instruction.lanes) execute(*place, instruction, warp.counts);
        place->instructions.clear();
        memset(place->passed, 0, sizeof place->passed);
        place->touched = false;
    }
    warp.touched.clear();
}

EmulatorRole role_of(const Counts& counts) {
    if (counts.mmas || counts.wgmmas) return EMULATOR_PRODUCTS;
    return counts.boxes || counts.copies ? EMULATOR_COPIES : EMULATOR_REST;
}

// A struct of nothing but such numbers.
template <class T>
void add_numbers(const T& from, T& to) {
    static_assert(sizeof(T) % sizeof(uint64_t) == 0, "it has other members");
    uint64_t values[sizeof(T) / sizeof(uint64_t)], sums[sizeof(T) / sizeof(uint64_t)];
    memcpy(values, &from, sizeof from);
    memcpy(sums, &to, sizeof to);
    for (size_t i = 0; i < sizeof(T) / sizeof(uint64_t); i++) sums[i] += values[i];
    memcpy(&to, sums, sizeof to);
}

}  // namespace

// ---- what happens

void launch_started(Block& b) {
    if (!b.counters) b.counters = std::make_shared<State>();
    b.counters->sum = EmulatorCounters{};
}

void block_started(Block& b) {
    auto& warps = b.counters->warps;
    while (warps.size() < b.warps.size()) warps.emplace_back(new WarpState);
    for (auto& warp : warps) {
        settle(*warp);  // what an earlier block left that failed
        warp->counts = Counts{};
    }
}

void block_ended(Block& b) {
    State& state = *b.counters;
    state.sum.blocks++;
    for (size_t i = 0; i < b.warps.size(); i++) {
        WarpState& warp = *state.warps[i];
        settle(warp);
        EmulatorRole role = role_of(warp.counts);
        state.sum.warps[role]++;
        add_numbers(warp.counts, state.sum.of[role]);
    }
}

void add(const Block& b, EmulatorCounters& to) { add_numbers(b.counters->sum, to); }

void warp_met(Warp& warp, uint32_t lanes) {
    if (!(warp.live & ~lanes)) settle(of(warp.number));
}

void barrier_completed(Warp& warp, bool waited) {
    WarpState& state = of(warp.number);
    // Who only arrives has gone on, while other lanes had not come yet.
    if (waited) settle(state);
    (waited ? state.counts.barrier_waits : state.counts.barrier_arrivals)++;
}

void shuffled(const Warp& warp) { of(warp.number).counts.shuffles++; }
void voted(const Warp& warp) { of(warp.number).counts.votes++; }
void warp_barrier(const Warp& warp) { of(warp.number).counts.warp_barriers++; }

// Four matrices, each of them eight rows of 16 bytes in one pass.
void matrix_loaded(const Warp& warp, const void* const rows[32]) {
    Counts& counts = of(warp.number).counts;
    counts.matrix_loads++;
    for (int matrix = 0; matrix < 4; matrix++) {
        Pass pass;
        for (int row = 0; row < 8; row++) pass.add(reinterpret_cast<uintptr_t>(rows[8 * matrix + row]), 16);
        counts.matrix_load_wavefronts += pass.wavefronts();
        counts.matrix_load_ideal++;
    }
}

void mma(const Warp& warp) {
    Counts& counts = of(warp.number).counts;
    counts.mmas++;
    counts.multiply_adds += 16 * 8 * 16;
}

// A warp has 16 of the 64 rows.
void wgmma(const Warp& warp, int columns) {
    Counts& counts = of(warp.number).counts;
    counts.wgmmas++;
    counts.multiply_adds += 16 * uint64_t(columns) * 16;
    counts.wgmma_operand_bytes += 16 * 16 * 2 + uint64_t(columns) * 16 * 2 / 4;
}

void special() { pass(Kind::SPECIAL, __builtin_return_address(0), 0, 0); }

void copy_issued(const void* to, const void* from, const void* pc) {
    if (from) pass(Kind::COPY_FROM, pc, reinterpret_cast<uintptr_t>(from), 16);
    pass(Kind::COPY_TO, pc, reinterpret_cast<uintptr_t>(to), 16);
}

void mbarrier_arrived(const void* pc) { pass(Kind::MBARRIER_ARRIVAL, pc, 0, 0); }
void mbarrier_waited(const void* pc) { pass(Kind::MBARRIER_WAIT, pc, 0, 0); }

void box_read(const void* from, size_t bytes) {
    Counts& counts = of(self->warp).counts;
    uintptr_t begin = reinterpret_cast<uintptr_t>(from);
    counts.box_bytes += bytes;
    counts.box_sectors += (begin + bytes - 1) / SECTOR - begin / SECTOR + 1;
}

void box_issued() { of(self->warp).counts.boxes++; }

}  // namespace counters

// ---- the kernel's own loads and stores

void accessed(void* address, size_t bytes, int access, void* pc) {
    using counters::Kind;
    if (!self || block->owns(address)) return;
    bool shared = block->shared->contains(address);
    Kind kind = access & ATOMIC  ? shared ? Kind::SHARED_ATOMIC : Kind::GLOBAL_ATOMIC
                : access & WRITE ? shared ? Kind::SHARED_STORE : Kind::GLOBAL_STORE
                : shared         ? Kind::SHARED_LOAD
                                 : Kind::GLOBAL_LOAD;
    uintptr_t begin = shared ? uintptr_t(static_cast<char*>(address) - block->shared->window)
                             : reinterpret_cast<uintptr_t>(address);
    // What is larger than an instruction moves is several; the place's first bytes tell them apart.
    for (size_t at = 0; at < bytes; at += counters::PIECE)
        counters::pass(kind, static_cast<char*>(pc) + at, begin + at, std::min(bytes - at, counters::PIECE));
}

}  // namespace emulator
