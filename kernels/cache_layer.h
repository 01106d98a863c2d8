// CacheLayer: one layer's part of the K/V pool, as the kernels that write and read it see it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace longhaul::device {

// How a number of K or V is kept. The 8-bit types have one f32 scale per token and head beside it.
enum class CacheType : int32_t { kF16, kBF16, kQ8, kFp8 };

// One layer's part of the pool. A block's layer holds K of every kv head, then V of every kv head;
// one head is [block_size, head_dim] numbers, for 8-bit types followed by f32 [block_size] scales.
// A token whose K or V of a head is not finite has NaN as that head's K scale (8-bit types), so
// that rows that see it are NaN.
struct CacheLayer {
  std::byte* blocks = nullptr;   // block 0, this layer; block b is at b * block_bytes
  int64_t block_bytes = 0;
  int64_t head_bytes = 0;        // numbers and scales of K or V of one head
  int32_t block_size = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  CacheType type = CacheType::kF16;
};

}  // namespace longhaul::device
