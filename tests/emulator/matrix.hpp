// ldmatrix and mma: warp-wide, synchronous.
#pragma once
#include "block.hpp"

namespace ptx {
void ldmatrix_x4(uint32_t (&r)[4], const void* row, emulator::Site site = emulator::Site::here());
void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, emulator::Site site = emulator::Site::here());
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                  emulator::Site site = emulator::Site::here());
}  // namespace ptx
