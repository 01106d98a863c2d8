#include "backend/cuda/forward_inputs.h"

#include <algorithm>
#include <cstring>

#include "attention_shapes.h"
#include "backend/cuda/row_bucket.h"

namespace longhaul::cuda {
namespace {

constexpr int64_t aligned(int64_t bytes) { return (bytes + 15) / 16 * 16; }

// Entries of a block table from the first that the rows see to the last that they store into.
struct TableRange {
  int32_t first = 0;
  int32_t end = 0;  // exclusive
};
TableRange table_range(const AttentionSequence& sequence, int32_t window, int32_t block_size) {
  const int32_t seen = window > 0 ? std::max(0, sequence.first_position - window + 1) : 0;
  const int32_t last = sequence.first_position + sequence.num_rows - 1;
  return {seen / block_size, last / block_size + 1};
}

}  // namespace

ForwardInputs::ForwardInputs(const Options& options)
    : options_(options), groups_(options.group_windows.size()) {
  for (size_t i = 0; i < groups_.size(); ++i) groups_[i].window = options.group_windows[i];
}

AttentionPlanOptions ForwardInputs::options_of(const Group& group) const {
  AttentionPlanOptions options = options_.attention;
  options.window = group.window;
  options.table_offsets = group.table_offsets.data();
  return options;
}

// Prefill: a tile for so many packed rows of each kv head, and one more for each sequence's last;
// where keys are cut, there were fewer tiles than blocks, and no more than two pieces a block come
// of it. A merge has at least one partial row to itself.
AttentionCounts ForwardInputs::counts_max() const {
  const AttentionPlanOptions& attention = options_.attention;
  const int32_t group = attention.num_heads / attention.num_kv_heads;
  const int32_t tile = device::attention_prefill_rows(attention.head_dim);
  AttentionCounts counts = decode_counts_max(options_.num_slots, 0, attention);
  const int64_t packed = int64_t{options_.num_tokens_max} * group;
  counts.prefill_items = static_cast<int32_t>(
      (packed / tile + options_.num_slots) * attention.num_kv_heads + 2 * attention.grids.prefill);
  counts.merges =
      std::max(counts.merges, attention.partial_row_end - attention.partial_row_begin);
  return counts;
}

int64_t ForwardInputs::bytes_max() const {
  const int64_t rows = row_bucket(std::max(options_.num_tokens_max, options_.num_slots));
  const int64_t block_size = options_.attention.block_size;
  const AttentionLayout any(counts_max(), options_.attention.grids);
  const AttentionLayout decode(
      decode_counts_max(row_bucket(options_.num_slots), 0, options_.attention),
      options_.attention.grids);
  const int64_t lists = aligned(std::max(any.bytes, decode.bytes));
  int64_t bytes = 2 * aligned(rows * 4);
  for (const Group& group : groups_) {
    bytes += aligned(rows * 8) + lists;
    // Rows of a step lie within so many blocks beside those that are seen before them.
    const int64_t whole = options_.max_position / block_size + 1;
    const int64_t windowed = group.window / block_size + 2;
    const int64_t entries = group.window > 0 ? std::min(whole, windowed) : whole;
    bytes += (options_.num_slots * entries + options_.num_tokens_max / block_size + 1) * 4;
  }
  return bytes;
}

void ForwardInputs::plan(const StepInputs& inputs, int32_t bucket, bool fixed, std::byte* device) {
  bucket_ = bucket;
  device_ = device;
  positions_ = aligned(int64_t{bucket} * 4);
  int64_t offset = positions_ + aligned(int64_t{bucket} * 4);
  tables_.clear();
  for (size_t i = 0; i < groups_.size(); ++i) {
    Group& group = groups_[i];
    const StepGroup& step = inputs.groups[i];
    add_tables(step, group);
    const AttentionPlanOptions options = options_of(group);
    group.plan.build(step.work->sequences, options);
    group.layout = AttentionLayout(
        fixed ? decode_counts_max(bucket, 0, options) : group.plan.counts(), options.grids);
    group.slot_mapping = offset;
    group.lists = offset + aligned(int64_t{bucket} * 8);
    offset = group.lists + aligned(group.layout.bytes);
  }
  tables_at_ = offset;
}

void ForwardInputs::add_tables(const StepGroup& step, Group& group) {
  group.table_offsets.clear();
  for (const AttentionSequence& sequence : step.work->sequences) {
    const TableRange range =
        table_range(sequence, group.window, options_.attention.block_size);
    group.table_offsets.push_back(static_cast<int32_t>(tables_.size()) - range.first);
    tables_.insert(tables_.end(), sequence.block_table + range.first,
                   sequence.block_table + range.end);
  }
}

int64_t ForwardInputs::bytes() const {
  return tables_at_ + static_cast<int64_t>(tables_.size()) * 4;
}

void ForwardInputs::encode(const StepInputs& inputs, std::byte* to) const {
  const auto rows = static_cast<size_t>(inputs.num_tokens);
  const auto padding = static_cast<size_t>(bucket_) - rows;
  const auto copy = [&](int64_t offset, const void* from, size_t element, int fill) {
    std::byte* const out = to + offset;
    if (rows > 0) std::memcpy(out, from, rows * element);
    std::memset(out + rows * element, fill, padding * element);
  };
  copy(0, inputs.token_ids, sizeof(int32_t), 0);
  copy(positions_, inputs.positions, sizeof(int32_t), 0);
  for (size_t i = 0; i < groups_.size(); ++i) {
    const Group& group = groups_[i];
    copy(group.slot_mapping, inputs.groups[i].slot_mapping, sizeof(int64_t), 0xff);  // -1
    group.plan.encode(group.layout, to + group.lists);
  }
  if (!tables_.empty()) {
    std::memcpy(to + tables_at_, tables_.data(), tables_.size() * sizeof(int32_t));
  }
}

device::AttentionLists ForwardInputs::lists(int32_t group) const {
  const Group& one = groups_[static_cast<size_t>(group)];
  return one.layout.lists(device_ + one.lists, at<int32_t>(tables_at_));
}

}  // namespace longhaul::cuda
