#include "fibers.hpp"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

asm(R"(
.text
.type emulator_switch_stack,@function
emulator_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch_stack, .-emulator_switch_stack
)");
extern "C" __attribute__((visibility("hidden"))) void emulator_switch_stack(void** save, void* load);

namespace emulator {

// AddressSanitizer's red zones make frames several times larger. Untouched pages cost nothing.
#ifdef __SANITIZE_ADDRESS__
constexpr size_t STACK = 256 << 10;
#else
constexpr size_t STACK = 64 << 10;
#endif
constexpr size_t GUARD = 4096;
constexpr int GROUP = 32;  // stacks above a guard page
constexpr size_t GROUP_BYTES = GUARD + GROUP * STACK;
constexpr uint64_t MARK = 0x6b63617473206d79;

void switch_fiber(Fiber& from, Fiber& to) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.size);
#endif
    emulator_switch_stack(&from.stack_pointer, to.stack_pointer);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

void leave_fiber(Fiber& from, Fiber& to) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(nullptr, to.bottom, to.size);
#endif
    emulator_switch_stack(&from.stack_pointer, to.stack_pointer);
    __builtin_unreachable();
}

void fiber_started(Fiber& from) {
    (void)from;
#ifdef __SANITIZE_ADDRESS__
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    from.bottom = const_cast<void*>(bottom);
    from.size = size;
#endif
}

Stacks::~Stacks() {
    if (memory) munmap(memory, bytes);
}

void Stacks::reserve(int wanted) {
    if (wanted <= count) return;
    if (memory) munmap(memory, bytes);
    int groups = (wanted + GROUP - 1) / GROUP;
    count = groups * GROUP;
    bytes = size_t(groups) * GROUP_BYTES;
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) {
        perror("emulator: no memory for stacks");
        abort();
    }
    memory = static_cast<char*>(mapped);
    for (int i = 0; i < groups; i++) mprotect(memory + size_t(i) * GROUP_BYTES, GUARD, PROT_NONE);
}

void Stacks::prepare(Fiber& fiber, int i, void (*entry)()) {
    char* bottom = memory + size_t(i / GROUP) * GROUP_BYTES + GUARD + size_t(i % GROUP) * STACK;
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(bottom, STACK);  // an abandoned block leaves its frames' red zones behind
#endif
    *reinterpret_cast<uint64_t*>(bottom) = MARK;
    fiber.bottom = bottom;
    fiber.size = STACK;
    fiber.fake_stack = nullptr;
    // Stacks start at different cache lines; all lanes' variables would otherwise share the same few cache sets.
    char* top = bottom + STACK - 64 - (i * 9 % 64) * 64;
    void** frame = reinterpret_cast<void**>(top);
    *--frame = nullptr;  // where `entry` would return to: keeps the alignment of a call
    *--frame = reinterpret_cast<void*>(entry);
    for (int j = 0; j < 6; j++) *--frame = nullptr;
    fiber.stack_pointer = frame;
}

bool Stacks::overflowed(const Fiber& fiber) { return *static_cast<const uint64_t*>(fiber.bottom) != MARK; }

}  // namespace emulator
