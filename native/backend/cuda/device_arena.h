// DeviceArena: one allocation of device memory, handed out in order and never taken back. What it
// will have to hold is known before it is made, so nothing is allocated while a model runs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cuda/device_runtime.h"
#include "status.h"

namespace longhaul::cuda {

constexpr int64_t kDeviceAlignment = 256;

// What `bytes` take in an arena.
constexpr int64_t arena_bytes(int64_t bytes) {
  return (bytes + kDeviceAlignment - 1) / kDeviceAlignment * kDeviceAlignment;
}

class DeviceArena {
 public:
  // `what` names the memory in errors.
  Status allocate(DeviceRuntime& runtime, int64_t bytes, const char* what) {
    what_ = what;
    size_ = bytes;
    if (bytes == 0) return {};
    LH_ASSIGN_OR_RETURN(void* const memory, runtime.allocate(bytes, what));
    base_ = static_cast<std::byte*>(memory);
    return {};
  }

  // 256-byte aligned; contents undefined.
  Result<std::byte*> take(int64_t bytes) {
    const int64_t end = used_ + arena_bytes(bytes);
    if (end > size_) {
      return error(ErrorCode::kInternal, "%s: %lld bytes were planned, %lld are asked for", what_,
                   static_cast<long long>(size_), static_cast<long long>(end));
    }
    std::byte* const memory = base_ + used_;
    used_ = end;
    return memory;
  }
  template <typename T>
  Result<T*> take_array(int64_t count) {
    LH_ASSIGN_OR_RETURN(std::byte* const memory, take(count * static_cast<int64_t>(sizeof(T))));
    return reinterpret_cast<T*>(memory);
  }

  std::byte* data() const { return base_; }
  int64_t size() const { return size_; }

 private:
  const char* what_ = "";
  std::byte* base_ = nullptr;
  int64_t size_ = 0;
  int64_t used_ = 0;
};

}  // namespace longhaul::cuda
