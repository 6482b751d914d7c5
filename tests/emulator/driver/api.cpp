// The functions of NVIDIA's driver API that the program calls, on emulated GPUs, and four of our own: emulated_add,
// emulated_remove, emulated_forbid and emulated_counters. What NVIDIA's driver refuses is refused with its error; what it would not notice and
// is a mistake of the host's is CUDA_ERROR_UNKNOWN. cuGetErrorString gives, behind the usual words, what was found.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>

#include "device.hpp"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace driver;

EXPORT CUresult cuDriverGetVersion(int* version);

namespace {

std::mutex devices_mutex;
std::vector<std::unique_ptr<Device>>& devices() {
    static std::vector<std::unique_ptr<Device>> all;
    return all;
}
std::atomic<bool> initialised{false};
thread_local Device* current;

// A device by its number; null if there is none.
Device* device_at(int number) {
    std::lock_guard<std::mutex> lock(devices_mutex);
    return number >= 0 && size_t(number) < devices().size() ? devices()[size_t(number)].get() : nullptr;
}

CUresult refuse(CUresult code, const char* report) {
    last_report = report;
    return last_error = code;
}

// What any call does first, then `body` with the current device.
template <class Body>
CUresult call(const char* name, Body body) {
    if (!initialised) return refuse(CUDA_ERROR_NOT_INITIALIZED, "cuInit was not called");
    if (!current) return refuse(CUDA_ERROR_INVALID_CONTEXT, "this thread has no current context");
    Device& device = *current;
    std::lock_guard<std::mutex> lock(device.mutex);
    if (device.configuration.forgotten.count(name)) return CUDA_SUCCESS;
    if (device.error == CUDA_SUCCESS) device.progress();
    if (device.error != CUDA_SUCCESS) {
        last_report = device.report;
        return last_error = device.error;
    }
    return body(device);
}

CUresult no_handle(Device& device, const char* call, const char* what) {
    return device.refuse(CUDA_ERROR_INVALID_HANDLE, "%s: this is no %s of the current context", call, what);
}

CUresult outcome(Device& device) {
    if (device.error == CUDA_SUCCESS) return CUDA_SUCCESS;
    last_report = device.report;
    return last_error = device.error;
}

// The host has waited for `clock`: what was written beyond allocations shows at the latest now.
CUresult waited(Device& device, const Clock& clock) {
    if (CUresult status = outcome(device)) return status;
    device.host_waited(clock);
    std::string damage = device.kernels->flavour() == ASAN ? "" : device.memory.damage();
    return damage.empty() ? CUDA_SUCCESS : device.fail(CUDA_ERROR_ILLEGAL_ADDRESS, "%s", damage.c_str());
}

// Whether all bytes are in one allocation of this GPU.
CUresult within(Device& device, const char* call, CUdeviceptr address, size_t bytes) {
    if (device.memory.contains(address, bytes)) return CUDA_SUCCESS;
    return device.refuse(CUDA_ERROR_INVALID_VALUE, "%s: %zu bytes at %#llx are not in one allocation of this GPU", call,
                         bytes, static_cast<unsigned long long>(address));
}

// A copy from or to the host cannot be captured unless its memory is page-locked.
CUresult pageable_in_capture(Device& device, const char* call, Stream& stream) {
    stream.capture->invalid = true;
    return device.refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "%s: captured, and the host's memory is not page-locked",
                         call);
}

// PTX is for GPUs from its target on, if the driver knows its version of the language.
CUresult translate(Device& device, const char* call, const char* image, Cubin& to) {
    Ptx ptx;
    if (!read_ptx(image, ptx)) return device.refuse(CUDA_ERROR_INVALID_PTX, "%s: no PTX", call);
    // The newest version that CUDA 12.0 and later know: 8.0 to 8.5, a pause, 8.5 to 8.8; from 13.0 on 9.0.
    int version = 0;
    if (CUresult status = cuDriverGetVersion(&version)) return status;
    int major = version / 1000, minor = version % 1000 / 10;
    int known = major >= 13 ? 90 + minor : minor >= 6 ? 79 + minor : 80 + minor;
    if (ptx.version > known)
        return device.refuse(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "%s: PTX %d.%d, and this driver knows %d.%d", call,
                             ptx.version / 10, ptx.version % 10, known / 10, known % 10);
    const Configuration& gpu = device.configuration;
    to = ptx.kernels;
    if (10 * to.major + to.minor > 10 * gpu.major + gpu.minor)
        return device.refuse(CUDA_ERROR_NO_BINARY_FOR_GPU, "%s: PTX for %d.%d, on %d.%d", call, to.major, to.minor,
                             gpu.major, gpu.minor);
    return CUDA_SUCCESS;
}

#define FIND(T, object, all, handle)                \
    T* object = device.find(device.all, handle);    \
    if (!object) return no_handle(device, name, #T)

const char* words(int error) {
    switch (error) {
        case CUDA_SUCCESS: return "no error";
        case CUDA_ERROR_INVALID_VALUE: return "invalid argument";
        case CUDA_ERROR_OUT_OF_MEMORY: return "out of memory";
        case CUDA_ERROR_NOT_INITIALIZED: return "initialization error";
        case CUDA_ERROR_NO_DEVICE: return "no CUDA-capable device is detected";
        case CUDA_ERROR_INVALID_DEVICE: return "invalid device ordinal";
        case CUDA_ERROR_INVALID_IMAGE: return "device kernel image is invalid";
        case CUDA_ERROR_INVALID_CONTEXT: return "invalid device context";
        case CUDA_ERROR_NO_BINARY_FOR_GPU: return "no kernel image is available for execution on the device";
        case CUDA_ERROR_INVALID_PTX: return "a PTX JIT compilation failed";
        case CUDA_ERROR_UNSUPPORTED_PTX_VERSION: return "the provided PTX was compiled with an unsupported toolchain.";
        case CUDA_ERROR_ECC_UNCORRECTABLE: return "uncorrectable ECC error encountered";
        case CUDA_ERROR_INVALID_HANDLE: return "invalid resource handle";
        case CUDA_ERROR_ILLEGAL_STATE: return "the operation cannot be performed in the present state";
        case CUDA_ERROR_NOT_FOUND: return "named symbol not found";
        case CUDA_ERROR_NOT_READY: return "device not ready";
        case CUDA_ERROR_ILLEGAL_ADDRESS: return "an illegal memory access was encountered";
        case CUDA_ERROR_MISALIGNED_ADDRESS: return "misaligned address";
        case CUDA_ERROR_LAUNCH_FAILED: return "unspecified launch failure";
        case CUDA_ERROR_NOT_SUPPORTED: return "operation not supported";
        case CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: return "operation not permitted when stream is capturing";
        case CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: return "operation failed due to a previous error during capture";
        case CUDA_ERROR_STREAM_CAPTURE_ISOLATION: return "dependency created on uncaptured work in another stream";
        case CUDA_ERROR_CAPTURED_EVENT: return "operation not permitted on an event last recorded in a capturing stream";
        case CUDA_ERROR_UNKNOWN: return "unknown error";
    }
    return nullptr;
}

}  // namespace

// ---- Our own

// Adds a GPU (configuration.hpp) and returns its number, or -1 with the reason in `error`.
EXPORT int emulated_add(const char* description, char* error, size_t error_bytes) {
    Configuration configuration;
    std::string wrong = read(description, configuration);
    std::unique_ptr<Device> device(new Device(configuration));
    if (wrong.empty()) wrong = device->open();
    if (!wrong.empty()) {
        snprintf(error, error_bytes, "%s", wrong.c_str());
        return -1;
    }
    std::lock_guard<std::mutex> lock(devices_mutex);
    devices().push_back(std::move(device));
    return int(devices().size()) - 1;
}

// Takes a GPU away, whose number is not given again. 0, or 1 and what the host has not given back.
EXPORT int emulated_remove(int number, char* left, size_t left_bytes) {
    Device* device = device_at(number);
    if (!device) return 0;
    std::lock_guard<std::mutex> lock(device->mutex);
    std::string leaks = device->close();
    snprintf(left, left_bytes, "%s", leaks.c_str());
    return !leaks.empty();
}

// Says that nothing may touch these bytes of the current GPU: flavour asan.
EXPORT void emulated_forbid(CUdeviceptr address, size_t bytes) {
    if (current) current->kernels->forbid(reinterpret_cast<void*>(address), bytes, 1);
}

// Takes what one of a GPU's kernels has done, all its launches together, the kernels in the order of their names. 1, or 0 where
// none is left; -1: the GPU's library of kernels does not count, or the host has another idea of what is counted.
EXPORT int emulated_counters(int number, char* kernel, size_t kernel_bytes, EmulatorCounters* to, size_t bytes) {
    Device* device = device_at(number);
    if (!device || bytes != sizeof *to) return -1;
    std::lock_guard<std::mutex> lock(device->mutex);
    if (device->kernels->flavour() != COUNT) return -1;
    device->drain_all();
    auto first = device->counted.begin();
    if (first == device->counted.end()) return 0;
    snprintf(kernel, kernel_bytes, "%s", first->first.c_str());
    *to = first->second;
    device->counted.erase(first);
    return 1;
}

// ---- Profilers

EXPORT CUresult cuProfilerStart() {
    return call("cuProfilerStart", [&](Device& device) { return device.collecting = true, CUDA_SUCCESS; });
}

EXPORT CUresult cuProfilerStop() {
    return call("cuProfilerStop", [&](Device& device) { return device.collecting = false, CUDA_SUCCESS; });
}

// ---- Errors, devices, contexts

EXPORT CUresult cuGetErrorString(int error, const char** to) {
    static thread_local std::string text;
    const char* usual = words(error);
    if (!usual) return *to = nullptr, CUDA_ERROR_INVALID_VALUE;
    text = usual;
    if (error && error == last_error && !last_report.empty()) text += "; " + last_report;
    *to = text.c_str();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuInit(unsigned flags) {
    if (flags) return refuse(CUDA_ERROR_INVALID_VALUE, "cuInit takes no flags");
    // For programs that know nothing of emulated GPUs.
    static bool added = false;
    const char* description = getenv("PERENNIAL_EMULATED_ADD");
    if (description && !added) {
        static char error[512];
        if (emulated_add(description, error, sizeof error) < 0) return refuse(CUDA_ERROR_NO_DEVICE, error);
        added = true;
    }
    initialised = true;
    return CUDA_SUCCESS;
}

// CUDA 13.0, or what PERENNIAL_EMULATED_DRIVER says.
EXPORT CUresult cuDriverGetVersion(int* version) {
    int major = 13, minor = 0;
    if (const char* text = getenv("PERENNIAL_EMULATED_DRIVER"))
        if (sscanf(text, "%d.%d", &major, &minor) != 2)
            return refuse(CUDA_ERROR_INVALID_VALUE, "PERENNIAL_EMULATED_DRIVER is not a version such as 12.4");
    *version = major * 1000 + minor * 10;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int* count) {
    if (!initialised) return refuse(CUDA_ERROR_NOT_INITIALIZED, "cuInit was not called");
    std::lock_guard<std::mutex> lock(devices_mutex);
    *count = int(devices().size());
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGet(CUdevice* device, int number) {
    if (!initialised) return refuse(CUDA_ERROR_NOT_INITIALIZED, "cuInit was not called");
    if (!device_at(number)) return refuse(CUDA_ERROR_INVALID_DEVICE, "there is no GPU of this number");
    *device = number;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetName(char* name, int bytes, CUdevice number) {
    Device* device = device_at(number);
    if (!device) return refuse(CUDA_ERROR_INVALID_DEVICE, "there is no GPU of this number");
    if (bytes <= 0) return refuse(CUDA_ERROR_INVALID_VALUE, "cuDeviceGetName: no room for a name");
    snprintf(name, size_t(bytes), "%s", device->configuration.name.c_str());
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice number) {
    Device* device = device_at(number);
    if (!device) return refuse(CUDA_ERROR_INVALID_DEVICE, "there is no GPU of this number");
    const Configuration& from = device->configuration;
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = from.multiprocessors; return CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = from.major; return CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = from.minor; return CUDA_SUCCESS;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
            *value = from.shared_memory();
            return CUDA_SUCCESS;
    }
    return refuse(CUDA_ERROR_INVALID_VALUE, "cuDeviceGetAttribute: this attribute is not emulated");
}

EXPORT CUresult cuDevicePrimaryCtxRetain(Device** context, CUdevice number) {
    Device* device = device_at(number);
    if (!device) return refuse(CUDA_ERROR_INVALID_DEVICE, "there is no GPU of this number");
    std::lock_guard<std::mutex> lock(device->mutex);
    *context = device;
    return outcome(*device);
}

EXPORT CUresult cuCtxSetCurrent(Device* context) {
    if (context && context->configuration.forgotten.count("cuCtxSetCurrent")) return CUDA_SUCCESS;
    current = context;
    return CUDA_SUCCESS;
}

// ---- Memory

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
    const char* name = "cuMemAlloc";
    return call(name, [&](Device& device) {
        if (CUresult status = device.unsafe(name)) return status;
        if (!bytes) return device.refuse(CUDA_ERROR_INVALID_VALUE, "%s: of 0 bytes", name);
        size_t free = device.configuration.memory - std::min(device.memory.taken(), device.configuration.memory);
        if (bytes > free)
            return device.refuse(CUDA_ERROR_OUT_OF_MEMORY, "%s: %zu bytes of %zu that are free", name, bytes, free);
        *address = device.memory.allocate(bytes, device.kernels->forbid);
        return *address ? CUDA_SUCCESS : device.refuse(CUDA_ERROR_OUT_OF_MEMORY, "%s: this machine has no room", name);
    });
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr address) {
    const char* name = "cuMemFree";
    return call("cuMemFree_v2", [&](Device& device) {
        if (CUresult status = device.unsafe(name)) return status;
        device.drain_all();
        if (CUresult status = waited(device, {})) return status;
        if (!device.memory.free(address, device.kernels->forbid))
            return device.refuse(CUDA_ERROR_INVALID_VALUE, "%s: no allocation begins at %#llx", name,
                                 static_cast<unsigned long long>(address));
        return CUDA_SUCCESS;
    });
}

EXPORT CUresult cuMemAllocHost_v2(void** memory, size_t bytes) {
    const char* name = "cuMemAllocHost";
    return call(name, [&](Device& device) {
        if (CUresult status = device.unsafe(name)) return status;
        if (!bytes) return device.refuse(CUDA_ERROR_INVALID_VALUE, "%s: of 0 bytes", name);
        *memory = device.pinned.allocate(bytes);
        return *memory ? CUDA_SUCCESS : device.refuse(CUDA_ERROR_OUT_OF_MEMORY, "%s: this machine has no room", name);
    });
}

EXPORT CUresult cuMemFreeHost(void* memory) {
    const char* name = "cuMemFreeHost";
    return call(name, [&](Device& device) {
        if (CUresult status = device.unsafe(name)) return status;
        size_t bytes = device.pinned.bytes_at(memory);
        if (!bytes) return device.refuse(CUDA_ERROR_INVALID_VALUE, "%s: no page-locked memory begins there", name);
        if (const char* user = device.in_use(memory, bytes))
            return device.fail(CUDA_ERROR_UNKNOWN, "%s: of memory that %s still uses", name, user);
        device.pinned.free(memory);
        return CUDA_SUCCESS;
    });
}

EXPORT CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
    return call("cuMemGetInfo_v2", [&](Device& device) {
        *total = device.configuration.memory;
        *free = *total - std::min(device.memory.taken(), *total);
        return CUDA_SUCCESS;
    });
}

EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, void* handle) {
    const char* name = "cuMemsetD8Async";
    return call(name, [&](Device& device) {
        FIND(Stream, stream, streams, handle);
        if (CUresult status = within(device, name, to, bytes)) return status;
        Command command(Command::FILL, name);
        command.to = to;
        command.value = value;
        command.bytes = bytes;
        return device.submit(*stream, std::move(command));
    });
}

EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, void* handle) {
    const char* name = "cuMemcpyHtoDAsync";
    return call("cuMemcpyHtoDAsync_v2", [&](Device& device) {
        FIND(Stream, stream, streams, handle);
        if (CUresult status = within(device, name, to, bytes)) return status;
        Command command(Command::COPY_IN, name);
        command.to = to;
        command.from = reinterpret_cast<uintptr_t>(from);
        command.bytes = bytes;
        if (!device.pinned.contains(from, bytes)) {
            if (stream->capture) return pageable_in_capture(device, name, *stream);
            const char* begin = static_cast<const char*>(from);
            command.staged = std::make_shared<std::vector<char>>(begin, begin + bytes);
        } else if (!stream->capture) {
            command.compares = true;
            command.hash = hash(from, bytes);
        }
        return device.submit(*stream, std::move(command));
    });
}

EXPORT CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, void* handle) {
    const char* name = "cuMemcpyDtoHAsync";
    return call("cuMemcpyDtoHAsync_v2", [&](Device& device) {
        FIND(Stream, stream, streams, handle);
        if (CUresult status = within(device, name, from, bytes)) return status;
        Command command(Command::COPY_OUT, name);
        command.to = reinterpret_cast<uintptr_t>(to);
        command.from = from;
        command.bytes = bytes;
        bool pinned = device.pinned.contains(to, bytes);
        if (!pinned && stream->capture) return pageable_in_capture(device, name, *stream);
        if (pinned && !stream->capture && !device.in_use(to, bytes)) {
            command.compares = true;
            memset(to, POISON, bytes);
        }
        if (CUresult status = device.submit(*stream, std::move(command))) return status;
        if (pinned) return CUDA_SUCCESS;
        // To pageable memory it returns when the copy is done.
        device.drain(*stream);
        return waited(device, stream->clock);
    });
}

EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, void* handle) {
    const char* name = "cuMemcpyDtoDAsync";
    return call("cuMemcpyDtoDAsync_v2", [&](Device& device) {
        FIND(Stream, stream, streams, handle);
        if (CUresult status = within(device, name, to, bytes)) return status;
        if (CUresult status = within(device, name, from, bytes)) return status;
        Command command(Command::COPY, name);
        command.to = to;
        command.from = from;
        command.bytes = bytes;
        return device.submit(*stream, std::move(command));
    });
}

// ---- Streams and events

EXPORT CUresult cuStreamCreate(void** handle, unsigned) {
    return call("cuStreamCreate", [&](Device& device) {
        std::unique_ptr<Stream> stream(new Stream);
        stream->id = device.streams_made++;
        *handle = stream.get();
        device.streams[*handle] = std::move(stream);
        return CUDA_SUCCESS;
    });
}

EXPORT CUresult cuStreamDestroy_v2(void* handle) {
    const char* name = "cuStreamDestroy";
    return call(name, [&](Device& device) {
        FIND(Stream, stream, streams, handle);
        device.drain(*stream);
        device.streams.erase(handle);
        return outcome(device);
    });
}

EXPORT CUresult cuStreamSynchronize(void* handle) {
    const char* name = "cuStreamSynchronize";
    return call(name, [&](Device& device) {
        FIND(Stream, stream, streams, handle);
        if (CUresult status = device.unsafe(name)) return status;
        device.drain(*stream);
        return waited(device, stream->clock);
    });
}

EXPORT CUresult cuStreamWaitEvent(void* handle, void* event_handle, unsigned) {
    const char* name = "cuStreamWaitEvent";
    return call(name, [&](Device& device) {
        FIND(Stream, stream, streams, handle);
        FIND(Event, event, events, event_handle);
        if (stream->capture) {
            if (event->captured || !event->record) return CUDA_SUCCESS;
            stream->capture->invalid = true;
            return device.refuse(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "%s: the event is not part of the capture", name);
        }
        if (event->captured)
            return device.refuse(CUDA_ERROR_NOT_SUPPORTED, "%s: captures of several streams are not emulated", name);
        if (!event->record) return CUDA_SUCCESS;
        Command command(Command::WAIT, name);
        command.record = event->record;
        return device.submit(*stream, std::move(command));
    });
}

EXPORT CUresult cuEventCreate(void** handle, unsigned flags) {
    return call("cuEventCreate", [&](Device& device) {
        std::unique_ptr<Event> event(new Event{!(flags & CU_EVENT_DISABLE_TIMING), nullptr});
        *handle = event.get();
        device.events[*handle] = std::move(event);
        return CUDA_SUCCESS;
    });
}

EXPORT CUresult cuEventDestroy_v2(void* handle) {
    const char* name = "cuEventDestroy";
    return call(name, [&](Device& device) {
        FIND(Event, event, events, handle);
        device.events.erase(handle);
        return CUDA_SUCCESS;
    });
}

EXPORT CUresult cuEventRecord(void* handle, void* stream_handle) {
    const char* name = "cuEventRecord";
    return call(name, [&](Device& device) {
        FIND(Event, event, events, handle);
        FIND(Stream, stream, streams, stream_handle);
        event->captured = stream->capture != nullptr;
        if (event->captured) return CUDA_SUCCESS;
        event->record = std::make_shared<Record>();
        event->record->stream = stream;
        Command command(Command::RECORD, name);
        command.record = event->record;
        return device.submit(*stream, std::move(command));
    });
}

EXPORT CUresult cuEventQuery(void* handle) {
    const char* name = "cuEventQuery";
    return call(name, [&](Device& device) {
        FIND(Event, event, events, handle);
        if (CUresult status = device.unsafe(name)) return status;
        if (event->captured) return device.refuse(CUDA_ERROR_CAPTURED_EVENT, "%s", name);
        if (!event->record) return CUDA_SUCCESS;
        // Who asks again and again gets there.
        if (!event->record->reached) device.step(*event->record->stream);
        if (CUresult status = outcome(device)) return status;
        if (!event->record->reached) return device.refuse(CUDA_ERROR_NOT_READY, "%s", name);
        return waited(device, event->record->before);
    });
}

EXPORT CUresult cuEventSynchronize(void* handle) {
    const char* name = "cuEventSynchronize";
    return call(name, [&](Device& device) {
        FIND(Event, event, events, handle);
        if (CUresult status = device.unsafe(name)) return status;
        if (event->captured) return device.refuse(CUDA_ERROR_CAPTURED_EVENT, "%s", name);
        if (!event->record) return CUDA_SUCCESS;
        device.reach(*event->record);
        return waited(device, event->record->before);
    });
}

EXPORT CUresult cuEventElapsedTime(float* milliseconds, void* from_handle, void* to_handle) {
    const char* name = "cuEventElapsedTime";
    return call(name, [&](Device& device) {
        FIND(Event, from, events, from_handle);
        FIND(Event, to, events, to_handle);
        if (!from->timed || !to->timed || !from->record || !to->record)
            return device.refuse(CUDA_ERROR_INVALID_HANDLE, "%s: an event was not recorded, or is not timed", name);
        if (!from->record->reached || !to->record->reached)
            return device.refuse(CUDA_ERROR_NOT_READY, "%s: an event is not reached yet", name);
        *milliseconds = float(1e3 * (to->record->seconds - from->record->seconds));
        return CUDA_SUCCESS;
    });
}

// ---- Modules and launches

// An image is a cubin, PTX, or the word "emulated": then it is all that the GPU's library of kernels holds.
EXPORT CUresult cuModuleLoadData(void** handle, const void* image) {
    const char* name = "cuModuleLoadData";
    return call(name, [&](Device& device) {
        if (CUresult status = device.unsafe(name)) return status;
        std::unique_ptr<Module> module(new Module);
        module->own = !strncmp(static_cast<const char*>(image), "emulated", 8);
        if (!module->own && is_ptx(image)) {
            if (CUresult status = translate(device, name, static_cast<const char*>(image), module->cubin)) return status;
        } else if (!module->own) {
            const Cubin& cubin = module->cubin;
            const Configuration& gpu = device.configuration;
            if (!read(image, module->cubin)) return device.refuse(CUDA_ERROR_INVALID_IMAGE, "%s: no cubin", name);
            if (cubin.major != gpu.major || cubin.minor > gpu.minor)
                return device.refuse(CUDA_ERROR_NO_BINARY_FOR_GPU, "%s: for capability %d.%d, on %d.%d", name,
                                     cubin.major, cubin.minor, gpu.major, gpu.minor);
        }
        *handle = module.get();
        device.modules[*handle] = std::move(module);
        return CUDA_SUCCESS;
    });
}

// The one variable that kernels have. It belongs to the module, and goes with it.
EXPORT CUresult cuModuleGetGlobal_v2(CUdeviceptr* address, size_t* bytes, void* handle, const char* variable) {
    const char* name = "cuModuleGetGlobal";
    return call(name, [&](Device& device) {
        FIND(Module, module, modules, handle);
        if (strcmp(variable, "lost_barrier") || !(module->own || module->cubin.has_variables))
            return device.refuse(CUDA_ERROR_NOT_FOUND, "%s: no variable %s in this module", name, variable);
        if (!module->lost_barrier) {
            module->lost_barrier = device.memory.allocate(sizeof(uint64_t), device.kernels->forbid);
            device.memory.fill(module->lost_barrier, 0, sizeof(uint64_t));
        }
        *address = module->lost_barrier;
        *bytes = sizeof(uint64_t);
        return CUDA_SUCCESS;
    });
}

EXPORT CUresult cuModuleUnload(void* handle) {
    const char* name = "cuModuleUnload";
    return call(name, [&](Device& device) {
        FIND(Module, module, modules, handle);
        if (module->lost_barrier) device.memory.free(module->lost_barrier, device.kernels->forbid);
        for (auto& entry : module->functions) device.functions.erase(entry.second.get());
        device.modules.erase(handle);
        return CUDA_SUCCESS;
    });
}

EXPORT CUresult cuModuleGetFunction(void** handle, void* module_handle, const char* kernel) {
    const char* name = "cuModuleGetFunction";
    return call(name, [&](Device& device) {
        FIND(Module, module, modules, module_handle);
        auto found = module->cubin.kernels.find(kernel);
        int count;
        bool known = module->own ? device.kernels->parameters(kernel, &count) != nullptr
                                 : found != module->cubin.kernels.end();
        if (!known) return device.refuse(CUDA_ERROR_NOT_FOUND, "%s: no kernel %s in this module", name, kernel);
        std::unique_ptr<Function>& function = module->functions[kernel];
        if (!function) {
            size_t own = module->own ? 0 : found->second;
            function.reset(new Function{kernel, module, own, (48 << 10) - std::min<size_t>(own, 48 << 10)});
            device.functions[function.get()] = function.get();
        }
        *handle = function.get();
        return CUDA_SUCCESS;
    });
}

EXPORT CUresult cuFuncGetAttribute(int* value, int attribute, void* handle) {
    const char* name = "cuFuncGetAttribute";
    return call(name, [&](Device& device) {
        if (!device.functions.count(handle)) return no_handle(device, name, "function");
        const Function& function = *device.functions[handle];
        if (attribute == CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES) *value = int(function.static_shared);
        else if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) *value = int(function.dynamic_shared);
        else return device.refuse(CUDA_ERROR_INVALID_VALUE, "%s: this attribute is not emulated", name);
        return CUDA_SUCCESS;
    });
}

EXPORT CUresult cuFuncSetAttribute(void* handle, int attribute, int value) {
    const char* name = "cuFuncSetAttribute";
    return call(name, [&](Device& device) {
        if (!device.functions.count(handle)) return no_handle(device, name, "function");
        Function& function = *device.functions[handle];
        int most = device.configuration.shared_memory() - int(function.static_shared);
        if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value > most)
            return device.refuse(CUDA_ERROR_INVALID_VALUE, "%s: %d bytes of shared memory, and a block has %d", name,
                                 value, most);
        function.dynamic_shared = size_t(value);
        return CUDA_SUCCESS;
    });
}

EXPORT CUresult cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                               unsigned block_y, unsigned block_z, unsigned shared, void* stream_handle,
                               void** arguments, void** extra) {
    const char* name = "cuLaunchKernel";
    return call(name, [&](Device& device) {
        if (!device.functions.count(handle)) return no_handle(device, name, "function");
        const Function& function = *device.functions[handle];
        FIND(Stream, stream, streams, stream_handle);
        if (extra) return device.refuse(CUDA_ERROR_NOT_SUPPORTED, "%s: `extra` is not emulated", name);
        Command command(Command::LAUNCH, name);
        command.kernel = function.name;
        command.shared = shared;
        uint32_t grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
        memcpy(command.grid, grid, sizeof grid);
        memcpy(command.block, block, sizeof block);
        char message[512] = "";
        if (device.kernels->check(function.name.c_str(), grid, block, shared, &device.configuration.schedule, message,
                                  sizeof message))
            return device.refuse(CUDA_ERROR_INVALID_VALUE, "%s", message);
        if (shared > function.dynamic_shared)
            return device.refuse(CUDA_ERROR_INVALID_VALUE,
                                 "%s: %s: %u bytes of shared memory, where cuFuncSetAttribute allows %zu", name,
                                 function.name.c_str(), shared, function.dynamic_shared);
        int count = 0;
        const EmulatorParameter* parameters = device.kernels->parameters(function.name.c_str(), &count);
        if (count && !arguments) return device.refuse(CUDA_ERROR_INVALID_VALUE, "%s: no arguments", name);
        // Each on a multiple of 64, as a tensor map asks.
        constexpr size_t ALIGNMENT = 64;
        auto rounded = [](size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; };
        size_t bytes = ALIGNMENT;
        for (int i = 0; i < count; i++) bytes += rounded(parameters[i].bytes);
        command.arguments = std::make_shared<Arguments>();
        command.arguments->storage.reset(new char[bytes]);
        char* at = command.arguments->storage.get();
        at += ALIGNMENT - reinterpret_cast<uintptr_t>(at) % ALIGNMENT;
        for (int i = 0; i < count; i++) {
            memcpy(at, arguments[i], parameters[i].bytes);
            command.arguments->pointers.push_back(at);
            at += rounded(parameters[i].bytes);
        }
        return device.submit(*stream, std::move(command));
    });
}

// ---- Tensor maps: two-dimensional ones of bf16 in the 128-byte swizzle

EXPORT CUresult cuTensorMapEncodeTiled(void* map, int type, uint32_t rank, void* base, const uint64_t* sizes,
                                       const uint64_t* strides, const uint32_t* box, const uint32_t* steps,
                                       int interleave, int swizzle, int, int fill) {
    const char* name = "cuTensorMapEncodeTiled";
    return call(name, [&](Device& device) {
        auto invalid = [&](const char* why) { return device.refuse(CUDA_ERROR_INVALID_VALUE, "%s: %s", name, why); };
        if (type != CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || rank != 2 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
            swizzle != CU_TENSOR_MAP_SWIZZLE_128B || fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
            return device.refuse(CUDA_ERROR_NOT_SUPPORTED, "%s: only matrices of bf16 in the 128-byte swizzle are emulated",
                                 name);
        constexpr uint64_t MOST = uint64_t(1) << 32;
        if (reinterpret_cast<uintptr_t>(map) % 64) return invalid("the map does not lie on a multiple of 64 bytes");
        if (reinterpret_cast<uintptr_t>(base) % 16) return invalid("the matrix does not lie on a multiple of 16 bytes");
        for (int i = 0; i < 2; i++) {
            if (!sizes[i] || sizes[i] > MOST) return invalid("a size is not from 1 to 2^32");
            if (!box[i] || box[i] > 256) return invalid("a side of the box is not from 1 to 256");
            if (!steps[i] || steps[i] > 8) return invalid("a step is not from 1 to 8");
        }
        if (strides[0] % 16 || strides[0] >= uint64_t(1) << 40)
            return invalid("rows are not a multiple of 16 bytes, below 2^40, apart");
        if (box[0] * 2 % 16 || box[0] * 2 > 128) return invalid("a row of the box is wider than the swizzle's 128 bytes");
        if (steps[0] != 1 || steps[1] != 1)
            return device.refuse(CUDA_ERROR_NOT_SUPPORTED, "%s: steps other than 1 are not emulated", name);
        device.kernels->tensor_map(map, base, sizes[0], sizes[1], strides[0], box[0], box[1]);
        return CUDA_SUCCESS;
    });
}

// ---- Captures and graphs

EXPORT CUresult cuStreamBeginCapture_v2(void* handle, int mode) {
    const char* name = "cuStreamBeginCapture";
    return call(name, [&](Device& device) {
        FIND(Stream, stream, streams, handle);
        if (stream->capture) return device.refuse(CUDA_ERROR_ILLEGAL_STATE, "%s: the stream is captured already", name);
        stream->capture.reset(new Capture);
        stream->capture->mode = CUstreamCaptureMode(mode);
        return CUDA_SUCCESS;
    });
}

EXPORT CUresult cuStreamEndCapture(void* handle, void** graph_handle) {
    const char* name = "cuStreamEndCapture";
    return call(name, [&](Device& device) {
        FIND(Stream, stream, streams, handle);
        *graph_handle = nullptr;
        if (!stream->capture) return device.refuse(CUDA_ERROR_ILLEGAL_STATE, "%s: the stream is not captured", name);
        std::unique_ptr<Capture> capture = std::move(stream->capture);
        if (capture->invalid)
            return device.refuse(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "%s: the capture was lost before", name);
        *graph_handle = capture->graph.get();
        device.graphs[*graph_handle] = std::move(capture->graph);
        return CUDA_SUCCESS;
    });
}

EXPORT CUresult cuGraphInstantiateWithFlags(void** executable, void* handle, unsigned long long) {
    const char* name = "cuGraphInstantiate";
    return call(name, [&](Device& device) {
        FIND(Graph, graph, graphs, handle);
        if (CUresult status = device.unsafe(name)) return status;
        if (device.configuration.instantiation_fails)
            return device.refuse(CUDA_ERROR_OUT_OF_MEMORY, "%s: this emulated GPU makes no graph executable", name);
        std::unique_ptr<Graph> made(new Graph(*graph));
        *executable = made.get();
        device.executables[*executable] = std::move(made);
        return CUDA_SUCCESS;
    });
}

EXPORT CUresult cuGraphLaunch(void* handle, void* stream_handle) {
    const char* name = "cuGraphLaunch";
    return call(name, [&](Device& device) {
        FIND(Graph, graph, executables, handle);
        FIND(Stream, stream, streams, stream_handle);
        if (stream->capture)
            return device.refuse(CUDA_ERROR_NOT_SUPPORTED, "%s: graphs within graphs are not emulated", name);
        return device.replay(*graph, *stream);
    });
}

EXPORT CUresult cuGraphDestroy(void* handle) {
    const char* name = "cuGraphDestroy";
    return call(name, [&](Device& device) {
        FIND(Graph, graph, graphs, handle);
        device.graphs.erase(handle);
        return CUDA_SUCCESS;
    });
}

EXPORT CUresult cuGraphExecDestroy(void* handle) {
    const char* name = "cuGraphExecDestroy";
    return call(name, [&](Device& device) {
        FIND(Graph, graph, executables, handle);
        device.executables.erase(handle);
        return CUDA_SUCCESS;
    });
}
