// cp.async: 16-byte copies that land when their group is waited for, or before.
#pragma once
#include <vector>

#include "block.hpp"

namespace emulator {

// Of every thread: the copies under way, and where its groups end.
struct CopyQueues {
    struct Copy {
        void* to;
        const void* from;  // null: zeros
    };
    struct Queue {
        std::vector<Copy> copies;
        std::vector<size_t> groups;
    };
    void start(int threads);
    std::vector<Queue> queues;
};

void cp_async_wait(int pending);

}  // namespace emulator

namespace ptx {
void cp_async16(void* shared, const void* global, bool valid = true, emulator::Site site = emulator::Site::here());
void cp_async_commit();
template <int pending>
void cp_async_wait() {
    emulator::cp_async_wait(pending);
}
}  // namespace ptx
