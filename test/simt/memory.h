// Global memory that device code may touch. Whoever allocates it (the emulated device runtime)
// registers it; loads, stores, atomics and asynchronous copies of device code are then checked
// against it. Until the first registration in a process nothing is checked, so that tests of the
// emulator may use plain arrays.
#pragma once

#include <cstdint>
#include <string>

namespace longhaul::simt {

// `what` names it in faults ("kv pool").
void register_allocation(const void* memory, int64_t bytes, const char* what);
void unregister_allocation(const void* memory);

// Empty if all bytes lie in one live allocation, else what is wrong.
std::string check_allocation(const void* address, int64_t bytes);

}  // namespace longhaul::simt
