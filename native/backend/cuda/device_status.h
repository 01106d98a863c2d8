// The wording of what both device runtimes report, so that a test over the emulated one tests the
// text that a GPU's user reads.
#pragma once

#include <cstdint>

#include "status.h"

namespace longhaul::cuda {

enum class MemoryKind { kDevice, kPinned };

// kOutOfMemory: what was asked for, by whom, and what there is. free and total in bytes; for
// pinned memory they are not known (-1).
Status out_of_memory(MemoryKind kind, const char* what, int64_t bytes, int64_t free_bytes,
                     int64_t total_bytes);
// kDevice: the call that failed and the driver's number and words for it.
Status device_error(const char* call, int number, const char* words);
// kDevice: `call` between begin_capture() and end_capture().
Status not_in_capture(const char* call);

}  // namespace longhaul::cuda
