#include "shared_memory.hpp"

#include <stdlib.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, bytes) (void)(p)
#define ASAN_UNPOISON_MEMORY_REGION(p, bytes) (void)(p)
#endif

namespace emulator {

namespace {
constexpr size_t RED_ZONE = 128;
constexpr int RED = 0xfe;  // neither what fresh shared memory holds, nor likely data
constexpr size_t MOST_OBJECTS = 64;

size_t align(size_t offset, size_t alignment) { return (offset + alignment - 1) / alignment * alignment; }
}  // namespace

SharedMemory::~SharedMemory() {
    ASAN_UNPOISON_MEMORY_REGION(window, capacity);
    free(window);
}

void SharedMemory::start(size_t dynamic_bytes) {
    ASAN_UNPOISON_MEMORY_REGION(window, capacity);
    size_t wanted = align(dynamic_bytes + STATIC_SHARED_LIMIT + MOST_OBJECTS * (RED_ZONE + 16) + 4096, 1024);
    if (capacity < wanted) {
        free(window);
        window = static_cast<char*>(aligned_alloc(1024, wanted));
        capacity = wanted;
    }
    objects.clear();
    static_bytes = 0;
    used = 0;
    ASAN_POISON_MEMORY_REGION(window, capacity);
    open({nullptr, "dynamic shared memory", 0, dynamic_bytes});
}

// Makes an object and the red zone behind it.
void SharedMemory::open(const Object& object) {
    char* begin = window + object.begin;
    ASAN_UNPOISON_MEMORY_REGION(window + used, object.begin + object.bytes + RED_ZONE - used);
    memset(window + used, RED, object.begin - used);
    memset(begin, 0xff, object.bytes);
    memset(begin + object.bytes, RED, RED_ZONE);
    ASAN_POISON_MEMORY_REGION(window + used, object.begin - used);
    ASAN_POISON_MEMORY_REGION(begin + object.bytes, RED_ZONE);
    used = object.begin + object.bytes + RED_ZONE;
    objects.push_back(object);
}

void* SharedMemory::static_object(const void* key, const char* name, size_t bytes, size_t alignment) {
    for (const Object& object : objects)
        if (object.key == key) return window + object.begin;
    static_bytes = align(static_bytes, alignment) + bytes;
    if (static_bytes > STATIC_SHARED_LIMIT)
        block->fail({}, "invalid launch: more than 48 KiB of static shared memory, with `%s`", name);
    if (static_bytes + objects[0].bytes > SHARED_LIMIT)
        block->fail(
            {}, "invalid launch: %zu bytes of dynamic and %zu of static shared memory, with `%s`: more than 227 KiB",
            objects[0].bytes, static_bytes, name);
    size_t begin = align(used, alignment < 16 ? 16 : alignment);
    if (objects.size() > MOST_OBJECTS || begin + bytes + RED_ZONE > capacity)
        block->fail({}, "too many static shared objects for the emulator, with `%s`", name);
    open({key, name, begin, bytes});
    return window + begin;
}

bool SharedMemory::valid(size_t offset, size_t bytes) const {
    for (const Object& object : objects)
        if (offset >= object.begin && offset + bytes <= object.begin + object.bytes) return true;
    return false;
}

std::string SharedMemory::damage() const {
    if (flavour == ASAN) return "";  // which has reported it
    for (const Object& object : objects)
        for (size_t i = 0; i < RED_ZONE; i++)
            if (static_cast<unsigned char>(window[object.begin + object.bytes + i]) != RED)
                return std::string("written past the end of `") + object.name + "`, " + std::to_string(i) +
                       " bytes beyond its " + std::to_string(object.bytes);
    return "";
}

std::string SharedMemory::describe(size_t offset) const {
    const Object* best = &objects[0];
    for (const Object& object : objects)
        if (object.begin <= offset && object.begin >= best->begin) best = &object;
    return std::string(best->name) + " + " + std::to_string(offset - best->begin);
}

size_t shared_offset(const void* p, size_t bytes, const char* operation, Site site) {
    SharedMemory& shared = *block->shared;
    size_t offset = size_t(static_cast<const char*>(p) - shared.window);
    if (!shared.contains(p)) block->fail(site, "%s: %p is not in shared memory", operation, p);
    if (!shared.valid(offset, bytes))
        block->fail(site, "%s: %zu bytes at %s are outside shared memory", operation, bytes,
                    shared.describe(offset).c_str());
    return offset;
}

}  // namespace emulator
