#include "tma.hpp"

#include <algorithm>

#include "counters.hpp"
#include "mbarrier.hpp"
#include "race.hpp"
#include "shared_memory.hpp"

namespace emulator {

namespace {
constexpr uint64_t MARK = 0x70616d726f736e74;

uint32_t box_bytes(const MatrixMap& map) { return map.box_columns * map.box_rows * 2; }

// Why cuTensorMapEncodeTiled would refuse it; null if it would not.
const char* invalid(const MatrixMap& map) {
    if (map.mark != MARK) return "this is not a tensor map";
    if (reinterpret_cast<uintptr_t>(map.base) % 16) return "the matrix is not 16-byte aligned";
    if (!map.columns || !map.rows) return "the matrix is empty";
    if (map.row_bytes % 16) return "rows are not a multiple of 16 bytes apart";
    if (map.columns * 2 > map.row_bytes) return "rows overlap";
    if (map.box_columns != 64)
        return "a box is 64 columns wide: narrower ones are not emulated, wider ones are no swizzle's";
    if (!map.box_rows || map.box_rows > 256) return "a box has 1 to 256 rows";
    return nullptr;
}

MatrixMap decode(const TensorMap* map, const char* operation, Site site) {
    if (reinterpret_cast<uintptr_t>(map) % 64)
        block->fail(site, "%s: the tensor map is not 64-byte aligned", operation);
    MatrixMap decoded;
    memcpy(&decoded, map, sizeof decoded);
    if (const char* why = invalid(decoded)) block->fail(site, "%s: %s", operation, why);
    return decoded;
}

// What it reads, at the issue, in the name of the thread that issues it.
void note_reads(const Transfer& transfer) {
    if (flavour != RACE && flavour != COUNT) return;
    counters::box_issued();
    const MatrixMap& map = transfer.map;
    int64_t left = std::max<int64_t>(transfer.x, 0),
            right = std::min<int64_t>(transfer.x + int64_t(map.box_columns), map.columns);
    int64_t top = std::max<int64_t>(transfer.y, 0),
            bottom = std::min<int64_t>(transfer.y + int64_t(map.box_rows), map.rows);
    for (int64_t y = top; y < bottom && left < right; y++) {
        const char* from = map.base + uint64_t(y) * map.row_bytes + left * 2;
        size_t bytes = size_t(right - left) * 2;
        race::transfer_read(from, bytes, transfer.site);
        counters::box_read(from, bytes);
    }
}

void land(const Transfer& transfer) {
    const MatrixMap& map = transfer.map;
    uint32_t start = uint32_t(transfer.to - block->shared->window), row_bytes = map.box_columns * 2;
    for (uint32_t row = 0; row < map.box_rows; row++) {
        int64_t y = int64_t(transfer.y) + row;
        for (uint32_t chunk = 0; chunk < row_bytes; chunk += 16) {
            char* to = block->shared->window + swizzle(start + row * row_bytes + chunk);
            memset(to, 0, 16);
            if (y < 0 || uint64_t(y) >= map.rows) continue;
            int64_t x = int64_t(transfer.x) + chunk / 2, first = x < 0 ? -x : 0, end = int64_t(map.columns) - x;
            if (end > 8) end = 8;
            if (first >= end) continue;
            memcpy(to + 2 * first, map.base + uint64_t(y) * map.row_bytes + (x + first) * 2, size_t(2 * (end - first)));
        }
    }
    Mbarrier& barrier = block->mbarriers->at(transfer.barrier, "tma_load_2d", transfer.site);
    barrier.bytes -= box_bytes(map);
    race::transfer_landed(barrier, transfer.clock);
    block->mbarriers->update(barrier);
}
}  // namespace

void TransferQueue::land_one() {
    size_t i = block->completion() == RANDOM ? block->random() % transfers.size() : 0;
    Transfer transfer = transfers[i];
    transfers.erase(transfers.begin() + long(i));
    land(transfer);
}

void TransferQueue::block_ends() {
    if (pending()) block->fail(transfers[0].site, "tma_load_2d: the block ends before its transfer was waited for");
}

}  // namespace emulator

namespace ptx {
using namespace emulator;

void tma_load_2d(void* shared, const TensorMap* map, int x, int y, uint64_t* barrier, Site site) {
    Transfer transfer{decode(map, "tma_load_2d", site), static_cast<char*>(shared), x, y, barrier, 0, site};
    size_t offset = shared_offset(shared, box_bytes(transfer.map), "tma_load_2d", site);
    if (offset % 1024)
        block->fail(site, "tma_load_2d: %s is not 1024-byte aligned", block->shared->describe(offset).c_str());
    Mbarrier& on = block->mbarriers->at(barrier, "tma_load_2d", site);
    race::mbarrier_used(on, site);
    if (!on.fenced)
        block->fail(site, "tma_load_2d: no fence_mbarrier_init by the thread that initialised its mbarrier");
    transfer.clock = race::transfer_issued(on, shared, box_bytes(transfer.map), site);
    note_reads(transfer);
    if (block->completion() == EARLY) land(transfer);
    else block->transfers->transfers.push_back(transfer);
}

void prefetch_tensormap(const TensorMap* map, Site site) { decode(map, "prefetch_tensormap", site); }
}  // namespace ptx

extern "C" __attribute__((visibility("default"))) void emulator_tensor_map(void* map, const void* base,
                                                                           uint64_t columns, uint64_t rows,
                                                                           uint64_t row_bytes, uint32_t box_columns,
                                                                           uint32_t box_rows) {
    emulator::MatrixMap encoded{emulator::MARK, static_cast<const char*>(base), columns, rows, row_bytes, box_columns,
                                box_rows};
    memset(map, 0, sizeof(TensorMap));
    memcpy(map, &encoded, sizeof encoded);
}
