#include "cp_async.hpp"

#include "counters.hpp"
#include "race.hpp"
#include "shared_memory.hpp"

namespace emulator {

namespace {
void land(const CopyQueues::Copy& copy) {
    if (copy.from) memcpy(copy.to, copy.from, 16);
    else memset(copy.to, 0, 16);
}
}  // namespace

void CopyQueues::start(int threads) {
    queues.resize(threads);
    for (Queue& queue : queues) {
        queue.copies.clear();
        queue.groups.clear();
    }
}

void cp_async_wait(int pending) {
    race::copy_waited(pending);
    CopyQueues::Queue& queue = block->copies->queues[self->number];
    if (int(queue.groups.size()) <= pending) return;
    size_t groups = queue.groups.size() - size_t(pending), copies = queue.groups[groups - 1];
    for (size_t i = 0; i < copies; i++) land(queue.copies[i]);
    queue.copies.erase(queue.copies.begin(), queue.copies.begin() + copies);
    queue.groups.erase(queue.groups.begin(), queue.groups.begin() + groups);
    for (size_t& end : queue.groups) end -= copies;
}

}  // namespace emulator

namespace ptx {
using namespace emulator;

void cp_async16(void* shared, const void* global, bool valid, Site site) {
    if (reinterpret_cast<uintptr_t>(shared) % 16)
        block->fail(site, "cp_async16: shared address %p is not 16-byte aligned", shared);
    if (valid && reinterpret_cast<uintptr_t>(global) % 16)
        block->fail(site, "cp_async16: global address %p is not 16-byte aligned", global);
    shared_offset(shared, 16, "cp_async16", site);
    race::copy_issued(shared, valid ? global : nullptr, site);
    counters::copy_issued(shared, valid ? global : nullptr, __builtin_return_address(0));
    CopyQueues::Copy copy{shared, valid ? global : nullptr};
    bool now = block->completion() == EARLY || (block->completion() == RANDOM && block->chance(2));
    if (now) land(copy);
    else block->copies->queues[self->number].copies.push_back(copy);
}

void cp_async_commit() {
    race::copy_committed();
    CopyQueues::Queue& queue = block->copies->queues[self->number];
    queue.groups.push_back(queue.copies.size());
}
}  // namespace ptx
