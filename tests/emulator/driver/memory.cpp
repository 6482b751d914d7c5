#include "memory.hpp"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <deque>
#include <mutex>
#include <utility>

namespace driver {

namespace {

constexpr size_t PAGE = 4096, CHUNK = 16 << 20;
// Pages of poison in front; then the allocation on a multiple of 256 that is none of 512.
constexpr size_t FRONT = PAGE + 256;

// A file of poison that is mapped wherever there is memory: what nobody writes costs nothing.
int poison_file() {
    static const int file = [] {
        int made = memfd_create("poison", MFD_CLOEXEC);
        std::string chunk(1 << 20, char(POISON));
        for (size_t at = 0; made >= 0 && at < CHUNK; at += chunk.size())
            if (write(made, chunk.data(), chunk.size()) != ssize_t(chunk.size())) return -1;
        return made;
    }();
    return file;
}

// Whole pages of poison; null if the machine has no room.
char* poisoned(size_t bytes) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* reserved = poison_file() < 0 ? MAP_FAILED : mmap(nullptr, bytes, PROT_NONE, flags, -1, 0);
    if (reserved == MAP_FAILED) return nullptr;
    char* mapped = static_cast<char*>(reserved);
    flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
    for (size_t at = 0; at < bytes; at += CHUNK) {
        size_t part = bytes - at < CHUNK ? bytes - at : CHUNK;
        if (mmap(mapped + at, part, PROT_READ | PROT_WRITE, flags, poison_file(), 0) == MAP_FAILED) {
            munmap(mapped, bytes);
            return nullptr;
        }
    }
    return mapped;
}

// Bytes behind an allocation that are looked at whenever the host waits: who writes too far begins there.
constexpr size_t WATCHED = 4096;

// The first byte that is not poison; `end` if all are. No library function: sanitizers would look over its shoulder.
const char* first_change(const char* from, const char* end) {
    auto poisoned = [](const char* at) {
        uint64_t word;
        __builtin_memcpy(&word, at, sizeof word);
        return word == ~uint64_t(0);
    };
    while (end - from >= 8 && poisoned(from)) from += 8;
    while (from < end && static_cast<unsigned char>(*from) == POISON) from++;
    return from;
}

// Addresses that were freed are not given out again for a while, so that a use of them shows.
void retire(char* mapped, size_t bytes) {
    static std::mutex mutex;
    static std::deque<std::pair<char*, size_t>> retired;
    std::lock_guard<std::mutex> lock(mutex);
    mmap(mapped, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    retired.emplace_back(mapped, bytes);
    if (retired.size() <= 64) return;
    munmap(retired.front().first, retired.front().second);
    retired.pop_front();
}

}  // namespace

void DeviceMemory::clear(Forbid forbid) {
    while (!allocations.empty()) free(allocations.begin()->first, forbid);
}

uint64_t DeviceMemory::allocate(size_t bytes, Forbid forbid) {
    size_t mapped_bytes = (FRONT + bytes + MARGIN + PAGE - 1) / PAGE * PAGE;
    char* mapped = poisoned(mapped_bytes);
    if (!mapped) return 0;
    char* start = mapped + FRONT;
    forbid(mapped, FRONT, 1);
    forbid(start + bytes, size_t(mapped + mapped_bytes - start) - bytes, 1);
    allocations[reinterpret_cast<uintptr_t>(start)] = {mapped, bytes, mapped_bytes};
    taken_bytes += bytes;
    return reinterpret_cast<uintptr_t>(start);
}

bool DeviceMemory::free(uint64_t address, Forbid forbid) {
    auto found = allocations.find(address);
    if (found == allocations.end()) return false;
    forbid(found->second.mapped, found->second.mapped_bytes, 0);
    retire(found->second.mapped, found->second.mapped_bytes);
    taken_bytes -= found->second.bytes;
    allocations.erase(found);
    return true;
}

void DeviceMemory::fill(uint64_t to, uint8_t value, size_t bytes) {
    uint64_t first = (to + PAGE - 1) / PAGE * PAGE, end = (to + bytes) / PAGE * PAGE;
    if (value || end < first + (1 << 20)) {
        memset(reinterpret_cast<void*>(to), value, bytes);
        return;
    }
    memset(reinterpret_cast<void*>(to), 0, first - to);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    mmap(reinterpret_cast<void*>(first), end - first, PROT_READ | PROT_WRITE, flags, -1, 0);
    memset(reinterpret_cast<void*>(end), 0, to + bytes - end);
}

bool DeviceMemory::contains(uint64_t address, size_t bytes) const {
    auto after = allocations.upper_bound(address);
    if (after == allocations.begin()) return false;
    auto found = std::prev(after);
    size_t offset = address - found->first;
    return offset <= found->second.bytes && bytes <= found->second.bytes - offset;
}

std::string DeviceMemory::damage() const {
    char text[256];
    for (const auto& allocation : allocations) {
        const char* start = reinterpret_cast<const char*>(allocation.first);
        const char* end = start + allocation.second.bytes;
        const char* last = end + WATCHED;
        const char* before = first_change(start - (FRONT - PAGE), start);
        const char* behind = first_change(end, last);
        if (before == start && behind == last) continue;
        bool front = before != start;
        snprintf(text, sizeof text, "an allocation of %zu bytes was overrun: byte %zd %s has changed",
                 allocation.second.bytes, front ? start - before : behind - end, front ? "before it" : "behind its end");
        return text;
    }
    return "";
}

std::string DeviceMemory::leaks() const {
    if (allocations.empty()) return "";
    return std::to_string(allocations.size()) + " allocations of " + std::to_string(taken_bytes) + " bytes";
}

void* PinnedMemory::allocate(size_t bytes) {
    size_t mapped_bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    char* mapped = poisoned(mapped_bytes);
    if (mapped) allocations[reinterpret_cast<uintptr_t>(mapped)] = bytes;
    return mapped;
}

bool PinnedMemory::free(void* address) {
    auto found = allocations.find(reinterpret_cast<uintptr_t>(address));
    if (found == allocations.end()) return false;
    munmap(address, found->second);
    allocations.erase(found);
    return true;
}

void PinnedMemory::clear() {
    while (!allocations.empty()) free(reinterpret_cast<void*>(allocations.begin()->first));
}

bool PinnedMemory::contains(const void* address, size_t bytes) const {
    uintptr_t at = reinterpret_cast<uintptr_t>(address);
    auto after = allocations.upper_bound(at);
    if (after == allocations.begin()) return false;
    auto found = std::prev(after);
    size_t offset = at - found->first;
    return offset <= found->second && bytes <= found->second - offset;
}

size_t PinnedMemory::bytes_at(const void* address) const {
    auto found = allocations.find(reinterpret_cast<uintptr_t>(address));
    return found == allocations.end() ? 0 : found->second;
}

}  // namespace driver
