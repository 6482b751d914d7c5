// What a .cu file of kernels/ sees on the host in place of CUDA: see docs/emulator.md.
#pragma once
#include "block.hpp"
#include "builtins.hpp"
#include "cp_async.hpp"
#include "launch.hpp"
#include "matrix.hpp"
#include "mbarrier.hpp"
#include "shared_memory.hpp"
#include "tma.hpp"
#include "types.hpp"
#include "warp.hpp"
#include "wgmma.hpp"
