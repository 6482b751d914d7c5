#include "wgmma.hpp"

#include <algorithm>

#include "counters.hpp"
#include "race.hpp"
#include "shared_memory.hpp"
#include "tma.hpp"
#include "warp.hpp"

namespace emulator {
namespace {

constexpr uint32_t POISON = 0x7fc0beef;  // a NaN that arithmetic does not produce
constexpr uint64_t SWIZZLE_128 = 1;

// The operand behind a descriptor. A run is the 8 or 64 bf16 that lie together: of K in a K-major operand, of M or N in
// the other.
struct Operand {
    uint32_t start, leading, stride;
    bool mn_major;

    Operand(uint64_t descriptor, bool mn_major)
        : start(uint32_t(descriptor & 0x3fff) << 4),
          leading(uint32_t(descriptor >> 16 & 0x3fff) << 4),
          stride(uint32_t(descriptor >> 32 & 0x3fff) << 4),
          mn_major(mn_major) {}

    // Where the 8 values from (mn, k) on lie, which is a 16-byte chunk: of K, or of M or N.
    uint32_t chunk(int mn, int k) const {
        uint32_t address = mn_major ? start + uint32_t(mn / 64) * leading + uint32_t(k / 8) * stride +
                                          uint32_t(k % 8) * 128 + uint32_t(mn % 64) * 2
                                    : start + uint32_t(mn / 8) * stride + uint32_t(mn % 8) * 128 + uint32_t(k) * 2;
        return swizzle(address);
    }

    template <class Do>
    void each_chunk(int first, int count, Do visit) const {
        if (mn_major) {
            for (int k = 0; k < 16; k++)
                for (int mn = first; mn < first + count; mn += 8) visit(mn - first, k, chunk(mn, k));
        } else {
            for (int mn = first; mn < first + count; mn++)
                for (int k = 0; k < 16; k += 8) visit(mn - first, k, chunk(mn, k));
        }
    }
};

const uint16_t* window(uint32_t address) { return reinterpret_cast<const uint16_t*>(block->shared->window + address); }

float widen(uint16_t bits) { return __uint_as_float(uint32_t(bits) << 16); }

// `count` rows of an operand, from `first` on, with K outermost: to[k][mn].
template <int PITCH>
void decode(const Operand& operand, int first, int count, float (*to)[PITCH]) {
    if (operand.mn_major) {
        operand.each_chunk(first, count, [&](int mn, int k, uint32_t address) {
            const uint16_t* from = window(address);
            for (int i = 0; i < 8; i++) to[k][mn + i] = widen(from[i]);
        });
    } else {
        operand.each_chunk(first, count, [&](int mn, int k, uint32_t address) {
            const uint16_t* from = window(address);
            for (int i = 0; i < 8; i++) to[k + i][mn] = widen(from[i]);
        });
    }
}

// d[16][columns] += a[k][16] b[k][columns], four rows and sixteen columns at a time.
void multiply(float (*d)[256], const float (*a)[16], const float (*b)[256], int columns) {
    typedef float Row __attribute__((vector_size(32), aligned(4)));
    for (int j = 0; j < columns; j += 16)
        for (int i = 0; i < 16; i += 4) {
            Row sum[4][2];
            for (int r = 0; r < 4; r++)
                for (int h = 0; h < 2; h++) sum[r][h] = *reinterpret_cast<const Row*>(&d[i + r][j + 8 * h]);
            for (int k = 0; k < 16; k++) {
                Row left = *reinterpret_cast<const Row*>(&b[k][j]), right = *reinterpret_cast<const Row*>(&b[k][j + 8]);
                for (int r = 0; r < 4; r++) {
                    sum[r][0] += a[k][i + r] * left;
                    sum[r][1] += a[k][i + r] * right;
                }
            }
            for (int r = 0; r < 4; r++)
                for (int h = 0; h < 2; h++) *reinterpret_cast<Row*>(&d[i + r][j + 8 * h]) = sum[r][h];
        }
}

void execute(const WgmmaOperation& operation, int warp) {
    alignas(64) float a[16][16], b[16][256];
    int columns = operation.accumulator->columns;
    decode(Operand(operation.a, operation.a_mn_major), warp % 4 * 16, 16, a);
    decode(Operand(operation.b, operation.b_mn_major), 0, columns, b);
    multiply(operation.accumulator->value, a, b, columns);
}

// Where register i of a lane lies in the warp's 16 rows.
int row_of(int lane, int i) { return lane / 4 + 8 * (i / 2 % 2); }
int column_of(int lane, int i) { return 8 * (i / 4) + 2 * (lane % 4) + i % 2; }

template <class Do>
void each_register(const Accumulator& accumulator, Do visit) {
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < accumulator.columns / 2; i++)
            visit(accumulator.registers[lane][i], row_of(lane, i), column_of(lane, i));
}

struct Issue {
    float* registers;
    uint64_t a, b;
    int columns;
    bool a_mn_major, b_mn_major;
};

Accumulator& accumulator_of(WgmmaQueues::Queue& queue, Warp& warp, const Issue& issue, Site site) {
    for (auto& known : queue.accumulators) {
        if (known->registers[0] != issue.registers || known->columns != issue.columns) continue;
        if (known->in_flight) return *known;
        bool touched = false;
        each_register(*known, [&](float& value, int row, int column) {
            touched |= __float_as_uint(value) != __float_as_uint(known->value[row][column]);
            known->value[row][column] = value;
        });
        if (touched && !queue.fenced)
            block->fail(site, "wgmma: accumulator registers of warp %d were written since the last wgmma_fence",
                        warp.number);
        return *known;
    }
    if (!queue.fenced) block->fail(site, "wgmma: no wgmma_fence by warp %d before it", warp.number);
    queue.accumulators.emplace_back(new Accumulator);
    Accumulator& made = *queue.accumulators.back();
    made.columns = issue.columns;
    made.in_flight = 0;
    for (int lane = 0; lane < 32; lane++)
        made.registers[lane] = static_cast<Issue*>(warp.lanes[lane].argument)->registers;
    each_register(made, [&](float& value, int row, int column) { made.value[row][column] = value; });
    return made;
}

void check_operand(const Operand& operand, const char* name, int first, int count, Site site) {
    operand.each_chunk(first, count, [&](int mn, int k, uint32_t address) {
        if (!block->shared->valid(address, 16))
            block->fail(site, "wgmma: the descriptor of %s reaches outside shared memory: row %d, k %d at %u", name,
                        first + mn, k, address);
    });
}

enum Instruction : uint64_t { MULTIPLY = 1, FENCE, COMMIT, WAIT, SET_REGISTERS };

void remember(const Warp& warp, Instruction instruction, uint64_t operand = 0) {
    uint64_t& history = block->wgmmas->queues[warp.number].history;
    history = (history ^ instruction ^ operand << 4) * 0x9e3779b97f4a7c15ull;
    history ^= history >> 29;
}

void run_issue(Warp& warp, uint32_t, Site site) {
    const Issue& issue = *static_cast<Issue*>(warp.lanes[0].argument);
    for (int lane = 1; lane < 32; lane++) {
        const Issue& other = *static_cast<Issue*>(warp.lanes[lane].argument);
        if (other.a != issue.a || other.b != issue.b)
            block->fail(site, "wgmma: lanes 0 and %d of warp %d have different descriptors", lane, warp.number);
    }
    remember(warp, MULTIPLY, issue.a ^ issue.b * 31 ^ uint64_t(issue.columns));
    Operand a(issue.a, issue.a_mn_major), b(issue.b, issue.b_mn_major);
    int first = warp.number % 4 * 16;
    check_operand(a, "A", first, 16, site);
    check_operand(b, "B", 0, issue.columns, site);
    race::wgmma_issued(warp);
    counters::wgmma(warp, issue.columns);
    if (flavour == RACE) {
        a.each_chunk(first, 16, [&](int, int, uint32_t at) { race::wgmma_read(warp, window(at), site); });
        b.each_chunk(0, issue.columns, [&](int, int, uint32_t at) { race::wgmma_read(warp, window(at), site); });
    }
    WgmmaQueues::Queue& queue = block->wgmmas->queues[warp.number];
    Accumulator& accumulator = accumulator_of(queue, warp, issue, site);
    if (!accumulator.in_flight)
        each_register(accumulator, [](float& value, int, int) { value = __uint_as_float(POISON); });
    accumulator.in_flight++;
    queue.operations.push_back({issue.a, issue.b, issue.a_mn_major, issue.b_mn_major, &accumulator, site});
    if (block->completion() == EARLY || (block->completion() == RANDOM && block->chance(2)))
        while (queue.executed < queue.operations.size()) execute(queue.operations[queue.executed++], warp.number);
}

void run_fence(Warp& warp, uint32_t, Site) {
    remember(warp, FENCE);
    block->wgmmas->queues[warp.number].fenced = true;
}

void run_commit(Warp& warp, uint32_t, Site) {
    remember(warp, COMMIT);
    WgmmaQueues::Queue& queue = block->wgmmas->queues[warp.number];
    queue.groups.push_back(queue.operations.size());
    race::wgmma_committed(warp);
}

// The registers of an accumulator that is no longer in flight get their values.
void land(const Accumulator& accumulator, int warp, Site site) {
    bool written = false;
    each_register(accumulator, [&](float& value, int row, int column) {
        written |= __float_as_uint(value) != POISON;
        value = accumulator.value[row][column];
    });
    if (written) block->fail(site, "wgmma: accumulator registers of warp %d were written while it was in flight", warp);
}

void run_wait(Warp& warp, uint32_t, Site site) {
    int pending = *static_cast<int*>(warp.lanes[0].argument);
    remember(warp, WAIT, uint64_t(pending));
    race::wgmma_waited(warp, pending);
    WgmmaQueues::Queue& queue = block->wgmmas->queues[warp.number];
    queue.fenced = false;
    if (int(queue.groups.size()) <= pending) return;
    size_t groups = queue.groups.size() - size_t(pending), operations = queue.groups[groups - 1];
    while (queue.executed < operations) execute(queue.operations[queue.executed++], warp.number);
    for (size_t i = 0; i < operations; i++) {
        Accumulator& accumulator = *queue.operations[i].accumulator;
        if (--accumulator.in_flight == 0) land(accumulator, warp.number, site);
    }
    queue.operations.erase(queue.operations.begin(), queue.operations.begin() + long(operations));
    queue.executed -= operations;
    queue.groups.erase(queue.groups.begin(), queue.groups.begin() + long(groups));
    for (size_t& end : queue.groups) end -= operations;
}

void run_set_registers(Warp& warp, uint32_t, Site) {
    remember(warp, SET_REGISTERS, uint64_t(*static_cast<int*>(warp.lanes[0].argument)));
}

}  // namespace

void WgmmaQueues::start(int warps) {
    queues.clear();
    queues.resize(warps);
}

void WgmmaQueues::thread_exits(const Thread& thread) {
    const Queue& queue = queues[thread.warp];
    if (!queue.operations.empty())
        block->fail(queue.operations[0].site, "wgmma: a thread of warp %d exits before it was waited for", thread.warp);
    int first = thread.warp / 4 * 4, last = std::min(first + 3, int(queues.size()) - 1);
    for (int other = first; other <= last; other++) {
        uint32_t live = block->warps[other].live & ~(other == thread.warp ? 1u << thread.lane : 0);
        if (live) return;
    }
    for (int other = first; other <= last; other++)
        if (queues[other].history != queue.history)
            block->fail({}, "wgmma or setmaxnreg: warps %d and %d of a warpgroup did not execute the same instructions",
                        other, thread.warp);
}

void wgmma(float* d, uint64_t a, uint64_t b, int columns, bool a_mn_major, bool b_mn_major, Site site) {
    if (size_t(self->warp / 4 * 4 + 4) > block->warps.size()) block->fail(site, "wgmma: the warpgroup lacks warps");
    if (a >> 62 != SWIZZLE_128 || b >> 62 != SWIZZLE_128)
        block->fail(site, "wgmma: a descriptor without the 128-byte swizzle (or none at all)");
    Issue argument{d, a, b, columns, a_mn_major, b_mn_major};
    whole_warp({"wgmma", run_issue}, &argument, site);
}

void wgmma_wait(int pending, Site site) { whole_warp({"wgmma_wait", run_wait}, &pending, site); }

void set_registers(int count, Site site) { whole_warp({"setmaxnreg", run_set_registers}, &count, site); }

}  // namespace emulator

namespace ptx {
using namespace emulator;

uint64_t wgmma_descriptor(const void* tile, uint32_t leading, uint32_t stride, Site site) {
    size_t address = shared_offset(tile, 16, "wgmma_descriptor", site);
    if (address % 16 || leading % 16 || stride % 16)
        block->fail(site, "wgmma_descriptor: address %zu, leading %u, stride %u: not all multiples of 16", address,
                    leading, stride);
    return uint64_t(address & 0x3ffff) >> 4 | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 |
           SWIZZLE_128 << 62;
}

void wgmma_fence(Site site) { whole_warp({"wgmma_fence", run_fence}, nullptr, site); }

void wgmma_commit(Site site) { whole_warp({"wgmma_commit", run_commit}, nullptr, site); }
}  // namespace ptx
