// Stackful fibers on x86-64: a stack each, and a switch that saves the six registers a call preserves.
#pragma once
#include <stddef.h>

namespace emulator {

struct Fiber {
    void* stack_pointer = nullptr;
    void* bottom = nullptr;  // the stack's lowest address and size, which AddressSanitizer wants to know
    size_t size = 0;
    void* fake_stack = nullptr;
};

// Continues `to`; returns when something switches back to `from`.
void switch_fiber(Fiber& from, Fiber& to);
// The same, for a fiber that will never be continued.
[[noreturn]] void leave_fiber(Fiber& from, Fiber& to);
// The first thing a new fiber calls: `from` is who switched to it.
void fiber_started(Fiber& from);

// Stacks for `count` fibers. A page that faults lies below every 32nd: one below each would use up the mappings that
// Linux grants a process when many launches run at once. A mark at the lower end of each shows that it has overflowed.
class Stacks {
public:
    ~Stacks();
    void reserve(int count);
    // Makes `fiber` start at `entry` on stack `i`.
    void prepare(Fiber& fiber, int i, void (*entry)());
    static bool overflowed(const Fiber& fiber);
    bool contains(const void* p) const { return size_t(static_cast<const char*>(p) - memory) < bytes; }

private:
    char* memory = nullptr;
    size_t bytes = 0;
    int count = 0;
};

}  // namespace emulator
