#include "backend/cpu/kv_store.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "attention/attention_work.h"

namespace longhaul::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

Status check_layout(const KvLayout& layout, int32_t num_blocks) {
  if (layout.block_size <= 0 || layout.block_size % 32 != 0 ||
      kSliceTokens % layout.block_size != 0) {
    return error(ErrorCode::kUnsupported, "block size %d: expected 32, 64, 128, 256 or 512",
                 layout.block_size);
  }
  if (layout.head_dim <= 0 || layout.head_dim % 16 != 0 || layout.head_dim > kSliceTokens) {
    return error(ErrorCode::kUnsupported, "head_dim %d: expected a multiple of 16 up to %d",
                 layout.head_dim, kSliceTokens);
  }
  if (layout.num_kv_heads <= 0 || layout.layers_per_block <= 0 || num_blocks < 0) {
    return error(ErrorCode::kInternal, "kv layout: %d kv heads, %d layers, %d blocks",
                 layout.num_kv_heads, layout.layers_per_block, num_blocks);
  }
  return {};
}

}  // namespace

KvStore::~KvStore() {
  if (mapping_) munmap(mapping_, mapping_bytes_);
}

Status KvStore::create(const KvLayout& layout, int32_t num_blocks) {
  LH_TRY(check_layout(layout, num_blocks));
  if (mapping_) return error(ErrorCode::kInternal, "the kv pool exists already");
  const int64_t block_bytes = layout.block_bytes();
  // One huge page more, so that the base can be moved to a boundary.
  const size_t bytes = static_cast<size_t>(block_bytes) * static_cast<size_t>(num_blocks) +
                       kHugePage;
  void* mapping = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) {
    return error(ErrorCode::kOutOfMemory, "kv pool: %zu bytes for %d blocks: %s", bytes,
                 num_blocks, std::strerror(errno));
  }
#ifdef MADV_HUGEPAGE
  // Advice only: with small pages the pool works the same, somewhat slower.
  (void)madvise(mapping, bytes, MADV_HUGEPAGE);
#endif
  const auto address = reinterpret_cast<uintptr_t>(mapping);
  base_ = reinterpret_cast<std::byte*>((address + kHugePage - 1) / kHugePage * kHugePage);
  mapping_ = mapping;
  mapping_bytes_ = bytes;
  layout_ = layout;
  num_blocks_ = num_blocks;
  block_bytes_ = block_bytes;
  return {};
}

}  // namespace longhaul::cpu
