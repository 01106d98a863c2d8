// Paged attention of one layer: what its three kernels share.
//
//   attention_prefill   many query rows against a tile of keys at a time (attention_prefill.h)
//   attention_decode    up to 16 query rows, K and V read once at memory speed (attention_decode.h)
//   attention_combine   merges partials into output rows (attention_combine.h)
//
// Order: after qkv_finish of the layer; prefill and decode in any order, combine after both, all on
// one stream. A step that has no work for one of them may launch it all the same: its list is empty
// and its blocks end at once. Grids are fixed and lists live in device memory, so that a captured
// graph serves every step whose lists lie at the same addresses. Where no step has more than 16
// packed rows of a sequence (decode graphs), attention_prefill may be left out.
//
// Packed rows. The queries of a sequence that share a kv head are numbered together: packed row i
// of a kv head is the sequence's row i / group, query head kv_head * group + i % group, with
// group = num_heads / num_kv_heads. Items are ranges of packed rows against a range of keys.
//
// Partials. For a row and the keys of one item, with s = the row's logits in units of log2 (scale,
// softcap and log2(e) applied):
//   m = max s,   l = sum 2^(s - m),   o = sum 2^(s - m) v      (o is not normalized)
// all f32; a row that sees none of the item's keys has m = -inf, l = 0, o = 0. Any further segment
// (contexts) that leaves partials in this form is merged by the same combine.
//
// Rows that appear in no item are left alone. A row all of whose partials are empty becomes zeros.
#pragma once

#include <cstdint>

#include "cache_layer.h"
#include "launch.h"
#include "product_input.h"

namespace longhaul::device {

// A range of packed rows of one kv head against the keys [key_begin, key_end) of a sequence. Row i
// (i / group rows after first_row) sees those of them that are within
// [max(0, position - window + 1), position], position = first_position + i / group.
// Entry k of its block table holds tokens [k * block_size, (k + 1) * block_size). Only entries that
// hold one of the item's keys are read.
struct AttentionItem {
  int32_t first_row = 0;        // step row of packed row 0
  int32_t first_position = 0;   // its position
  int32_t packed_begin = 0;
  int32_t packed_count = 0;     // decode: 1..16; prefill: 1..attention_prefill_rows(head_dim)
  int32_t kv_head = 0;
  int32_t key_begin = 0;
  int32_t key_end = 0;          // exclusive; > key_begin
  int32_t first_partial = -1;   // partial row of packed_begin, the others follow; -1: rows go to `out`
  int32_t table_offset = 0;     // entry 0 of the table is block_tables[table_offset]; may be negative
                                // where the first entries are not there
  int32_t reserved[3] = {0, 0, 0};   // 48 bytes: three loads of 16
};
static_assert(sizeof(AttentionItem) == 48);

// Output rows and where their partials are: packed row packed_begin + i is merged of the partial
// rows first[r] + k * stride[r] + i, k < count[r], run r = 0 first, k ascending.
struct AttentionMerge {
  int32_t first_row = 0;
  int32_t packed_begin = 0;
  int32_t packed_count = 0;     // 1..4. One row: the block's warps share its partials; more: a warp a row
  int32_t kv_head = 0;
  int32_t first[2] = {0, 0};
  int32_t count[2] = {0, 0};    // run 0: this sequence's own keys; run 1: other segments
  int32_t stride[2] = {0, 0};
  int32_t reserved[2] = {0, 0};
};
static_assert(sizeof(AttentionMerge) == 48);

constexpr int32_t kAttentionMergeRows = 4;
constexpr int32_t kAttentionDecodeRows = 16;   // packed rows of a decode item, at most

// Thread blocks of each launch: attention_grids().
struct AttentionGrids {
  int32_t prefill = 0;
  int32_t decode = 0;
  int32_t combine = 0;
};

// A step's lists of one KV group; every pointer is device memory. Block b of prefill and decode does
// items [offsets[b], offsets[b + 1]); block b of combine does merges b, b + grids.combine, ...
struct AttentionLists {
  const int32_t* block_tables = nullptr;
  const int32_t* prefill_offsets = nullptr;     // [grids.prefill + 1]
  const AttentionItem* prefill_items = nullptr;
  const int32_t* decode_offsets = nullptr;      // [grids.decode + 1]
  const AttentionItem* decode_items = nullptr;
  const int32_t* num_merges = nullptr;          // [1]
  const AttentionMerge* merges = nullptr;
};

struct AttentionParams {
  const float* q = nullptr;         // [rows, num_heads * head_dim], 16-byte aligned
  int64_t q_stride = 0;             // elements, a multiple of 4
  ProductInput out;                 // [rows, num_heads * head_dim]; kF32, kF16 or kBF16
  CacheLayer cache;                 // block_size: a power of two, 32 or more
  int32_t num_heads = 0;            // num_kv_heads * group, group 1..16
  int32_t window = 0;               // keys a row sees, itself included; 0 = all before it
  float scale = 1.0f;               // logits = scale * q k (for kQ8: undo the rotation's growth here)
  float softcap = 0.0f;             // 0: none; else logits = softcap * tanh(logits / softcap)
  AttentionLists lists;
  AttentionGrids grids;
  float* partial_o = nullptr;       // [max partial rows, head_dim]
  float* partial_ml = nullptr;      // [max partial rows, 2]: m, l
};

}  // namespace longhaul::device
