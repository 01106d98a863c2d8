#include "simt/device_memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "simt/memory.h"

namespace longhaul::simt {
namespace {

// Wide enough for a row of a small tile; checked after every kernel, so not wider.
constexpr int64_t kGuardBytes = 1024;
constexpr int kGuardByte = 0xa5;
constexpr int64_t kAlignment = 256;

const std::byte* guard_pattern() {
  static const std::byte* const pattern = [] {
    auto* const bytes = new std::byte[kGuardBytes];
    std::memset(bytes, kGuardByte, kGuardBytes);
    return bytes;
  }();
  return pattern;
}

// Where the band differs from its pattern, as an offset from its start; -1 if nowhere.
int64_t damage(const std::byte* band) {
  if (std::memcmp(band, guard_pattern(), kGuardBytes) == 0) return -1;
  int64_t at = 0;
  while (band[at] == std::byte{kGuardByte}) ++at;
  return at;
}

}  // namespace

void fill_poison(void* memory, int64_t bytes) {
  auto* const to = static_cast<std::byte*>(memory);
  int64_t done = std::min<int64_t>(bytes, sizeof(kPoison));
  std::memcpy(to, &kPoison, static_cast<size_t>(done));
  while (done < bytes) {   // doubling; `done` stays a multiple of the pattern until the end
    const int64_t more = std::min(done, bytes - done);
    std::memcpy(to + done, to, static_cast<size_t>(more));
    done += more;
  }
}

DeviceMemory::~DeviceMemory() {
  for (const auto& [memory, allocation] : allocations_) release(memory, allocation);
}

Result<void*> DeviceMemory::allocate(MemoryKind kind, int64_t bytes, const char* what) {
  if (bytes < 0) {
    return error(ErrorCode::kInternal, "%s: %lld bytes asked", what, static_cast<long long>(bytes));
  }
  if (kind == MemoryKind::kDevice && bytes > free_bytes()) {
    return cuda::out_of_memory(kind, what, bytes, free_bytes(), budget_bytes_);
  }
  const int64_t arena_bytes =
      (bytes + 2 * kGuardBytes + kAlignment - 1) / kAlignment * kAlignment;
  void* const arena = std::aligned_alloc(kAlignment, static_cast<size_t>(arena_bytes));
  if (!arena) return cuda::out_of_memory(kind, what, bytes, free_bytes(), budget_bytes_);
  Allocation allocation{kind, bytes, what, static_cast<std::byte*>(arena)};
  std::byte* const memory = allocation.arena + kGuardBytes;
  std::memcpy(allocation.arena, guard_pattern(), kGuardBytes);
  std::memcpy(memory + bytes, guard_pattern(), kGuardBytes);
  if (bytes > 0) fill_poison(memory, bytes);
  if (kind == MemoryKind::kDevice) {
    used_bytes_ += bytes;
    register_allocation(memory, bytes, what);
  }
  allocations_.emplace(memory, std::move(allocation));
  return static_cast<void*>(memory);
}

Status DeviceMemory::release(void* memory) {
  const auto found = allocations_.find(static_cast<const std::byte*>(memory));
  if (found == allocations_.end()) {
    return error(ErrorCode::kDevice, "release: %p is not an allocation of this device", memory);
  }
  const Status status = check_guards(found->first, found->second);
  if (found->second.kind == MemoryKind::kDevice) used_bytes_ -= found->second.bytes;
  release(found->first, found->second);
  allocations_.erase(found);
  return status;
}

void DeviceMemory::release(const std::byte* memory, const Allocation& allocation) {
  if (allocation.kind == MemoryKind::kDevice) unregister_allocation(memory);
  std::free(allocation.arena);
}

Status DeviceMemory::check_guards(const std::byte* memory, const Allocation& allocation) {
  if (const int64_t at = damage(allocation.arena); at >= 0) {
    return error(ErrorCode::kDevice, "guard band before %s (%lld bytes) written over at byte -%lld",
                 allocation.what.c_str(), static_cast<long long>(allocation.bytes),
                 static_cast<long long>(kGuardBytes - at));
  }
  if (const int64_t at = damage(memory + allocation.bytes); at >= 0) {
    return error(ErrorCode::kDevice, "guard band after %s (%lld bytes) written over at byte %lld",
                 allocation.what.c_str(), static_cast<long long>(allocation.bytes),
                 static_cast<long long>(allocation.bytes + at));
  }
  return {};
}

Status DeviceMemory::check_guards() const {
  for (const auto& [memory, allocation] : allocations_) LH_TRY(check_guards(memory, allocation));
  return {};
}

Status DeviceMemory::check_range(MemoryKind kind, const char* call, const void* address,
                                 int64_t bytes) const {
  const char* const kind_name =
      kind == MemoryKind::kDevice ? "device memory" : "page-locked host memory";
  const auto* const at = static_cast<const std::byte*>(address);
  const auto after = allocations_.upper_bound(at);
  if (bytes < 0 || after == allocations_.begin() || std::prev(after)->second.kind != kind ||
      at >= std::prev(after)->first + std::max<int64_t>(std::prev(after)->second.bytes, 1)) {
    return error(ErrorCode::kDevice, "%s: %p is not in %s", call, address, kind_name);
  }
  const auto& [memory, allocation] = *std::prev(after);
  if ((at - memory) + bytes > allocation.bytes) {
    return error(ErrorCode::kDevice, "%s: %lld bytes at byte %lld of %s, which has %lld", call,
                 static_cast<long long>(bytes), static_cast<long long>(at - memory),
                 allocation.what.c_str(), static_cast<long long>(allocation.bytes));
  }
  return {};
}

}  // namespace longhaul::simt
