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
    const EmulatorParameter* parameters;
    int parameters_count;
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

// What is read here is no access of the kernel's.
#define NOT_OBSERVED __attribute__((no_sanitize("thread")))

// Arguments are copied out: the caller need not align them as their type asks.
template <class T>
NOT_OBSERVED T load_argument(const void* from) {
    T value;
    memcpy(static_cast<void*>(&value), from, sizeof value);
    return value;
}
template <class... Parameters, size_t... i>
NOT_OBSERVED void call_with(void (*kernel)(Parameters...), void** arguments, std::index_sequence<i...>) {
    (void)arguments;
    kernel(load_argument<std::remove_const_t<Parameters>>(arguments[i])...);
}
template <auto kernel, class... Parameters>
NOT_OBSERVED void call_typed(void** arguments, void (*)(Parameters...)) {
    call_with(kernel, arguments, std::index_sequence_for<Parameters...>{});
}
template <auto kernel>
NOT_OBSERVED void call(void** arguments) {
    call_typed<kernel>(arguments, kernel);
}

template <class T>
constexpr EmulatorParameter parameter() {
    bool writes = std::is_pointer<T>::value && !std::is_const<std::remove_pointer_t<T>>::value;
    return {sizeof(T), std::is_pointer<T>::value, writes};
}
template <class... Parameters>
Kernel describe(const char* name, int threads, int blocks, void (*call)(void**), void (*)(Parameters...)) {
    static constexpr EmulatorParameter all[] = {parameter<std::remove_const_t<Parameters>>()..., EmulatorParameter{0, 0, 0}};
    return {name, threads, blocks, call, all, int(sizeof...(Parameters))};
}

}  // namespace emulator

using Flag = int;
#define NULLABLE
#define KERNEL(threads, blocks, name, ...)                                                                    \
    extern "C" void name(__VA_ARGS__);                                                                        \
    static const emulator::Registration name##_registration(                                                  \
        emulator::describe(#name, threads, blocks, emulator::call<&name>, name));                             \
    extern "C" void name(__VA_ARGS__)
