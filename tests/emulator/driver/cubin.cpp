#include "cubin.hpp"

#include <elf.h>
#include <string.h>

namespace driver {

namespace {
constexpr Elf64_Half MACHINE = 190;  // EM_CUDA
// From CUDA 13 on the flags of the file have the architecture in their second byte, before in the first.
constexpr unsigned char SECOND_BYTE_VERSION = 8;
}  // namespace

bool read(const void* image, Cubin& to) {
    const char* file = static_cast<const char*>(image);
    Elf64_Ehdr header;
    if (memcmp(file, ELFMAG, SELFMAG) || file[EI_CLASS] != ELFCLASS64) return false;
    memcpy(&header, file, sizeof header);
    if (header.e_machine != MACHINE || header.e_shentsize != sizeof(Elf64_Shdr) || !header.e_shnum ||
        header.e_shstrndx >= header.e_shnum)
        return false;
    int shift = static_cast<unsigned char>(file[EI_ABIVERSION]) >= SECOND_BYTE_VERSION ? 8 : 0;
    int architecture = int(header.e_flags >> shift & 0xff);
    to.major = architecture / 10;
    to.minor = architecture % 10;
    auto section = [&](size_t i) {
        Elf64_Shdr section;
        memcpy(&section, file + header.e_shoff + i * sizeof section, sizeof section);
        return section;
    };
    const char* names = file + section(header.e_shstrndx).sh_offset;
    const std::string text = ".text.", shared = ".nv.shared.";
    std::map<std::string, size_t> shared_bytes;
    for (size_t i = 0; i < header.e_shnum; i++) {
        Elf64_Shdr at = section(i);
        std::string name = names + at.sh_name;
        if (!name.compare(0, text.size(), text)) to.kernels[name.substr(text.size())] = 0;
        if (!name.compare(0, shared.size(), shared)) shared_bytes[name.substr(shared.size())] = at.sh_size;
    }
    for (auto& kernel : to.kernels) kernel.second = shared_bytes.count(kernel.first) ? shared_bytes[kernel.first] : 0;
    return true;
}

}  // namespace driver
