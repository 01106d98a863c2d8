// ForwardInputs: a step's rows and attention lists as one run of bytes for the device:
//
//   token ids | positions | slot mappings, one a group | attention lists, one a group | block tables
//
// The bytes are written on the host, copied, and end at one place on the device where kernels read
// them, the same for every step: decode steps of one bucket have their arrays at the same offsets,
// because a graph keeps the addresses it was recorded with. Tables come last, so that their length
// moves nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/attention_plan.h"

namespace longhaul::cuda {

class ForwardInputs {
 public:
  struct Options {
    std::vector<int32_t> group_windows;
    AttentionPlanOptions attention;   // window and table_offsets are set for each group
    int32_t num_tokens_max = 0;
    int32_t num_slots = 0;
    int32_t max_position = 0;
  };
  explicit ForwardInputs(const Options& options);

  // No step has more.
  int64_t bytes_max() const;

  // Lists and layout of a step that is computed with `bucket` rows, at `device`. `fixed`: a decode
  // step, laid out by its bucket alone.
  void plan(const StepInputs& inputs, int32_t bucket, bool fixed, std::byte* device);
  // Of the last plan.
  int64_t bytes() const;
  void encode(const StepInputs& inputs, std::byte* to) const;

  const int32_t* token_ids() const { return at<int32_t>(0); }
  const int32_t* positions() const { return at<int32_t>(positions_); }
  const int64_t* slot_mapping(int32_t group) const {
    return at<int64_t>(groups_[static_cast<size_t>(group)].slot_mapping);
  }
  int32_t window(int32_t group) const { return groups_[static_cast<size_t>(group)].window; }
  device::AttentionLists lists(int32_t group) const;
  // Which kernels have anything to do; in a fixed layout they may have it in another step.
  bool has_prefill(int32_t group) const { return has(group, &AttentionCounts::prefill_items); }
  bool has_decode(int32_t group) const { return has(group, &AttentionCounts::decode_items); }
  bool has_merges(int32_t group) const { return has(group, &AttentionCounts::merges); }

 private:
  struct Group {
    int32_t window = 0;
    AttentionPlan plan;
    AttentionLayout layout;
    std::vector<int32_t> table_offsets;   // [sequences], may be negative
    int64_t slot_mapping = 0;             // offsets from the start
    int64_t lists = 0;
  };

  template <typename T>
  const T* at(int64_t offset) const {
    return reinterpret_cast<const T*>(device_ + offset);
  }
  bool has(int32_t group, int32_t AttentionCounts::*count) const {
    return groups_[static_cast<size_t>(group)].layout.counts.*count > 0;
  }
  AttentionPlanOptions options_of(const Group& group) const;
  void add_tables(const StepGroup& step, Group& group);
  AttentionCounts counts_max() const;

  Options options_;
  std::vector<Group> groups_;
  std::vector<int32_t> tables_;   // of all groups and sequences
  int32_t bucket_ = 0;
  int64_t positions_ = 0;
  int64_t tables_at_ = 0;
  std::byte* device_ = nullptr;
};

}  // namespace longhaul::cuda
