// What a cubin or PTX says: for which GPU it is, and the kernels in it. Its code is for silicon.
#pragma once
#include <stddef.h>

#include <map>
#include <string>

namespace driver {

struct Cubin {
    int major = 0, minor = 0;                // the GPU that it was compiled for
    std::map<std::string, size_t> kernels;  // by name, with the bytes of static shared memory
    bool has_variables = false;             // of the whole module, in global memory
};

// False if `image` is not a whole cubin.
bool read(const void* image, Cubin& to);

// PTX, which a driver translates for any later GPU: `version` of the language, times ten.
struct Ptx {
    int version = 0;
    Cubin kernels;
};

// Whether `image` begins as PTX does, and not as a cubin; and false where it has no version, target or kernel.
bool is_ptx(const void* image);
bool read_ptx(const char* image, Ptx& to);

}  // namespace driver
