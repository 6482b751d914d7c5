// What -fsanitize=thread makes the compiler call, in place of the sanitizer's own library.
#include "access.hpp"

#define PC __builtin_return_address(0)
#define HOOK extern "C" __attribute__((visibility("hidden"), used))

using emulator::accessed;
using emulator::ATOMIC;
using emulator::READ;
using emulator::WRITE;

HOOK void __tsan_init() {}
HOOK void __tsan_func_entry(void*) {}
HOOK void __tsan_func_exit() {}
HOOK void __tsan_vptr_update(void**, void*) {}
HOOK void __tsan_vptr_read(void**) {}
HOOK void __tsan_atomic_thread_fence(int) {}
HOOK void __tsan_atomic_signal_fence(int) {}
HOOK void __tsan_read_range(void* p, size_t bytes) { accessed(p, bytes, READ, PC); }
HOOK void __tsan_write_range(void* p, size_t bytes) { accessed(p, bytes, WRITE, PC); }

#define PLAIN_ACCESS(bytes)                                                             \
    HOOK void __tsan_read##bytes(void* p) { accessed(p, bytes, READ, PC); }             \
    HOOK void __tsan_write##bytes(void* p) { accessed(p, bytes, WRITE, PC); }           \
    HOOK void __tsan_unaligned_read##bytes(void* p) { accessed(p, bytes, READ, PC); }   \
    HOOK void __tsan_unaligned_write##bytes(void* p) { accessed(p, bytes, WRITE, PC); } \
    HOOK void __tsan_volatile_read##bytes(void* p) { accessed(p, bytes, READ, PC); }    \
    HOOK void __tsan_volatile_write##bytes(void* p) { accessed(p, bytes, WRITE, PC); }
PLAIN_ACCESS(1)
PLAIN_ACCESS(2)
PLAIN_ACCESS(4)
PLAIN_ACCESS(8)
PLAIN_ACCESS(16)

#define FETCH(bits, type, name, builtin)                                        \
    HOOK type __tsan_atomic##bits##_##name(volatile type* p, type value, int) { \
        accessed((void*)p, sizeof(type), WRITE + ATOMIC, PC);                   \
        return builtin(p, value, __ATOMIC_SEQ_CST);                             \
    }
#define ATOMIC_ACCESS(bits, type)                                                                                    \
    FETCH(bits, type, exchange, __atomic_exchange_n)                                                                 \
    FETCH(bits, type, fetch_add, __atomic_fetch_add)                                                                 \
    FETCH(bits, type, fetch_sub, __atomic_fetch_sub)                                                                 \
    FETCH(bits, type, fetch_or, __atomic_fetch_or)                                                                   \
    FETCH(bits, type, fetch_and, __atomic_fetch_and)                                                                 \
    FETCH(bits, type, fetch_xor, __atomic_fetch_xor)                                                                 \
    HOOK type __tsan_atomic##bits##_load(const volatile type* p, int) {                                              \
        accessed((void*)p, sizeof(type), READ + ATOMIC, PC);                                                         \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                                 \
    }                                                                                                                \
    HOOK void __tsan_atomic##bits##_store(volatile type* p, type value, int) {                                       \
        accessed((void*)p, sizeof(type), WRITE + ATOMIC, PC);                                                        \
        __atomic_store_n(p, value, __ATOMIC_SEQ_CST);                                                                \
    }                                                                                                                \
    HOOK int __tsan_atomic##bits##_compare_exchange_strong(volatile type* p, type* expected, type value, int, int) { \
        accessed((void*)p, sizeof(type), WRITE + ATOMIC, PC);                                                        \
        return __atomic_compare_exchange_n(p, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);           \
    }                                                                                                                \
    HOOK type __tsan_atomic##bits##_compare_exchange_val(volatile type* p, type expected, type value, int, int) {    \
        accessed((void*)p, sizeof(type), WRITE + ATOMIC, PC);                                                        \
        __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                 \
        return expected;                                                                                             \
    }
ATOMIC_ACCESS(8, unsigned char)
ATOMIC_ACCESS(16, unsigned short)
ATOMIC_ACCESS(32, unsigned)
ATOMIC_ACCESS(64, unsigned long)
