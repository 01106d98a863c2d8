#include "simt/memory.h"

#include <atomic>
#include <map>
#include <mutex>

namespace longhaul::simt {
namespace {

struct Allocation {
  uintptr_t end = 0;
  std::string what;
};
std::mutex mutex;  // guards the map
std::map<uintptr_t, Allocation>& allocations() {
  static auto* const map = new std::map<uintptr_t, Allocation>;
  return *map;
}
// Counts changes of the map; 0 until the first registration.
std::atomic<uint64_t> version = 0;

// Ranges of allocations that this thread found lately, good for one version.
struct Found {
  uintptr_t begin = 0, end = 0;
};
constexpr int kFound = 4;
thread_local Found found[kFound];
thread_local uint64_t found_version = 0;
thread_local int found_next = 0;

}  // namespace

void register_allocation(const void* memory, int64_t bytes, const char* what) {
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const std::lock_guard lock(mutex);
  ++version;
  allocations()[begin] = {begin + static_cast<uintptr_t>(bytes), what};
}

void unregister_allocation(const void* memory) {
  const std::lock_guard lock(mutex);
  ++version;
  allocations().erase(reinterpret_cast<uintptr_t>(memory));
}

std::string check_allocation(const void* address, int64_t bytes) {
  const uint64_t now = version.load(std::memory_order_acquire);
  if (now == 0) return {};
  const auto begin = reinterpret_cast<uintptr_t>(address);
  const uintptr_t end = begin + static_cast<uintptr_t>(bytes);
  if (found_version != now) {
    for (Found& range : found) range = {};
    found_version = now;
  }
  for (const Found& range : found) {
    if (begin >= range.begin && end <= range.end) return {};
  }
  const std::lock_guard lock(mutex);
  const auto after = allocations().upper_bound(begin);
  if (after == allocations().begin()) return "no allocation there";
  const auto& [start, allocation] = *std::prev(after);
  if (end > allocation.end) {
    return "at byte " + std::to_string(begin - start) + " of " + allocation.what + " (" +
           std::to_string(allocation.end - start) + " bytes)";
  }
  found[found_next] = {start, allocation.end};
  found_next = (found_next + 1) % kFound;
  return {};
}

}  // namespace longhaul::simt
