// The C interface: finds a kernel, checks its launch, and runs its blocks on one or more OS threads.
#include "launch.hpp"

#include <stdarg.h>
#include <stdio.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "counters.hpp"
#include "race.hpp"
#include "shared_memory.hpp"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace emulator {
namespace {

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

// Blocks keep their stacks and shared memory, which are costly to make; launches borrow them.
class Pool {
public:
    std::unique_ptr<Block> borrow() {
        std::lock_guard<std::mutex> lock(mutex);
        if (idle.empty()) return std::unique_ptr<Block>(new Block);
        std::unique_ptr<Block> block = std::move(idle.back());
        idle.pop_back();
        return block;
    }
    void give_back(std::unique_ptr<Block> block) {
        std::lock_guard<std::mutex> lock(mutex);
        idle.push_back(std::move(block));
    }

private:
    std::mutex mutex;
    std::vector<std::unique_ptr<Block>> idle;
};

Pool& pool() {
    static Pool all;
    return all;
}

// The order in which blocks run.
std::vector<uint64_t> block_order(uint64_t blocks, const EmulatorSchedule& schedule) {
    std::vector<uint64_t> order(blocks);
    for (uint64_t i = 0; i < blocks; i++) order[i] = i;
    if (!schedule.order) return order;
    uint64_t state = schedule.seed * 0x9e3779b97f4a7c15ull + 0x1234567ull;
    for (uint64_t i = blocks; i > 1; i--) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        std::swap(order[i - 1], order[(state >> 33) % i]);
    }
    return order;
}

std::string check(const Launch& launch) {
    char text[256];
    auto say = [&](const char* format, auto... values) {
        snprintf(text, sizeof text, format, values...);
        return std::string("invalid launch: ") + text;
    };
    for (dim3 d : {launch.grid, launch.block})
        if (!d.x || !d.y || !d.z) return say("an empty grid or block");
    if (launch.grid.x > 0x7fffffffu || launch.grid.y > 65535 || launch.grid.z > 65535)
        return say("a grid of (%u,%u,%u) blocks", launch.grid.x, launch.grid.y, launch.grid.z);
    uint64_t threads = uint64_t(launch.block.x) * launch.block.y * launch.block.z;
    if (threads > 1024 || launch.block.z > 64)
        return say("a block of (%u,%u,%u) threads", launch.block.x, launch.block.y, launch.block.z);
    if (threads > uint64_t(launch.kernel->threads))
        return say("%llu threads a block, of a kernel made for %d", (unsigned long long)threads,
                   launch.kernel->threads);
    if (launch.shared_bytes > SHARED_LIMIT)
        return say("%zu bytes of shared memory: more than 227 KiB", launch.shared_bytes);
    if (launch.schedule.order < 0 || launch.schedule.order > 1 || launch.schedule.completion < 0 ||
        launch.schedule.completion > 2)
        return say("a schedule that does not exist");
    return "";
}

// `counters`: where to add what the launch does, or null.
std::string run(const Launch& launch, EmulatorCounters* counters) {
    uint64_t blocks = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
    std::vector<uint64_t> order = block_order(blocks, launch.schedule);
    std::atomic<uint64_t> next{0};
    std::mutex mutex;
    std::string error;
    auto work = [&] {
        std::unique_ptr<Block> mine = pool().borrow();
        race::launch_started(*mine);
        counters::launch_started(*mine);
        for (uint64_t i; (i = next++) < blocks;) {
            uint64_t at = order[i];
            uint3 index = {unsigned(at % launch.grid.x), unsigned(at / launch.grid.x % launch.grid.y),
                           unsigned(at / launch.grid.x / launch.grid.y)};
            if (mine->run(launch, index)) continue;
            next = blocks;  // the others stop too
            std::lock_guard<std::mutex> lock(mutex);
            if (error.empty()) error = mine->error;
        }
        if (counters) {
            std::lock_guard<std::mutex> lock(mutex);
            counters::add(*mine, *counters);
        }
        pool().give_back(std::move(mine));
    };
    // The race checker follows one thread of execution.
    int workers = flavour == RACE ? 1 : int(std::min<uint64_t>(std::max(launch.schedule.threads, 1), blocks));
    std::vector<std::thread> others;
    for (int i = 1; i < workers; i++) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
    if (counters && error.empty()) counters->launches++;
    return error;
}

}  // namespace

Registration::Registration(const Kernel& kernel) {
    if (kernels().count(kernel.name)) {
        fprintf(stderr, "emulator: two kernels are named %s\n", kernel.name);
        abort();
    }
    kernels()[kernel.name] = kernel;
}

}  // namespace emulator

using namespace emulator;

namespace {

// The launch that the arguments describe; of no kernel if there is none of this name.
Launch describe_launch(const char* name, const uint32_t grid[3], const uint32_t block_size[3], uint32_t shared_bytes,
                       void** arguments, const EmulatorSchedule* schedule) {
    auto found = kernels().find(name);
    return {found == kernels().end() ? nullptr : &found->second,
            dim3(grid[0], grid[1], grid[2]),
            dim3(block_size[0], block_size[1], block_size[2]),
            shared_bytes,
            arguments,
            *schedule};
}

int outcome(const char* name, const std::string& message, char* error, size_t error_bytes) {
    if (message.empty()) return 0;
    if (error_bytes) snprintf(error, error_bytes, "%s: %s", name, message.c_str());
    return 1;
}

}  // namespace

// Whether a launch is possible at all: 0, or 1 and why not.
EXPORT int emulator_check(const char* name, const uint32_t grid[3], const uint32_t block_size[3], uint32_t shared_bytes,
                          const EmulatorSchedule* schedule, char* error, size_t error_bytes) {
    Launch launch = describe_launch(name, grid, block_size, shared_bytes, nullptr, schedule);
    return outcome(name, launch.kernel ? check(launch) : "no such kernel", error, error_bytes);
}

// Runs a kernel to its end: 0, or 1 and what went wrong. Adds what it did to `counters`, unless that is null: flavour COUNT.
EXPORT int emulator_launch(const char* name, const uint32_t grid[3], const uint32_t block_size[3],
                           uint32_t shared_bytes, void** arguments, const EmulatorSchedule* schedule,
                           EmulatorCounters* counters, char* error, size_t error_bytes) {
    Launch launch = describe_launch(name, grid, block_size, shared_bytes, arguments, schedule);
    std::string message = launch.kernel ? check(launch) : "no such kernel";
    if (message.empty()) message = run(launch, counters);
    return outcome(name, message, error, error_bytes);
}

// A kernel's parameters; null if there is no kernel of this name.
EXPORT const EmulatorParameter* emulator_parameters(const char* name, int* count) {
    auto found = kernels().find(name);
    if (found == kernels().end()) return nullptr;
    *count = found->second.parameters_count;
    return found->second.parameters;
}

EXPORT int emulator_flavour() { return flavour; }

// Says that nothing may touch these bytes, or, with `forbidden` 0, that they may be touched again: flavour ASAN.
EXPORT void emulator_forbid(const void* address, size_t bytes, int forbidden) {
    (void)address;
    (void)bytes;
    (void)forbidden;
#ifdef __SANITIZE_ADDRESS__
    if (forbidden) ASAN_POISON_MEMORY_REGION(address, bytes);
    else ASAN_UNPOISON_MEMORY_REGION(address, bytes);
#endif
}
