// AttentionPlan: a step's attention of one KV group as the lists that the attention kernels read
// (kernels/attention_params.h), and its bytes for the step's one upload. Host only.
//
//   plan.build(work.sequences, options)      once a step and group; every layer of the group uses it
//   layout = AttentionLayout(...)            where arrays lie in the group's part of the upload
//   plan.encode(layout, bytes)               fills that part
//   layout.lists(device_address)             the pointers for AttentionParams::lists
//
// Sequences of at most 16 packed rows (rows * group) become decode items, others prefill items.
// Decode: keys of all sequences and kv heads are laid end to end and cut into one equal span a
// block, so every block reads about as many bytes and the number of partials stays below two a
// block. Prefill: tiles of rows, heaviest first, each to the block with the least work so far; where
// there are fewer tiles than blocks, their keys are cut as well. The same input gives the same plan.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention/attention_work.h"
#include "attention_params.h"

namespace longhaul::cuda {

// Partials of another segment that rows of a sequence are merged with: packed row i of kv head h has
// them in partial rows first + h * kv_head_stride + k * stride + i, k < count.
struct ExtraPartials {
  int32_t first = 0;
  int32_t count = 0;     // 0: none
  int32_t stride = 0;
  int32_t kv_head_stride = 0;
};

struct AttentionPlanOptions {
  int32_t num_heads = 1;
  int32_t num_kv_heads = 1;
  int32_t head_dim = 64;
  int32_t block_size = 32;
  int32_t window = 0;               // 0 = full attention
  device::AttentionGrids grids;     // as in AttentionParams
  // Partial rows [partial_row_begin, partial_row_end) are the plan's to use; with fewer than
  // partial_rows_wanted() work is cut less finely.
  int32_t partial_row_begin = 0;
  int32_t partial_row_end = 0;
  // Sequence i's table starts at block_tables[table_offsets[i]] of a table kept on the device. Null:
  // the entries that are needed go into the upload, from AttentionSequence::block_table.
  const int32_t* table_offsets = nullptr;
  const ExtraPartials* extras = nullptr;   // [sequences]; null: no other segments
};

// Partial rows with which a plan is never held back: scratch for them is
// rows * (head_dim + 2) * 4 bytes (partial_o and partial_ml).
int32_t partial_rows_wanted(const device::AttentionGrids& grids);

// Upper limits of a step's lists. A captured graph keeps the layout it was captured with, so its
// limits are those of its bucket; other steps may use the plan's own counts.
struct AttentionCounts {
  int32_t decode_items = 0;
  int32_t prefill_items = 0;
  int32_t merges = 0;
  int64_t table_entries = 0;   // come last: more of them move no other array
};

// Counts that no step of up to `num_sequences` sequences of one row each exceeds.
AttentionCounts decode_counts_max(int32_t num_sequences, int64_t table_entries,
                                  const AttentionPlanOptions& options);

// Offsets from the start of the group's part of the upload, 16-byte aligned.
struct AttentionLayout {
  AttentionLayout() = default;
  AttentionLayout(const AttentionCounts& counts, const device::AttentionGrids& grids);

  AttentionCounts counts;
  int64_t num_merges = 0;
  int64_t decode_offsets = 0;
  int64_t prefill_offsets = 0;
  int64_t decode_items = 0;
  int64_t merges = 0;
  int64_t prefill_items = 0;
  int64_t tables = 0;
  int64_t bytes = 0;            // of everything

  // `device`: where the part lies on the device; `block_tables`: the table kept there, or null: the
  // one in the upload.
  device::AttentionLists lists(const std::byte* device, const int32_t* block_tables = nullptr) const;
};

class AttentionPlan {
 public:
  void build(const std::vector<AttentionSequence>& sequences, const AttentionPlanOptions& options);

  AttentionCounts counts() const;
  int32_t num_partial_rows() const { return num_partial_rows_; }   // used, from partial_row_begin on

  // Writes layout.bytes bytes or fewer: returns how many must be uploaded (table entries that the
  // step does not have are left out). `layout` has room for counts().
  int64_t encode(const AttentionLayout& layout, std::byte* to) const;

  const std::vector<device::AttentionItem>& decode_items() const { return decode_items_; }
  const std::vector<device::AttentionItem>& prefill_items() const { return prefill_items_; }
  const std::vector<int32_t>& decode_offsets() const { return decode_offsets_; }
  const std::vector<int32_t>& prefill_offsets() const { return prefill_offsets_; }
  const std::vector<device::AttentionMerge>& merges() const { return merges_; }
  const std::vector<int32_t>& tables() const { return tables_; }

 private:
  friend class PlanBuilder;
  std::vector<device::AttentionItem> decode_items_, prefill_items_;
  std::vector<int32_t> decode_offsets_, prefill_offsets_;
  std::vector<device::AttentionMerge> merges_;
  std::vector<int32_t> tables_;
  int32_t num_partial_rows_ = 0;
};

}  // namespace longhaul::cuda
