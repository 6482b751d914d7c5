// A block's shared memory: one window with the dynamic part first, then each static object behind a red zone.
//
// It is filled with NaN for every block, so that a read of what nobody wrote shows. Red zones hold a pattern that is
// checked when the block ends; AddressSanitizer and the race checker see an access to them at once.
#pragma once
#include <string>
#include <vector>

#include "block.hpp"

namespace emulator {

constexpr size_t STATIC_SHARED_LIMIT = 48 << 10;
constexpr size_t SHARED_LIMIT = 227 << 10;

struct SharedMemory {
    ~SharedMemory();
    void start(size_t dynamic_bytes);
    void* static_object(const void* key, const char* name, size_t bytes, size_t alignment);
    // Is this an address in the window, be it a red zone?
    bool contains(const void* p) const { return size_t(static_cast<const char*>(p) - window) < used; }
    // The bytes that may be accessed from `offset` on.
    bool valid(size_t offset, size_t bytes) const;
    // What was written that is no object: empty if nothing was.
    std::string damage() const;
    size_t capacity_bytes() const { return capacity; }
    // For error messages: "dynamic shared memory + 128".
    std::string describe(size_t offset) const;

    char* window = nullptr;
    size_t used = 0;  // up to here there are objects and red zones

private:
    struct Object {
        const void* key;
        const char* name;
        size_t begin, bytes;
    };
    void open(const Object& object);

    size_t capacity = 0, static_bytes = 0;
    std::vector<Object> objects;  // [0]: the dynamic part
};

// Where `p` lies in the window; anything else, or fewer than `bytes` there, is an error.
size_t shared_offset(const void* p, size_t bytes, const char* operation, Site site);

template <class Tag, class T>
T& static_shared(const char* name) {
    static const char key = 0;
    return *reinterpret_cast<T*>(block->shared->static_object(&key, name, sizeof(T), alignof(T)));
}

}  // namespace emulator

#define __shared__                                                                          \
    static_assert(false, "shared memory is declared with DYNAMIC_SHARED or STATIC_SHARED"); \
    static
#define DYNAMIC_SHARED(T, p) T* p = reinterpret_cast<T*>(emulator::block->shared->window)
#define STATIC_SHARED(T, name) \
    struct name##_tag {};      \
    using name##_type = T;     \
    name##_type& name = emulator::static_shared<name##_tag, name##_type>(#name)

namespace ptx {
static inline uint32_t shared_address(const void* p, emulator::Site site = emulator::Site::here()) {
    return uint32_t(emulator::shared_offset(p, 1, "shared_address", site));
}
}  // namespace ptx
