// Tile sizes of the attention kernels and what follows from them: shared memory, blocks a
// multiprocessor holds, grids. Plain C++, shared by kernels, launchers and the planner of work lists.
#pragma once

#include <cstdint>

#include "attention_params.h"

namespace longhaul::device {

constexpr int32_t kAttentionHeadDims[] = {64, 80, 96, 128, 256};

constexpr bool is_attention_head_dim(int32_t head_dim) {
  for (const int32_t served : kAttentionHeadDims) {
    if (head_dim == served) return true;
  }
  return false;
}

// Rows of K, V or Q in shared memory, read by ldmatrix: the eight rows of a matrix, 16 bytes each
// at the same place of their row, must lie in different groups of four banks.
//   multiples of 128 bytes   chunk (16 bytes) c of row r sits at chunk c ^ (r & 7)
//   64 bytes                 two rows fill the banks once: at chunk c ^ ((r / 2) & 3)
//   others                   rows padded to an odd number of chunks
struct RowLayout {
  int32_t chunks = 0;        // 16-byte chunks a row
  int32_t pitch_bytes = 0;   // from row to row

  constexpr explicit RowLayout(int32_t row_bytes)
      : chunks(row_bytes / 16),
        pitch_bytes(chunks % 8 == 0 || chunks == 4 ? row_bytes : (chunks | 1) * 16) {}
};

// A block's warps take key tiles in turn; each has its own ring of `stages` tiles (K and V).
struct DecodeShape {
  int32_t warps = 0;
  int32_t tile_keys = 0;
  int32_t stages = 0;
  int32_t stage_bytes = 0;    // K tile, V tile, scales
  int32_t query_bytes = 0;    // 16 rows in 16 bit
  int32_t shared_bytes = 0;
};

// Three blocks a multiprocessor share the 228 KiB of an H100 (1 KiB of each is the system's), two
// the 164 KiB of an A100: shared_bytes stays at or below 75 KiB. Each warp always has stages - 1
// tiles on their way; the bytes of all warps together must cover latency times bandwidth, about
// 1 us * 25 KB/us for a multiprocessor of an H100 and 0.7 us * 19 KB/us for one of an A100.
constexpr DecodeShape decode_shape(int32_t head_dim, CacheType type) {
  const int32_t bytes = type == CacheType::kF16 || type == CacheType::kBF16 ? 2 : 1;
  DecodeShape shape;
  // 256 channels: an accumulator of 16 x 256 takes half of a warp's registers and a tile twice the
  // bytes, so two warps a block.
  shape.warps = head_dim <= 128 ? 4 : 2;
  // 4 to 8 KiB of K and V a tile: enough for whole pages of DRAM, few enough for many warps.
  shape.tile_keys = bytes == 1 && head_dim <= 128 ? 32 : 16;
  shape.stage_bytes = 2 * shape.tile_keys * RowLayout(head_dim * bytes).pitch_bytes +
                      (bytes == 1 ? 2 * shape.tile_keys * 4 : 0);
  shape.query_bytes = 16 * RowLayout(2 * head_dim).pitch_bytes;
  shape.stages = (75 * 1024 - shape.query_bytes) / (shape.warps * shape.stage_bytes);
  shape.stages = shape.stages > 4 ? 4 : shape.stages;
  shape.shared_bytes = shape.query_bytes + shape.warps * shape.stages * shape.stage_bytes;
  return shape;
}

// Four warps with 16 or 32 query rows each; K and V tiles take turns in a ring. 8-bit types arrive
// as bytes in a ring of their own and are widened into the tiles the tensor cores read.
struct PrefillShape {
  int32_t rows = 0;            // packed rows of an item, at most
  int32_t tile_keys = 0;
  int32_t slots = 0;           // tiles of 16-bit numbers (K or V)
  int32_t byte_slots = 0;      // tiles of bytes (8-bit types)
  int32_t query_bytes = 0;
  int32_t tile_bytes = 0;      // of 16-bit numbers
  int32_t byte_tile_bytes = 0;
  int32_t scale_slots = 0;     // 2 tile_keys scales each, of K and V
  int32_t shared_bytes = 0;
};

constexpr int32_t attention_prefill_rows(int32_t head_dim) { return head_dim <= 128 ? 128 : 64; }

// At most 81 KiB, so that two blocks share a multiprocessor of an A100 (and of an H100).
constexpr PrefillShape prefill_shape(int32_t head_dim, CacheType type) {
  const bool is_8_bit = type == CacheType::kQ8 || type == CacheType::kFp8;
  PrefillShape shape;
  // 32 rows a warp: K and V pass from shared memory to registers once for two row tiles, which is
  // what lets the tensor cores, not shared memory, be the limit. 256 channels leave registers for
  // one row tile only.
  shape.rows = attention_prefill_rows(head_dim);
  shape.tile_keys = head_dim <= 128 ? 64 : 32;
  const RowLayout row(2 * head_dim);
  shape.query_bytes = shape.rows * row.pitch_bytes;
  shape.tile_bytes = shape.tile_keys * row.pitch_bytes;
  shape.slots = is_8_bit ? 2 : 3;
  shape.byte_slots = is_8_bit ? 2 : 0;
  shape.byte_tile_bytes = is_8_bit ? shape.tile_keys * head_dim : 0;
  shape.scale_slots = is_8_bit ? 2 : 0;
  shape.shared_bytes = shape.query_bytes + shape.slots * shape.tile_bytes +
                       shape.byte_slots * shape.byte_tile_bytes +
                       shape.scale_slots * 2 * shape.tile_keys * 4;
  return shape;
}

// Registers allow this many blocks (__launch_bounds__ of the kernels).
constexpr int32_t kDecodeBlocksMax = 3;
constexpr int32_t kPrefillBlocksMax = 2;
constexpr int32_t kCombineBlocks = 4;

// `shared_bytes_max`: dynamic shared memory one block can have (DeviceProperties), 1 KiB less than
// the multiprocessor's.
constexpr int32_t attention_blocks(int32_t shared_bytes, int32_t shared_bytes_max, int32_t limit) {
  const int32_t fit = (shared_bytes_max + 1024) / (shared_bytes + 1024);
  return fit < 1 ? 1 : fit > limit ? limit : fit;
}

// As many blocks as run at once.
constexpr AttentionGrids attention_grids(int32_t head_dim, CacheType type,
                                         int32_t num_multiprocessors, int32_t shared_bytes_max) {
  AttentionGrids grids;
  grids.prefill = num_multiprocessors * attention_blocks(prefill_shape(head_dim, type).shared_bytes,
                                                         shared_bytes_max, kPrefillBlocksMax);
  grids.decode = num_multiprocessors * attention_blocks(decode_shape(head_dim, type).shared_bytes,
                                                        shared_bytes_max, kDecodeBlocksMax);
  grids.combine = num_multiprocessors * kCombineBlocks;
  return grids;
}

// What the kernels ask of their params, beside a head_dim they serve.
constexpr bool is_attention_launch(const AttentionParams& p) {
  const int32_t kv_heads = p.cache.num_kv_heads, block_size = p.cache.block_size;
  return kv_heads > 0 && p.num_heads % kv_heads == 0 && p.num_heads / kv_heads <= 16 &&
         block_size >= 32 && (block_size & (block_size - 1)) == 0 && p.out.form != InputForm::kQ8 &&
         p.out.stride % 4 == 0 && p.q_stride % 4 == 0;
}

}  // namespace longhaul::device
