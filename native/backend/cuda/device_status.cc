#include "backend/cuda/device_status.h"

namespace longhaul::cuda {

Status out_of_memory(MemoryKind kind, const char* what, int64_t bytes, int64_t free_bytes,
                     int64_t total_bytes) {
  if (kind == MemoryKind::kPinned) {
    return error(ErrorCode::kOutOfMemory, "%s: no page-locked host memory for %lld bytes", what,
                 static_cast<long long>(bytes));
  }
  return error(ErrorCode::kOutOfMemory,
               "%s: %lld bytes of device memory asked, %lld free of %lld (%lld missing)", what,
               static_cast<long long>(bytes), static_cast<long long>(free_bytes),
               static_cast<long long>(total_bytes),
               static_cast<long long>(bytes > free_bytes ? bytes - free_bytes : 0));
}

Status device_error(const char* call, int number, const char* words) {
  return error(ErrorCode::kDevice, "%s: error %d: %s", call, number, words);
}

Status not_in_capture(const char* call) {
  return error(ErrorCode::kDevice, "%s: not allowed while a stream is being captured", call);
}

}  // namespace longhaul::cuda
