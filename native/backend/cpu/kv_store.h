// KvStore: the CPU backend's device pool of KV blocks, and the order of elements inside a block.
//
// A block holds block_size tokens of every layer of its group. Inside it, outermost first:
//
//   [layer][kv head][K | V]           each block_size * head_dim 16-bit numbers
//
//   K: [block_size / 16][head_dim / 2]  units; unit = 16 tokens x 2 channels
//   V: [head_dim / 16][block_size / 2]  units; unit = 16 channels x 2 tokens
//
// A unit is 64 bytes, one cache line. In bf16 its order is [16][2], pairs innermost: a dword's
// upper half is one f32 and its lower half, shifted, the other, so that a whole unit widens with
// one shift and one mask; 16 units in a row are the B operand of a bf16 tile product (K: 32
// channels x 16 tokens, V: 32 tokens x 16 channels). In f16 the order is [2][16], because widening
// f16 takes 16 neighbors.
//
// Read by attention: keys in lanes, so scores need no horizontal sums and a token that is not
// visible spoils only its own lane; channels in lanes for values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kv/kv_layout.h"
#include "status.h"

namespace longhaul::cpu {

constexpr int32_t kUnitElements = 32;  // 64 bytes

// Index, in elements from the start of K or V of one head, of one number.
inline int64_t key_index(DType dtype, int32_t head_dim, int32_t token, int32_t channel) {
  const int64_t unit = int64_t{token / 16} * (head_dim / 2) + channel / 2;
  const int32_t lane = token % 16, pair = channel % 2;
  return unit * kUnitElements + (dtype == DType::kBF16 ? lane * 2 + pair : pair * 16 + lane);
}
inline int64_t value_index(DType dtype, int32_t block_size, int32_t token, int32_t channel) {
  const int64_t unit = int64_t{channel / 16} * (block_size / 2) + token / 2;
  const int32_t lane = channel % 16, pair = token % 2;
  return unit * kUnitElements + (dtype == DType::kBF16 ? lane * 2 + pair : pair * 16 + lane);
}

class KvStore {
 public:
  KvStore() = default;
  ~KvStore();
  KvStore(const KvStore&) = delete;
  KvStore& operator=(const KvStore&) = delete;

  // Reserves num_blocks blocks; the pages are given, zeroed, at their first touch. kUnsupported for
  // a layout the kernels cannot read, kOutOfMemory with the bytes asked for.
  Status create(const KvLayout& layout, int32_t num_blocks);

  const KvLayout& layout() const { return layout_; }
  int32_t num_blocks() const { return num_blocks_; }
  bool contains(int32_t block_id) const { return block_id >= 0 && block_id < num_blocks_; }

  std::byte* block(int32_t block_id) { return base_ + block_id * block_bytes_; }
  const std::byte* block(int32_t block_id) const { return base_ + block_id * block_bytes_; }

  // K of one head; V follows it.
  uint16_t* keys(int32_t block_id, int32_t layer, int32_t kv_head) {
    return reinterpret_cast<uint16_t*>(block(block_id) + head_offset(layer, kv_head));
  }
  const uint16_t* keys(int32_t block_id, int32_t layer, int32_t kv_head) const {
    return reinterpret_cast<const uint16_t*>(block(block_id) + head_offset(layer, kv_head));
  }
  // Elements from K of a head to its V.
  int64_t values_offset() const { return layout_.head_bytes() / 2; }

 private:
  int64_t head_offset(int32_t layer, int32_t kv_head) const {
    return layer * layout_.layer_bytes() + kv_head * 2 * layout_.head_bytes();
  }

  KvLayout layout_;
  int32_t num_blocks_ = 0;
  int64_t block_bytes_ = 0;
  std::byte* base_ = nullptr;      // 2 MiB aligned
  void* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
};

}  // namespace longhaul::cpu
