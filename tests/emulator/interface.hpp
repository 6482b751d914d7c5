// The C interface of a library of kernels, libemulator.so: defined in launch.cpp and tma.cpp, called by the emulated driver
// (driver/) and by emulator.py.
#pragma once
#include <stddef.h>
#include <stdint.h>

extern "C" {

// In which order threads run, and when what is asynchronous takes effect: docs/emulator.md.
struct EmulatorSchedule {
    int order;
    int completion;
    uint64_t seed;
    int threads;
};

// One parameter of a kernel: how many bytes it has, and whether it is a pointer through which the kernel may write.
struct EmulatorParameter {
    uint32_t bytes;
    uint8_t pointer, writes;
};

int emulator_check(const char* name, const uint32_t grid[3], const uint32_t block_size[3], uint32_t shared_bytes,
                   const EmulatorSchedule* schedule, char* error, size_t error_bytes);
int emulator_launch(const char* name, const uint32_t grid[3], const uint32_t block_size[3], uint32_t shared_bytes,
                    void** arguments, const EmulatorSchedule* schedule, char* error, size_t error_bytes);
const EmulatorParameter* emulator_parameters(const char* name, int* count);
void emulator_tensor_map(void* map, const void* base, uint64_t columns, uint64_t rows, uint64_t row_bytes,
                         uint32_t box_columns, uint32_t box_rows);
void emulator_forbid(const void* address, size_t bytes, int forbidden);
int emulator_flavour();
}
