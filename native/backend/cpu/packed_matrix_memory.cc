#include "backend/cpu/packed_matrix_memory.h"

#include <cstdint>
#include <limits>
#include <mutex>
#include <new>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

namespace longhaul::cpu {
namespace {
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kSlabBytes = size_t{32} << 20;
constexpr size_t kSlack = 4096;  // kernels prefetch a little past the end
}  // namespace

// Anonymous memory is zero and costs nothing until it is touched.
struct PackedMemory::Slab {
  void* mapping = nullptr;
  size_t mapping_bytes = 0;
  std::byte* begin = nullptr;
  size_t size = 0;
  size_t used = 0;

  explicit Slab(size_t bytes) {
    size = (bytes + kSlack + kHugePage - 1) / kHugePage * kHugePage;
    mapping_bytes = size + kHugePage;
    void* memory =
        mmap(nullptr, mapping_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return;
    mapping = memory;
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory);
    begin = static_cast<std::byte*>(memory) + ((kHugePage - address % kHugePage) % kHugePage);
#if defined(MADV_HUGEPAGE)
    // Advice only: without huge pages everything works, with more TLB misses.
    madvise(begin, size, MADV_HUGEPAGE);
#endif
  }
  ~Slab() {
    if (mapping != nullptr) munmap(mapping, mapping_bytes);
  }
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;
};

PackedMemory PackedMemory::allocate(size_t bytes) {
  static std::mutex mutex;
  static std::weak_ptr<Slab> open_slab;

  PackedMemory memory;
  if (bytes > std::numeric_limits<size_t>::max() / 2) return memory;
  const size_t rounded = (bytes + 63) / 64 * 64;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<Slab> slab = open_slab.lock();
  if (slab == nullptr || slab->size - slab->used < rounded + kSlack) {
    const bool small = rounded <= kSlabBytes / 2;
    slab = std::make_shared<Slab>(small ? kSlabBytes - kSlack : rounded);
    if (slab->begin == nullptr) return memory;
    if (small) open_slab = slab;
  }
  memory.data_ = slab->begin + slab->used;
  memory.bytes_ = bytes;
  slab->used += rounded;
  memory.slab_ = std::move(slab);
  return memory;
}

}  // namespace longhaul::cpu
