// A block that runs: its threads, their scheduling, and what each of them waits for.
//
// One OS thread runs a block. Each of its CUDA threads is a fiber, which runs until it must wait (at a barrier, at a
// warp operation, for asynchronous work); the scheduler then chooses another. A block owns all of its state: launches
// from several OS threads share nothing.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "fibers.hpp"
#include "interface.hpp"
#include "types.hpp"

namespace emulator {

enum Flavour { PLAIN = 0, RACE = 1, ASAN = 2, COUNT = 3 };
#if defined(EMULATOR_RACE)
constexpr Flavour flavour = RACE;
#elif defined(EMULATOR_COUNT)
constexpr Flavour flavour = COUNT;
#elif defined(__SANITIZE_ADDRESS__)
constexpr Flavour flavour = ASAN;
#else
constexpr Flavour flavour = PLAIN;
#endif

// A place in a kernel's source. As a default argument, `Site::here()` is the caller's.
struct Site {
    const char* file = "";
    int line = 0;
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
    bool operator==(const Site& other) const {
        return line == other.line && (file == other.file || !strcmp(file, other.file));
    }
};

enum Completion { EARLY = 0, LATE = 1, RANDOM = 2 };

// What a thread does when it does not run.
enum class State : uint8_t { ready, warp, barrier, mbarrier, exited };

struct Thread {
    uint3 index;
    int number, warp, lane;
    State state;
    Fiber fiber;

    // While it waits: at what, called from where, with which operands.
    const char* operation;
    Site site;
    uint32_t mask;           // warp operations: the lanes that take part
    void* argument;          // warp operations: this lane's operands and result
    int barrier;             // barriers: which
    int predicate, reduced;  // barriers that reduce: this thread's operand, and the result
    uint64_t* mbarrier;      // mbarriers: which, and the parity waited for
    uint32_t parity;
};

struct Warp {
    int number;
    Thread* lanes;     // the first of its threads
    uint32_t exists;   // lanes that have a thread: all, but for a last warp cut short
    uint32_t live;     // lanes that have not exited
    uint32_t ready;    // lanes that could run
    uint32_t arrived;  // lanes that wait at a warp operation
    int place;         // among the warps: the lower, the sooner it runs
};

// __syncthreads is barrier 0. `expected` 0: nobody has arrived yet in this phase, for barriers with a count.
struct Barrier {
    int expected, arrived;
    uint32_t lanes[32];  // who has arrived, a word for each warp
};

struct Launch;
struct SharedMemory;
struct CopyQueues;
struct MbarrierTable;
struct TransferQueue;
struct WgmmaQueues;
namespace race {
struct State;
}
namespace counters {
struct State;
}

struct Block {
    Block();
    ~Block();

    // Runs one block to its end; false: `error` says what went wrong.
    bool run(const Launch& launch, uint3 index);

    // ---- for what threads call

    // The current thread, whose state is no longer `ready`, hands over to another.
    void park();
    void wake(Thread& thread) { wake(warps[thread.warp], 1u << thread.lane); }
    void wake(Warp& warp, uint32_t lanes);
    // Lets another thread run, if the schedule likes: called where a real warp could be overtaken.
    void yield();
    // Arrives at a barrier; `expected` 0: all live threads.
    void barrier(int id, int expected, bool wait, const char* operation, Site site);
    uint64_t random();
    bool chance(int in) { return random() % uint64_t(in) == 0; }
    Completion completion() const;
    // Abandons the block.
    [[noreturn]] void fail(Site site, const char* format, ...) __attribute__((format(printf, 3, 4)));

    // Is this an address of the emulator's own: a stack, or what `threadIdx`, DYNAMIC_SHARED and their like read?
    bool owns(const void* p) const;

    const Launch* launch = nullptr;
    uint3 index;
    dim3 dimensions, grid;
    int threads_count = 0;
    std::vector<Thread> threads;
    std::vector<Warp> warps;

    std::unique_ptr<SharedMemory> shared;
    std::unique_ptr<CopyQueues> copies;
    std::unique_ptr<MbarrierTable> mbarriers;
    std::unique_ptr<TransferQueue> transfers;
    std::unique_ptr<WgmmaQueues> wgmmas;
    std::shared_ptr<race::State> race;          // flavour RACE only
    std::shared_ptr<counters::State> counters;  // flavour COUNT only
    std::string error;

private:
    static void thread_main();
    void exit_thread();
    void prepare();
    void not_ready(Thread& thread);
    void exchange_places(int left, int right);
    Thread* next();
    void switch_to(Thread& thread);
    void complete(int id);
    bool complete_if_full(int id);
    [[noreturn]] void deadlock();
    std::string waiting() const;

    Fiber main_fiber;
    Stacks stacks;
    Barrier barriers[16];
    int live = 0;
    uint32_t ready_places = 0;  // of warps that have a ready lane: bits of `place`
    int warp_at[32];
    uint64_t random_state = 0;
    bool failed = false;
};

// The block and the thread that this OS thread now runs.
extern thread_local Block* block;
extern thread_local Thread* self;

}  // namespace emulator

#define threadIdx (emulator::self->index)
#define blockIdx (emulator::block->index)
#define blockDim (emulator::block->dimensions)
#define gridDim (emulator::block->grid)
constexpr int warpSize = 32;
