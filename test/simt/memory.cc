#include "simt/memory.h"

#include <map>
#include <mutex>

namespace longhaul::simt {
namespace {

struct Allocation {
  int64_t bytes = 0;
  std::string what;
};
std::mutex mutex;   // guards the two below
std::map<uintptr_t, Allocation>& allocations() {
  static auto* const map = new std::map<uintptr_t, Allocation>;
  return *map;
}
bool any_registered = false;

}  // namespace

void register_allocation(const void* memory, int64_t bytes, const char* what) {
  const std::lock_guard lock(mutex);
  any_registered = true;
  allocations()[reinterpret_cast<uintptr_t>(memory)] = {bytes, what};
}

void unregister_allocation(const void* memory) {
  const std::lock_guard lock(mutex);
  allocations().erase(reinterpret_cast<uintptr_t>(memory));
}

std::string check_allocation(const void* address, int64_t bytes) {
  const std::lock_guard lock(mutex);
  if (!any_registered) return {};
  const auto at = reinterpret_cast<uintptr_t>(address);
  const auto after = allocations().upper_bound(at);
  if (after == allocations().begin()) return "no allocation there";
  const auto& [start, allocation] = *std::prev(after);
  const int64_t offset = static_cast<int64_t>(at - start);
  if (offset + bytes <= allocation.bytes) return {};
  return "at byte " + std::to_string(offset) + " of " + allocation.what + " (" +
         std::to_string(allocation.bytes) + " bytes)";
}

}  // namespace longhaul::simt
