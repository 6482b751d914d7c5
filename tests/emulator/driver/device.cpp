#include "device.hpp"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <algorithm>

namespace driver {

thread_local std::string last_report;
thread_local CUresult last_error;

namespace {

std::string text(const char* format, va_list list) {
    char buffer[2048];
    vsnprintf(buffer, sizeof buffer, format, list);
    return buffer;
}

double now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}

void join(Clock& to, const Clock& from) {
    for (const auto& entry : from) to[entry.first] = std::max(to[entry.first], entry.second);
}

// A library that was built anew has the old one's name, by which the loader would find the old one: each gets a name that no
// other has had, the same path in other words.
std::string fresh_name(const std::string& path) {
    static std::mutex mutex;
    static int opened = 0;
    std::lock_guard<std::mutex> lock(mutex);
    std::string again;
    for (int bits = ++opened; bits; bits >>= 1) again += bits & 1 ? "/./" : "//";
    size_t slash = path.rfind('/');
    return slash == std::string::npos ? "./" + again + path : path.substr(0, slash) + again + path.substr(slash + 1);
}

bool is_poison(const void* from, size_t bytes) {
    const unsigned char* at = static_cast<const unsigned char*>(from);
    return std::all_of(at, at + bytes, [](unsigned char byte) { return byte == POISON; });
}

// The status with which a GPU ends a kernel that does what the report says.
CUresult status_of(const char* report) {
    for (const char* word : {"aligned", "misaligned"})
        if (strstr(report, word)) return CUDA_ERROR_MISALIGNED_ADDRESS;
    for (const char* word : {"AddressSanitizer", "null-pointer", "outside"})
        if (strstr(report, word)) return CUDA_ERROR_ILLEGAL_ADDRESS;
    return CUDA_ERROR_LAUNCH_FAILED;
}

}  // namespace

uint64_t hash(const void* from, size_t bytes) {
    const char* at = static_cast<const char*>(from);
    uint64_t sum = bytes + 0x9e3779b97f4a7c15ull;
    for (; bytes >= 8; at += 8, bytes -= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        sum = (sum ^ word) * 0xff51afd7ed558ccdull;
        sum ^= sum >> 32;
    }
    for (; bytes; at++, bytes--) sum = (sum ^ static_cast<unsigned char>(*at)) * 0x100000001b3ull;
    return sum;
}

Kernels::~Kernels() {
    if (library) dlclose(library);
}

Device::Device(const Configuration& from)
    : configuration(from), random_state(from.schedule.seed * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull) {
    for (int i = 0; i < 4; i++) random();
}

std::string Device::open() {
    kernels.reset(new Kernels);
    kernels->library = dlopen(fresh_name(configuration.kernels).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!kernels->library) return dlerror();
    std::string missing;
    auto symbol = [&](auto& function, const char* name) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(kernels->library, name));
        if (!function) missing = configuration.kernels + " has no function " + name;
    };
    symbol(kernels->check, "emulator_check");
    symbol(kernels->launch, "emulator_launch");
    symbol(kernels->parameters, "emulator_parameters");
    symbol(kernels->tensor_map, "emulator_tensor_map");
    symbol(kernels->forbid, "emulator_forbid");
    symbol(kernels->flavour, "emulator_flavour");
    return missing;
}

std::string Device::close() {
    if (error != CUDA_SUCCESS) {
        memory.clear(kernels->forbid);
        pinned.clear();
        kernels.reset();
        return "";
    }
    std::string left = memory.leaks();
    auto count = [&left](size_t count, const char* what) {
        if (!count) return;
        if (!left.empty()) left += ", ";
        left += std::to_string(count) + " " + what;
    };
    count(pinned.count(), "page-locked allocations");
    count(streams.size(), "streams");
    count(events.size(), "events");
    count(modules.size(), "modules");
    count(graphs.size(), "graphs");
    count(executables.size(), "executable graphs");
    fail(CUDA_ERROR_INVALID_CONTEXT, "this emulated GPU was taken out of the machine");
    memory.clear(kernels->forbid);
    pinned.clear();
    kernels.reset();
    return left;
}

CUresult Device::refuse(CUresult code, const char* format, ...) {
    va_list list;
    va_start(list, format);
    last_report = text(format, list);
    va_end(list);
    return last_error = code;
}

CUresult Device::fail(CUresult code, const char* format, ...) {
    va_list list;
    va_start(list, format);
    std::string what = text(format, list);
    va_end(list);
    if (error == CUDA_SUCCESS) {
        error = code;
        report = what;
        // Nothing more is done; what waits for it is let go.
        for (auto& entry : streams) {
            for (Command& command : entry.second->queue)
                if (command.record) command.record->reached = true;
            entry.second->queue.clear();
        }
    }
    last_report = report;
    return last_error = error;
}

uint64_t Device::random() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

void Device::progress() {
    if (configuration.schedule.completion != RANDOM) return;
    while (chance(2)) {
        size_t turn = streams.empty() ? 0 : size_t(random() % streams.size());
        for (auto& entry : streams)
            if (turn-- == 0 && !entry.second->queue.empty()) step(*entry.second);
    }
}

CUresult Device::unsafe(const char* call) {
    for (auto& entry : streams) {
        Capture* capture = entry.second->capture.get();
        if (!capture || capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED) continue;
        capture->invalid = true;
        return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "%s while a stream is captured", call);
    }
    return CUDA_SUCCESS;
}

bool Device::note(Stream& stream, const char* call, Access access) {
    for (auto& entry : streams) {
        Stream& other = *entry.second;
        if (&other == &stream) continue;
        uint64_t ordered = stream.clock.count(other.id) ? stream.clock[other.id] : 0;
        for (const auto& earlier : other.accesses) {
            if (earlier.first.end <= access.begin || access.end <= earlier.first.begin) continue;
            if (!earlier.first.writes && !access.writes) continue;
            if (earlier.second.number <= ordered) continue;
            fail(CUDA_ERROR_UNKNOWN,
                 "%s of one stream %s the bytes that %s of another stream %s, and no event orders the two", call,
                 access.writes ? "writes" : "reads", earlier.second.call,
                 earlier.first.writes ? "writes" : "reads");
            return false;
        }
    }
    stream.accesses[access] = {stream.clock[stream.id], call};
    return true;
}

bool Device::note(Stream& stream, const Command& command) {
    stream.clock[stream.id]++;
    switch (command.kind) {
        case Command::COPY_IN:
        case Command::FILL:
            return note(stream, command.call, {command.to, command.to + command.bytes, true});
        case Command::COPY_OUT:
            return note(stream, command.call, {command.from, command.from + command.bytes, false});
        case Command::COPY:
            return note(stream, command.call, {command.from, command.from + command.bytes, false}) &&
                   note(stream, command.call, {command.to, command.to + command.bytes, true});
        case Command::LAUNCH: {
            // How far a kernel reads is not known; that it touches the first byte is as good as certain.
            int count = 0;
            const EmulatorParameter* parameters = kernels->parameters(command.kernel.c_str(), &count);
            for (int i = 0; i < count; i++) {
                uint64_t address;
                memcpy(&address, command.arguments->pointers[size_t(i)], sizeof address);
                if (parameters[i].pointer && address &&
                    !note(stream, command.call, {address, address + 1, parameters[i].writes != 0}))
                    return false;
            }
            return true;
        }
        case Command::RECORD:
            command.record->before = stream.clock;
            return true;
        case Command::WAIT:
            join(stream.clock, command.record->before);
            return true;
    }
    return true;
}

CUresult Device::submit(Stream& stream, Command command) {
    if (Capture* capture = stream.capture.get()) {
        if (capture->invalid)
            return refuse(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "%s after the capture was lost", command.call);
        capture->graph->commands.push_back(std::move(command));
        return CUDA_SUCCESS;
    }
    join(stream.clock, host);
    if (!note(stream, command)) return last_error;
    stream.queue.push_back(std::move(command));
    if (configuration.schedule.completion == EARLY) drain(stream);
    if (error != CUDA_SUCCESS) {
        last_report = report;
        return last_error = error;
    }
    return CUDA_SUCCESS;
}

CUresult Device::replay(const Graph& graph, Stream& stream) {
    for (const Command& command : graph.commands)
        if (CUresult status = submit(stream, command)) return status;
    return CUDA_SUCCESS;
}

void Device::reach(Record& record) {
    while (!record.reached && !record.stream->queue.empty()) step(*record.stream);
}

void Device::step(Stream& stream) {
    Command command = std::move(stream.queue.front());
    stream.queue.pop_front();
    if (command.kind == Command::WAIT) reach(*command.record);
    else perform(command);
}

void Device::drain(Stream& stream) {
    while (!stream.queue.empty()) step(stream);
}

void Device::drain_all() {
    for (auto& entry : streams) drain(*entry.second);
}

void Device::host_waited(const Clock& clock) {
    join(host, clock);
    for (auto& entry : streams) {
        Stream& stream = *entry.second;
        uint64_t done = host.count(stream.id) ? host[stream.id] : 0;
        for (auto at = stream.accesses.begin(); at != stream.accesses.end();)
            at = at->second.number <= done ? stream.accesses.erase(at) : std::next(at);
    }
}

const char* Device::in_use(const void* host_memory, size_t bytes) const {
    uint64_t begin = reinterpret_cast<uintptr_t>(host_memory), end = begin + bytes;
    for (const auto& entry : streams)
        for (const Command& command : entry.second->queue) {
            bool in = command.kind == Command::COPY_IN && !command.staged;
            if (!in && command.kind != Command::COPY_OUT) continue;
            uint64_t at = in ? command.from : command.to;
            if (at < end && begin < at + command.bytes) return command.call;
        }
    return nullptr;
}

void Device::perform(Command& command) {
    auto bytes_of = [](uint64_t address) { return reinterpret_cast<char*>(address); };
    auto check = [&](uint64_t address) {
        if (memory.contains(address, command.bytes)) return true;
        fail(CUDA_ERROR_ILLEGAL_ADDRESS, "%s: %zu bytes at %#llx are not (or no longer) in one allocation of this GPU",
             command.call, command.bytes, static_cast<unsigned long long>(address));
        return false;
    };
    switch (command.kind) {
        case Command::COPY_IN:
            if (!check(command.to)) return;
            if (command.compares && hash(bytes_of(command.from), command.bytes) != command.hash) {
                fail(CUDA_ERROR_UNKNOWN,
                     "%s: the host's memory changed between the call and the copy: it was written too early",
                     command.call);
                return;
            }
            memcpy(bytes_of(command.to), command.staged ? command.staged->data() : bytes_of(command.from), command.bytes);
            return;
        case Command::COPY_OUT:
            if (!check(command.from)) return;
            if (command.compares && !is_poison(bytes_of(command.to), command.bytes)) {
                fail(CUDA_ERROR_UNKNOWN, "%s: the host wrote to the memory between the call and the copy", command.call);
                return;
            }
            memcpy(bytes_of(command.to), bytes_of(command.from), command.bytes);
            return;
        case Command::COPY:
            if (!check(command.to) || !check(command.from)) return;
            memmove(bytes_of(command.to), bytes_of(command.from), command.bytes);
            return;
        case Command::FILL:
            if (check(command.to)) memory.fill(command.to, command.value, command.bytes);
            return;
        case Command::LAUNCH:
            launch(command);
            return;
        case Command::RECORD:
            command.record->reached = true;
            command.record->seconds = now();
            return;
        case Command::WAIT:
            return;
    }
}

void Device::launch(Command& command) {
    if (configuration.lost_at_launch == launches++) {
        fail(CUDA_ERROR_ECC_UNCORRECTABLE, "this emulated GPU fails at launch %ld, %s", launches - 1,
             command.kernel.c_str());
        return;
    }
    if (configuration.lost_barrier_at_launch == launches - 1) return lose_barrier(command);
    int count = 0;
    const EmulatorParameter* parameters = kernels->parameters(command.kernel.c_str(), &count);
    for (int i = 0; i < count; i++) {
        uint64_t address;
        memcpy(&address, command.arguments->pointers[size_t(i)], sizeof address);
        if (parameters[i].pointer && address && !memory.contains(address, 0)) {
            fail(CUDA_ERROR_ILLEGAL_ADDRESS, "%s: argument %d, %#llx, is not (or no longer) in this GPU's memory",
                 command.kernel.c_str(), i, static_cast<unsigned long long>(address));
            return;
        }
    }
    if (collecting && !configuration.profile.empty()) {
        if (FILE* file = fopen(configuration.profile.c_str(), "a")) {
            fprintf(file, "%s\n", command.kernel.c_str());
            fclose(file);
        }
    }
    char message[1024] = "";
    EmulatorCounters* counters = kernels->flavour() == COUNT ? &counted[command.kernel] : nullptr;
    if (kernels->launch(command.kernel.c_str(), command.grid, command.block, command.shared,
                        command.arguments->pointers.data(), &configuration.schedule, counters, message, sizeof message))
        fail(status_of(message), "%s", message);
}

void Device::lose_barrier(const Command& command) {
    constexpr uint32_t FULL = 1;
    for (auto& entry : modules) {
        uint64_t variable = entry.second->lost_barrier;
        if (!variable) continue;
        uint32_t* to;
        memcpy(&to, reinterpret_cast<const void*>(variable), sizeof to);
        if (!to) continue;
        if (!pinned.contains(to, sizeof *to)) {
            fail(CUDA_ERROR_ILLEGAL_ADDRESS, "%s: lost_barrier is no page-locked memory", command.kernel.c_str());
            return;
        }
        *to = FULL + 1;
    }
    fail(CUDA_ERROR_LAUNCH_FAILED, "%s: trap", command.kernel.c_str());
}

}  // namespace driver
