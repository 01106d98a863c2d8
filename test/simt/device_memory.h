// Memory of the emulated device and its page-locked host memory: host memory with a guard band on
// both sides, filled with poison when fresh.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "backend/cuda/device_status.h"
#include "status.h"

namespace longhaul::simt {

using cuda::MemoryKind;

// Repeated over fresh memory: NaN as f32, f16 and bf16, a wild id as int32 or int64, and never the
// -1 that means padding. Its bytes are 127 and -63 as int8, NaN and -2.25 as fp8.
constexpr uint32_t kPoison = 0x7fc17fc1u;
void fill_poison(void* memory, int64_t bytes);

class DeviceMemory {
 public:
  explicit DeviceMemory(int64_t budget_bytes) : budget_bytes_(budget_bytes) {}
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // 256-byte aligned. kOutOfMemory when the device's budget does not hold it.
  Result<void*> allocate(MemoryKind kind, int64_t bytes, const char* what);
  // What check_guards() says of this allocation, and kDevice for an address that is none.
  Status release(void* memory);

  // kDevice names the first allocation whose guard band was written over.
  Status check_guards() const;
  // kDevice unless the bytes lie in one allocation of this kind.
  Status check_range(MemoryKind kind, const char* call, const void* address, int64_t bytes) const;

  int64_t budget_bytes() const { return budget_bytes_; }
  int64_t free_bytes() const { return budget_bytes_ - used_bytes_; }

 private:
  struct Allocation {
    MemoryKind kind = MemoryKind::kDevice;
    int64_t bytes = 0;
    std::string what;
    std::byte* arena = nullptr;   // guard band, bytes, guard band
  };
  static Status check_guards(const std::byte* memory, const Allocation& allocation);
  static void release(const std::byte* memory, const Allocation& allocation);

  int64_t budget_bytes_;
  int64_t used_bytes_ = 0;
  std::map<const std::byte*, Allocation> allocations_;
};

}  // namespace longhaul::simt
