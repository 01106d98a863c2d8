// Accesses to global memory that the primitives make: inside an allocation, aligned. Plain
// dereferences in device code are not seen here; the address sanitizer sees them.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "simt/machine.h"
#include "simt/shared.h"

namespace longhaul::simt {

// Faults the launch unless the bytes are aligned and in one live allocation.
void check_global(const void* address, uint32_t bytes, uint32_t alignment, const char* verb,
                  Site site);

template <typename T>
T global_load(const T* pointer, Site site) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  if (checks_on) check_global(pointer, sizeof(T), sizeof(T), "load", site);
  T value;
  std::memcpy(&value, pointer, sizeof(T));
  return value;
}

template <typename T>
void global_store(T* pointer, const T& value, Site site) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  if (checks_on) check_global(pointer, sizeof(T), sizeof(T), "store", site);
  std::memcpy(pointer, &value, sizeof(T));
}

template <typename T>
T global_atomic_add(T* pointer, T value, Site site) {
  static_assert(std::is_same_v<T, int32_t> || std::is_same_v<T, uint32_t> ||
                std::is_same_v<T, float>);
  if (checks_on) check_global(pointer, sizeof(T), sizeof(T), "atomic", site);
  current->block->maybe_yield(*current);
  const T old = *pointer;
  if constexpr (std::is_same_v<T, int32_t>) {
    *pointer = static_cast<int32_t>(static_cast<uint32_t>(old) + static_cast<uint32_t>(value));
  } else {
    *pointer = old + value;
  }
  return old;
}

template <typename T, typename Change>
T shared_atomic(Shared<T> pointer, Site site, Change change) {
  static_assert(sizeof(T) == 4);
  if (checks_on) check_shared(pointer.address(), 4, 4, AccessKind::kAtomic, site);
  current->block->maybe_yield(*current);
  T old;
  std::memcpy(&old, pointer.address(), sizeof(T));
  const T changed = change(old);
  std::memcpy(pointer.address(), &changed, sizeof(T));
  return old;
}

}  // namespace longhaul::simt
