// The memory of an emulated GPU, and page-locked memory of the host. Both begin as NaN, with NaN around them.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <map>
#include <string>

namespace driver {

// Bytes of poison: every number that is made of them is NaN.
constexpr unsigned char POISON = 0xff;
// Poison behind every allocation of a GPU: a kernel that reads a little too far computes what a check sees.
constexpr size_t MARGIN = 256 << 10;

class DeviceMemory {
public:
    using Forbid = void (*)(const void*, size_t, int);

    // The address of `bytes` bytes, on a multiple of 256 and no more, as CUDA promises; 0 if the machine has no room.
    uint64_t allocate(size_t bytes, Forbid forbid);
    bool free(uint64_t address, Forbid forbid);
    void clear(Forbid forbid);
    // Sets bytes of an allocation; large zeros cost nothing.
    void fill(uint64_t to, uint8_t value, size_t bytes);

    // Are these bytes all in one allocation? An address behind its last byte holds none.
    bool contains(uint64_t address, size_t bytes) const;
    // What was written in front of an allocation or behind it: empty if nothing was.
    std::string damage() const;
    size_t taken() const { return taken_bytes; }
    std::string leaks() const;

private:
    struct Allocation {
        char* mapped;
        size_t bytes, mapped_bytes;
    };
    std::map<uint64_t, Allocation> allocations;
    size_t taken_bytes = 0;
};

class PinnedMemory {
public:
    void* allocate(size_t bytes);
    bool free(void* address);
    void clear();
    // Are these bytes all in one allocation?
    bool contains(const void* address, size_t bytes) const;
    // The bytes from `address` to the end of the allocation that begins there; 0 if none does.
    size_t bytes_at(const void* address) const;
    size_t count() const { return allocations.size(); }

private:
    std::map<uintptr_t, size_t> allocations;
};

}  // namespace driver
