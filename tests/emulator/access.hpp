// The loads and stores of a kernel, in the flavours that look at each: access_hooks.cpp receives them from the compiler.
#pragma once
#include <stddef.h>

namespace emulator {

enum Access { READ = 0, WRITE = 1, ATOMIC = 2 };  // a sum of them

// By the current thread, at this place of the code: race.cpp, or counters.cpp.
void accessed(void* address, size_t bytes, int access, void* pc);

}  // namespace emulator
