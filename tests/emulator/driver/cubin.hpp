// What a cubin says: for which GPU it is, and the kernels in it. Its machine code is for silicon.
#pragma once
#include <stddef.h>

#include <map>
#include <string>

namespace driver {

struct Cubin {
    int major = 0, minor = 0;                // the GPU that it was compiled for
    std::map<std::string, size_t> kernels;  // by name, with the bytes of static shared memory
};

// False if `image` is not a whole cubin.
bool read(const void* image, Cubin& to);

}  // namespace driver
