// KvStore: the CPU backend's device pool of KV blocks, and the order of elements inside a block.
//
// A block holds block_size tokens of every layer of its group. Inside it, outermost first:
//
//   [layer][kv head][K | V]
//
// and in units of 64 bytes, one cache line, f16 and bf16:
//
//   K: [block_size / 16][head_dim / 2]  units; unit = 16 tokens x 2 channels
//   V: [head_dim / 16][block_size / 2]  units; unit = 16 channels x 2 tokens
//
// In bf16 the order of a unit is [16][2], pairs innermost: a dword's upper half is one f32 and its
// lower half, shifted, the other, so that a whole unit widens with one shift and one mask. In f16
// the order is [2][16], because widening f16 takes 16 neighbors. q8:
//
//   K: [block_size / 16][head_dim / 4]  units; unit = 16 tokens x 4 channels; then f32 [block_size]
//   V: [head_dim / 16][block_size / 4]  units; unit = 16 channels x 4 tokens; then f32 [block_size]
//
// The order of a unit is [16][4], the operand of VPDPBUSD; 16 units in a row are the B operand of
// an 8-bit tile product (K: 64 channels x 16 tokens, V: 64 tokens x 16 channels). A number is its
// 8 bits times the token's f32. K is kept with 128 added, unsigned, and rotated: each run of n
// channels, n the largest power of two that divides head_dim, times the Hadamard matrix of n rows.
// Products of queries and keys do not change when both are rotated (they grow n-fold), but channels
// far larger than the others are spread, and one scale serves all (arXiv 2404.00456 does the same).
// A token with an infinity or a NaN in K or V has NaN as K's scale: rows that see it are NaN.
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

// Place of one number inside its unit, in elements: `lane` of 16, `inner` of 2 or 4.
inline int32_t place_in_unit(KvDType dtype, int32_t lane, int32_t inner) {
  if (dtype == KvDType::kQ8) return lane * 4 + inner;
  return dtype == KvDType::kBF16 ? lane * 2 + inner : inner * 16 + lane;
}
// Index, in elements from the start of K or V of one head, of one number.
inline int64_t key_index(KvDType dtype, int32_t head_dim, int32_t token, int32_t channel) {
  const int32_t inner = dtype == KvDType::kQ8 ? 4 : 2;
  const int64_t unit = int64_t{token / 16} * (head_dim / inner) + channel / inner;
  return unit * 16 * inner + place_in_unit(dtype, token % 16, channel % inner);
}
inline int64_t value_index(KvDType dtype, int32_t block_size, int32_t token, int32_t channel) {
  const int32_t inner = dtype == KvDType::kQ8 ? 4 : 2;
  const int64_t unit = int64_t{channel / 16} * (block_size / inner) + token / inner;
  return unit * 16 * inner + place_in_unit(dtype, channel % 16, token % inner);
}
// Channels that are rotated together (q8).
inline int32_t rotation_size(int32_t head_dim) { return head_dim & -head_dim; }

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
  std::byte* keys(int32_t block_id, int32_t layer, int32_t kv_head) {
    return block(block_id) + head_offset(layer, kv_head);
  }
  const std::byte* keys(int32_t block_id, int32_t layer, int32_t kv_head) const {
    return block(block_id) + head_offset(layer, kv_head);
  }
  // Bytes from K of a head to its V.
  int64_t values_offset() const { return layout_.head_bytes(); }

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
