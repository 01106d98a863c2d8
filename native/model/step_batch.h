// StepBatch: the rows of one step as the decoder sees them: token ids, positions, and for each KV
// group where rows are stored and what they attend to. Built once a step into reused buffers and
// rebuilt when rows of aborted sequences leave.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/attention_work.h"
#include "backend/backend.h"

namespace longhaul {

// Rows [first_row, first_row + num_rows) belong to one sequence, at consecutive positions.
struct BatchSequence {
  int32_t record = 0;          // the caller's index
  int32_t slot = 0;
  int32_t sequence_id = 0;
  int32_t first_row = 0;
  int32_t num_rows = 0;
  int32_t first_position = 0;
};

struct BatchGroup {
  int32_t window = 0;
  AttentionWork work;
  std::vector<int64_t> slot_mapping;  // [num_rows()] block_id * block_size + offset
};

class StepBatch {
 public:
  struct Options {
    std::vector<int32_t> group_windows;
    int32_t block_size = 32;
    AttentionWorkOptions attention;
    bool plans_attention = true;  // false: the backend does; groups name their sequences only
  };
  explicit StepBatch(const Options& options);

  void clear();
  // Adds a sequence's rows after the ones present. token_ids and positions [num_rows]; `tables`
  // holds one block table a group, valid until the step ends and long enough for the rows. A token
  // of kTokenFromSlot is turned into what backends expect.
  void add(BatchSequence sequence, const int32_t* token_ids, const int32_t* positions,
           std::span<const std::span<const int32_t>> tables);
  // Slot mappings and attention work of the rows present.
  void finish();
  // Drops all sequences but sequences()[kept[i]] (ascending) and finishes again. Returns the rows
  // that stay, by their old index, ascending.
  std::span<const int32_t> keep(std::span<const int32_t> kept);

  int32_t num_rows() const { return static_cast<int32_t>(token_ids_.size()); }
  const std::vector<BatchSequence>& sequences() const { return sequences_; }
  // The rows present, as of the last finish().
  const StepInputs& inputs() const { return inputs_; }

 private:
  Options options_;
  std::vector<BatchSequence> sequences_;
  std::vector<int32_t> token_ids_;
  std::vector<int32_t> positions_;
  // [sequences * groups] tables, sequence by sequence.
  std::vector<std::span<const int32_t>> tables_;
  std::vector<BatchGroup> groups_;
  std::vector<StepGroup> step_groups_;  // [groups_]
  StepInputs inputs_;
  std::vector<int32_t> kept_rows_;
};

}  // namespace longhaul
