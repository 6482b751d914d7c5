// Every selftest is a kernel with the same parameters, so that any driver can launch it (see expectations.txt):
//   failures  one int, 0 at the start: the kernel adds what it finds wrong
//   data      128 x 96 bf16 (192 bytes a row), of which element i has the bits i
//   map       a TensorMap of the first 100 rows and 90 columns of `data`, in boxes of 64 rows and 64 columns
// What a test expects is computed from the formulas of the PTX ISA, apart from the emulator's own.
#pragma once
#include "common.cuh"

#define SELFTEST(threads, name) \
    KERNEL(threads, 1, name, int* failures, uint16_t* data, const __grid_constant__ TensorMap map)
#define UNUSED (void)failures, (void)data, (void)map

constexpr int DATA_ROWS = 128, DATA_PITCH = 96, MAP_ROWS = 100, MAP_COLUMNS = 90;

DEVICE void expect(int* failures, bool right) {
    if (!right) atomicAdd(failures, 1);
}

// Small integers of either sign, whose products and sums are exact.
DEVICE float small(int i, int j) { return float((i * 7 + j * 13 + i * j) % 9 - 4); }
