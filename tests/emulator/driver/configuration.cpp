#include "configuration.hpp"

#include <stdlib.h>

namespace driver {

namespace {

// The functions whose calls can be left out: those that give nothing back.
const char* const FORGETTABLE[] = {
    "cuCtxSetCurrent",     "cuEventRecord",        "cuEventSynchronize",   "cuEventQuery",     "cuFuncSetAttribute",
    "cuGraphLaunch",       "cuLaunchKernel",       "cuMemcpyDtoDAsync_v2", "cuMemFreeHost",    "cuMemFree_v2",
    "cuMemcpyHtoDAsync_v2", "cuMemsetD8Async",     "cuStreamSynchronize",  "cuStreamWaitEvent"};

bool number(const std::string& text, long least, long* to) {
    char* end = nullptr;
    long value = strtol(text.c_str(), &end, 10);
    if (text.empty() || *end || value < least) return false;
    *to = value;
    return true;
}

// "64K", "92M", "8G", or bytes.
bool size(std::string text, size_t* to) {
    int shift = 0;
    const std::string units = "KMG";
    size_t unit = text.empty() ? std::string::npos : units.find(text.back());
    if (unit != std::string::npos) {
        shift = 10 * int(unit + 1);
        text.pop_back();
    }
    long value;
    if (!number(text, 0, &value)) return false;
    *to = size_t(value) << shift;
    return true;
}

bool set(const std::string& key, const std::string& value, Configuration& to) {
    long n = 0;
    if (key == "capability") {
        size_t dot = value.find('.');
        long major, minor;
        if (dot == std::string::npos || !number(value.substr(0, dot), 1, &major) ||
            !number(value.substr(dot + 1), 0, &minor))
            return false;
        to.major = int(major);
        to.minor = int(minor);
        return true;
    }
    if (key == "memory") return size(value, &to.memory);
    if (key == "name") return to.name = value, !value.empty();
    if (key == "profile") return to.profile = value, !value.empty();
    if (key == "kernels") return to.kernels = value, !value.empty();
    if (key == "multiprocessors") return number(value, 1, &n) && (to.multiprocessors = int(n), true);
    if (key == "order") return number(value, 0, &n) && n <= 1 && (to.schedule.order = int(n), true);
    if (key == "completion") return number(value, 0, &n) && n <= 2 && (to.schedule.completion = int(n), true);
    if (key == "threads") return number(value, 1, &n) && (to.schedule.threads = int(n), true);
    if (key == "seed") {
        char* end = nullptr;
        to.schedule.seed = strtoull(value.c_str(), &end, 10);
        return !value.empty() && !*end;
    }
    if (key == "lost") return number(value, 0, &to.lost_at_launch);
    if (key == "barrier") return number(value, 0, &to.lost_barrier_at_launch);
    if (key == "instantiation") return to.instantiation_fails = true, value == "fails";
    if (key == "forget") {
        for (const char* name : FORGETTABLE)
            if (value == name) return to.forgotten.insert(value), true;
    }
    return false;
}

}  // namespace

int Configuration::shared_memory() const {
    if (major == 8 && minor == 0) return 163 << 10;
    if (major == 8 || major == 12) return 99 << 10;
    return 227 << 10;
}

std::string read(const std::string& text, Configuration& to) {
    for (size_t at = 0; at < text.size();) {
        size_t end = text.find(',', at);
        if (end == std::string::npos) end = text.size();
        std::string field = text.substr(at, end - at);
        at = end + 1;
        size_t equals = field.find('=');
        if (equals == std::string::npos || !set(field.substr(0, equals), field.substr(equals + 1), to))
            return "'" + field + "' of an emulated GPU is not understood; docs/emulator.md lists what can be said";
    }
    if (to.name.empty()) to.name = "emulated GPU " + std::to_string(to.major) + "." + std::to_string(to.minor);
    return "";
}

}  // namespace driver
