// Flavour ASAN: AddressSanitizer's reports become errors of the launch, if the process lets it go on after one
// (ASAN_OPTIONS=halt_on_error=0).
#pragma once
#include <string>

namespace emulator {

// What it has reported on this OS thread since the last call; empty if nothing.
std::string take_address_report();

}  // namespace emulator
