// AttentionWork: one KV group's attention of a step as a balanced list of items. Backend-neutral;
// built once a step and group, used by every layer of the group.
//
// Arithmetic contract (what makes output independent of batch, chunking and threads): the keys of
// a row are cut into slices of kSliceTokens at absolute positions. A slice's partial (o, m, l) is
// computed alone; a row's partials are merged in ascending slice order, left to right. How slices
// are spread over items never changes a bit.
#pragma once

#include <cstdint>
#include <vector>

namespace longhaul {

constexpr int32_t kSliceTokens = 512;  // multiple of every block size

// The rows one sequence brings to this step. Row r of the step (first_row <= r < first_row +
// num_rows) sits at position first_position + (r - first_row) and sees keys
// [max(0, position - window + 1), position], all stored in the blocks of its table.
struct AttentionSequence {
  int32_t first_row = 0;
  int32_t num_rows = 0;
  int32_t first_position = 0;
  const int32_t* block_table = nullptr;  // entry i holds tokens [i * block_size, ...); entries
                                         // wholly before the window may be -1
  int32_t num_blocks = 0;
};

enum class SegmentKind : int32_t { kPaged = 0 };  // context and gather segments come later

// Query rows [row_begin, row_begin + num_rows) of one sequence against slices
// [slice_begin, slice_end), for every kv head; all query heads of a kv head go together.
struct AttentionItem {
  SegmentKind kind = SegmentKind::kPaged;
  int32_t sequence = 0;
  int32_t row_begin = 0;       // step row
  int32_t num_rows = 0;
  int32_t slice_begin = 0;
  int32_t slice_end = 0;       // exclusive
  // -1: the item holds all slices of its rows, folds them in order and writes the output itself.
  // Otherwise partial (slice, row) goes to first_partial + (slice - slice_begin) * num_rows + row.
  int32_t first_partial = -1;
};

// A row whose slices were spread over items: combine reads partial_indices[first .. first + count)
// in that (ascending slice) order.
struct AttentionCombine {
  int32_t row = 0;
  int32_t first = 0;
  int32_t count = 0;
};

struct AttentionWork {
  int32_t window = 0;  // 0 = full attention
  int32_t block_size = 32;
  std::vector<AttentionSequence> sequences;
  std::vector<AttentionItem> items;       // heaviest first
  std::vector<AttentionCombine> combines;
  std::vector<int32_t> partial_indices;
  int32_t num_partials = 0;               // scratch: num_partials * num_heads * (head_dim + 2) floats
};

struct AttentionWorkOptions {
  int32_t num_kv_heads = 1;   // items * num_kv_heads units run in parallel
  int32_t parallelism = 1;    // workers of the backend
  int32_t max_partials = 0;   // scratch limit; the builder stays within it
};

// Fills items, combines, partial_indices and num_partials from sequences, window and block_size.
void build_attention_work(AttentionWork& work, const AttentionWorkOptions& options);

}  // namespace longhaul
