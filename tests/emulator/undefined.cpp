// What -fsanitize=undefined makes the compiler call, in place of the sanitizer's own library: an error of the launch.
#include "block.hpp"

namespace {

// Every handler's first argument starts with this.
struct SourceLocation {
    const char* file;
    uint32_t line, column;
};

struct TypeDescriptor {
    uint16_t kind, info;
    char name[1];
};

struct TypeMismatch {
    SourceLocation location;
    const TypeDescriptor* type;
    unsigned char log_alignment, kind;
};

[[noreturn]] void report(const void* data, const char* what) {
    const SourceLocation& at = *static_cast<const SourceLocation*>(data);
    if (!emulator::self) __builtin_trap();
    emulator::block->fail({at.file, int(at.line)}, "%s", what);
}

}  // namespace

#define HANDLER(name, what)                                                                    \
    extern "C" __attribute__((visibility("hidden"), used)) void __ubsan_handle_##name##_abort( \
        const void* data, const void*, const void*) {                                          \
        report(data, what);                                                                    \
    }

extern "C" __attribute__((visibility("hidden"), used)) void __ubsan_handle_type_mismatch_v1_abort(
    const TypeMismatch* data, const void* address) {
    SourceLocation at = data->location;
    if (!emulator::self) __builtin_trap();
    emulator::block->fail({at.file, int(at.line)}, "%s access: %s at %p", address ? "misaligned" : "null-pointer",
                          data->type->name, address);
}

HANDLER(out_of_bounds, "index out of bounds of an array")
HANDLER(shift_out_of_bounds, "shift by more than the type has bits, or of a negative number")
HANDLER(add_overflow, "signed integer overflow (addition)")
HANDLER(sub_overflow, "signed integer overflow (subtraction)")
HANDLER(mul_overflow, "signed integer overflow (multiplication)")
HANDLER(negate_overflow, "signed integer overflow (negation)")
HANDLER(divrem_overflow, "division by zero, or its overflow")
HANDLER(load_invalid_value, "a value that its type does not have")
HANDLER(pointer_overflow, "pointer arithmetic overflows")
HANDLER(vla_bound_not_positive, "array of negative size")
HANDLER(invalid_builtin, "an argument for which a builtin is not defined")
HANDLER(nonnull_arg, "null argument")
HANDLER(float_cast_overflow, "floating-point number out of the integer's range")

extern "C" __attribute__((visibility("hidden"), used)) void __ubsan_handle_builtin_unreachable(const void* data) {
    report(data, "unreachable code is reached");
}
extern "C" __attribute__((visibility("hidden"), used)) void __ubsan_handle_missing_return(const void* data) {
    report(data, "a function ends without its return value");
}
