#include "address.hpp"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>

namespace emulator {
namespace {

thread_local std::string first_report;

// "AddressSanitizer: kind on address ...", then the first frame with a line of a kernel.
void keep(const char* report) {
    if (!first_report.empty()) return;
    std::string text = report;
    size_t begin = text.find("AddressSanitizer:");
    if (begin == std::string::npos) begin = 0;
    std::string found = text.substr(begin, text.find(" at pc", begin) - begin);
    size_t place = text.find(".cu");
    if (place != std::string::npos) {
        size_t start = text.rfind('/', place) + 1;
        found += ", " + text.substr(start, text.find('\n', start) - start);
    }
    first_report = found;
}

const bool registered = (__asan_set_error_report_callback(keep), true);

}  // namespace

std::string take_address_report() {
    (void)registered;
    std::string report;
    report.swap(first_report);
    return report;
}

}  // namespace emulator
#else
namespace emulator {
std::string take_address_report() { return ""; }
}  // namespace emulator
#endif
