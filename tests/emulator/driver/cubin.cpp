#include "cubin.hpp"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
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
        if (name == ".nv.global") to.has_variables = true;
        if (!name.compare(0, text.size(), text)) to.kernels[name.substr(text.size())] = 0;
        if (!name.compare(0, shared.size(), shared)) shared_bytes[name.substr(shared.size())] = at.sh_size;
    }
    for (auto& kernel : to.kernels) kernel.second = shared_bytes.count(kernel.first) ? shared_bytes[kernel.first] : 0;
    return true;
}

bool is_ptx(const void* image) { return !memcmp(image, "//", 2) || !memcmp(image, ".version", 8); }

bool read_ptx(const char* image, Ptx& to) {
    int major = 0, minor = 0, architecture = 0;
    const char* version = strstr(image, ".version ");
    const char* target = strstr(image, ".target sm_");
    if (!version || sscanf(version, ".version %d.%d", &major, &minor) != 2) return false;
    if (!target || sscanf(target, ".target sm_%d", &architecture) != 1) return false;
    to.version = 10 * major + minor;
    to.kernels.major = architecture / 10;
    to.kernels.minor = architecture % 10;
    for (const char* entry = strstr(image, ".entry "); entry;) {
        const char* name = entry + strlen(".entry ");
        const char* next = strstr(name, ".entry ");
        size_t& shared = to.kernels.kernels[std::string(name, strcspn(name, "( \n"))];
        // Static objects, whose size stands in brackets: .shared .align 4 .b8 name[128];
        for (const char* at = strstr(name, ".shared .align "); at && (!next || at < next); at = strstr(at + 1, ".shared .align ")) {
            const char *size = strchr(at, '['), *end = strchr(at, ';');
            if (size && end && size < end) shared += strtoul(size + 1, nullptr, 10);
        }
        entry = next;
    }
    return !to.kernels.kernels.empty();
}

}  // namespace driver
