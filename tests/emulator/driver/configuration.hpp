// What an emulated GPU is like, and what goes wrong with it: "capability=8.6,memory=24G,lost=700".
#pragma once
#include <set>
#include <string>

#include "../interface.hpp"

namespace driver {

struct Configuration {
    std::string name;             // name=TEXT
    int major = 9, minor = 0;     // capability=9.0
    size_t memory = size_t(8) << 30;  // memory=8G
    int multiprocessors = 4;      // multiprocessors=4
    std::string kernels;          // kernels=FILE: a libemulator.so
    // order=, completion=, seed=, threads=: docs/emulator.md. `completion` also says when the work of streams is done.
    EmulatorSchedule schedule{0, 0, 0, 1};
    long lost_at_launch = -1;          // lost=N: the GPU is lost at this launch, counted from 0
    long lost_barrier_at_launch = -1;  // barrier=N: the kernel of this launch waits in vain
    bool instantiation_fails = false;  // instantiation=fails: no graph can be made executable
    std::string profile;               // profile=FILE: where the names of kernels go that a profiler collected
    std::set<std::string> forgotten;   // forget=FUNCTION: calls of it do nothing, as if the host had forgotten them

    // The most shared memory of a block, in bytes.
    int shared_memory() const;
};

// Reads `text` over `to`; the error, or nothing.
std::string read(const std::string& text, Configuration& to);

}  // namespace driver
