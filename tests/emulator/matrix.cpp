#include "matrix.hpp"

#include "counters.hpp"
#include "race.hpp"
#include "shared_memory.hpp"
#include "warp.hpp"

namespace emulator {
namespace {

struct LoadMatrix {
    const void* row;
    uint32_t* registers;
};

template <bool TRANSPOSED>
void run_load_matrix(Warp& warp, uint32_t, Site site) {
    const void* rows[32];
    for (int lane = 0; lane < 32; lane++) {
        rows[lane] = static_cast<LoadMatrix*>(warp.lanes[lane].argument)->row;
        race::matrix_row_read(warp.lanes[lane], rows[lane], site);
    }
    counters::matrix_loaded(warp, rows);
    for (int m = 0; m < 4; m++) {
        uint16_t matrix[8][8];
        for (int i = 0; i < 8; i++) memcpy(matrix[i], rows[8 * m + i], 16);
        for (int lane = 0; lane < 32; lane++) {
            int g = lane / 4, t = lane % 4;
            uint32_t low = TRANSPOSED ? matrix[2 * t][g] : matrix[g][2 * t];
            uint32_t high = TRANSPOSED ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
            static_cast<LoadMatrix*>(warp.lanes[lane].argument)->registers[m] = low | high << 16;
        }
    }
}

void load_matrix(const Collective& kind, uint32_t* registers, const void* row, Site site) {
    if (reinterpret_cast<uintptr_t>(row) % 16)
        block->fail(site, "%s: row address %p is not 16-byte aligned", kind.name, row);
    shared_offset(row, 16, kind.name, site);
    LoadMatrix argument{row, registers};
    whole_warp(kind, &argument, site);
}

struct Multiply {
    float* d;
    const uint32_t* a;
    uint32_t b0, b1;
};

float low(uint32_t pair) { return __uint_as_float(pair << 16); }
float high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

void run_multiply(Warp& warp, uint32_t, Site) {
    counters::mma(warp);
    typedef float Row __attribute__((vector_size(32)));
    float a[16][16];
    union {
        float value[16][8];
        Row row[16];
    } b, d;
    for (int lane = 0; lane < 32; lane++) {
        const Multiply& my = *static_cast<Multiply*>(warp.lanes[lane].argument);
        int g = lane / 4, t = lane % 4 * 2;
        for (int i = 0; i < 4; i++) {
            float* to = &a[g + 8 * (i % 2)][t + 8 * (i / 2)];
            to[0] = low(my.a[i]);
            to[1] = high(my.a[i]);
        }
        b.value[t][g] = low(my.b0);
        b.value[t + 1][g] = high(my.b0);
        b.value[t + 8][g] = low(my.b1);
        b.value[t + 9][g] = high(my.b1);
        for (int i = 0; i < 4; i++) d.value[g + 8 * (i / 2)][t + i % 2] = my.d[i];
    }
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++) d.row[i] += a[i][k] * b.row[k];
    for (int lane = 0; lane < 32; lane++) {
        const Multiply& my = *static_cast<Multiply*>(warp.lanes[lane].argument);
        int g = lane / 4, t = lane % 4 * 2;
        for (int i = 0; i < 4; i++) my.d[i] = d.value[g + 8 * (i / 2)][t + i % 2];
    }
}

}  // namespace
}  // namespace emulator

namespace ptx {
using namespace emulator;

void ldmatrix_x4(uint32_t (&r)[4], const void* row, Site site) {
    load_matrix({"ldmatrix_x4", run_load_matrix<false>}, r, row, site);
}

void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, Site site) {
    load_matrix({"ldmatrix_x4_trans", run_load_matrix<true>}, r, row, site);
}

void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site) {
    Multiply argument{d, a, b0, b1};
    whole_warp({"mma_m16n8k16", run_multiply}, &argument, site);
}
}  // namespace ptx
