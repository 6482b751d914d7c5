// An emulated GPU: its streams of work, done late and in any order that CUDA allows, its events, graphs and modules.
//
// Nothing runs beside the host: work is done inside the calls that wait for it, or, where `completion` is RANDOM, inside any
// call. So a run is the same for the same seed, and yet whatever the host has not ordered happens in the wrong order.
#pragma once
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "configuration.hpp"
#include "cubin.hpp"
#include "cuda.hpp"
#include "memory.hpp"

namespace driver {

enum Completion { EARLY = 0, LATE = 1, RANDOM = 2 };
enum Flavour { PLAIN = 0, RACE = 1, ASAN = 2, COUNT = 3 };  // of a library of kernels

// The library in which a GPU's kernels lie, compiled for the CPU.
struct Kernels {
    void* library = nullptr;
    decltype(&emulator_check) check = nullptr;
    decltype(&emulator_launch) launch = nullptr;
    decltype(&emulator_parameters) parameters = nullptr;
    decltype(&emulator_tensor_map) tensor_map = nullptr;
    decltype(&emulator_forbid) forbid = nullptr;
    decltype(&emulator_flavour) flavour = nullptr;
    ~Kernels();
};

// How much of each stream's work is known to be done, or is ordered before something: the count of its commands.
using Clock = std::map<int, uint64_t>;

// One recording of an event.
struct Record {
    struct Stream* stream;
    Clock before;  // what is done when it is reached
    bool reached = false;
    double seconds = 0;
};

struct Event {
    bool timed;
    std::shared_ptr<Record> record;  // the last one; null before the first
    bool captured = false;           // the last one is part of a capture
};

struct Module;
struct Function {
    std::string name;
    Module* module;
    size_t static_shared;
    size_t dynamic_shared;  // what a launch may ask for
};

struct Module {
    bool own = false;  // all that is in the GPU's library of kernels
    Cubin cubin;
    std::map<std::string, std::unique_ptr<Function>> functions;
    uint64_t lost_barrier = 0;  // the address of the variable of this name; 0 before anyone has asked
};

// The values of a launch's arguments, copied when it is asked for.
struct Arguments {
    std::unique_ptr<char[]> storage;
    std::vector<void*> pointers;
};

struct Command {
    enum Kind { COPY_IN, COPY_OUT, COPY, FILL, LAUNCH, RECORD, WAIT };
    Command(Kind kind, const char* call) : kind(kind), call(call) {}

    Kind kind;
    const char* call;
    uint64_t to = 0, from = 0;
    size_t bytes = 0;
    uint8_t value = 0;                          // FILL
    bool compares = false;                      // COPY_IN, COPY_OUT: the host must leave its memory alone meanwhile
    std::shared_ptr<std::vector<char>> staged;  // COPY_IN of pageable memory: its bytes at the call
    uint64_t hash = 0;                          // COPY_IN of pinned memory: of its bytes at the call
    std::string kernel;                         // LAUNCH
    uint32_t grid[3] = {0, 0, 0}, block[3] = {0, 0, 0}, shared = 0;
    std::shared_ptr<Arguments> arguments;
    std::shared_ptr<Record> record;  // RECORD, WAIT
};

struct Graph {
    std::vector<Command> commands;
};

struct Capture {
    std::unique_ptr<Graph> graph{new Graph};
    CUstreamCaptureMode mode;
    bool invalid = false;
};

// Bytes that a command reads or writes.
struct Access {
    uint64_t begin, end;
    bool writes;
    bool operator<(const Access& other) const {
        if (begin != other.begin) return begin < other.begin;
        return end != other.end ? end < other.end : writes < other.writes;
    }
};
struct Accessed {
    uint64_t number;  // the last command of the stream that did
    const char* call;
};

struct Stream {
    int id;
    std::deque<Command> queue;
    Clock clock;  // what is ordered before the next command
    std::map<Access, Accessed> accesses;  // that the host has not waited for
    std::unique_ptr<Capture> capture;
};

class Device {
public:
    explicit Device(const Configuration& configuration);

    // Opens the library of kernels; the error, or nothing.
    std::string open();
    // What the host has not given back. Afterwards the device cannot be used.
    std::string close();

    // An error of this call alone.
    CUresult refuse(CUresult code, const char* format, ...) __attribute__((format(printf, 3, 4)));
    // An error that all later calls return too.
    CUresult fail(CUresult code, const char* format, ...) __attribute__((format(printf, 3, 4)));

    // May call what is not allowed while this thread captures; if not, the capture is lost.
    CUresult unsafe(const char* call);
    // Takes a command in: the stream does it later, or its capture keeps it.
    CUresult submit(Stream& stream, Command command);
    CUresult replay(const Graph& graph, Stream& stream);
    // Does one command of the stream, and what it waits for.
    void step(Stream& stream);
    void drain(Stream& stream);
    void drain_all();
    void reach(Record& record);
    // The host knows that all this is done.
    void host_waited(const Clock& clock);
    // Some work is done by itself.
    void progress();
    bool chance(int in) { return random() % uint64_t(in) == 0; }
    // Is a copy of this host memory under way?
    const char* in_use(const void* host, size_t bytes) const;

    template <class T>
    T* find(std::map<void*, std::unique_ptr<T>>& all, void* handle) {
        auto found = all.find(handle);
        return found == all.end() ? nullptr : found->second.get();
    }

    Configuration configuration;
    std::shared_ptr<Kernels> kernels;
    DeviceMemory memory;
    PinnedMemory pinned;
    std::map<void*, std::unique_ptr<Stream>> streams;
    std::map<void*, std::unique_ptr<Event>> events;
    std::map<void*, std::unique_ptr<Module>> modules;
    std::map<void*, Function*> functions;
    std::map<void*, std::unique_ptr<Graph>> graphs;
    std::map<void*, std::unique_ptr<Graph>> executables;
    Clock host;  // what the host has waited for
    bool collecting = false;  // between cuProfilerStart and cuProfilerStop
    CUresult error = CUDA_SUCCESS;
    std::string report;  // of `error`
    std::map<std::string, EmulatorCounters> counted;  // of each kernel, where the library of kernels counts
    std::mutex mutex;
    int streams_made = 0;

private:
    uint64_t random();
    void perform(Command& command);
    void launch(Command& command);
    // What kernels do whose barrier never comes: they say so where the host told them to, and end.
    void lose_barrier(const Command& command);
    // Notes what a command touches; false if something touches it that is not ordered with it.
    bool note(Stream& stream, const Command& command);
    bool note(Stream& stream, const char* call, Access access);

    uint64_t random_state;
    long launches = 0;
};

// What the last call of this thread that failed has to say.
extern thread_local std::string last_report;
extern thread_local CUresult last_error;

uint64_t hash(const void* from, size_t bytes);

}  // namespace driver
