// Kernels by name, and a launch of one.
#pragma once
#include <string.h>

#include <type_traits>
#include <utility>

#include "block.hpp"

namespace emulator {

struct Kernel {
    const char* name;
    int threads, blocks;  // its launch bounds
    void (*call)(void** arguments);
};

// All of this belongs to one call of emulator_launch.
struct Launch {
    const Kernel* kernel;
    dim3 grid, block;
    size_t shared_bytes;
    void** arguments;
    EmulatorSchedule schedule;
};

struct Registration {
    Registration(const Kernel& kernel);
};

// Arguments are copied out: the caller need not align them as their type asks.
template <class T>
T load_argument(const void* from) {
    T value;
    memcpy(static_cast<void*>(&value), from, sizeof value);
    return value;
}
template <class... Parameters, size_t... i>
void call_with(void (*kernel)(Parameters...), void** arguments, std::index_sequence<i...>) {
    (void)arguments;
    kernel(load_argument<std::remove_const_t<Parameters>>(arguments[i])...);
}
template <auto kernel, class... Parameters>
void call_typed(void** arguments, void (*)(Parameters...)) {
    call_with(kernel, arguments, std::index_sequence_for<Parameters...>{});
}
template <auto kernel>
void call(void** arguments) {
    call_typed<kernel>(arguments, kernel);
}

}  // namespace emulator

#define KERNEL(threads, blocks, name, ...)                                                                    \
    extern "C" void name(__VA_ARGS__);                                                                        \
    static const emulator::Registration name##_registration({#name, threads, blocks, emulator::call<&name>}); \
    extern "C" void name(__VA_ARGS__)
