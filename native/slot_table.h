// SlotTable: what native code remembers of running sequences between steps: their block tables,
// sampling parameters and token counts. One plan's operations are applied as a transaction, so that
// a plan found wrong halfway leaves no trace.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "step_plan.h"

namespace longhaul {

struct BlockTable {
  std::vector<int32_t> ids;   // entry i holds tokens [i * block_size, ...); -1 = no block
  int32_t dropped = 0;        // entries before this were dropped
  int32_t holes_end = 0;      // one past the last -1 entry; later entries are all valid
};

struct SlotState {
  bool open = false;
  int32_t sequence_id = -1;
  int64_t generation = 0;      // of the slot: no two openings have the same; 0 = closed
  SamplingParams sampling;
  bool counts_needed = false;  // some penalty is on
  TokenCounts counts;
  bool has_sampled = false;    // the backend knows this slot's last token
  bool not_finite = false;     // its logits held NaN: there will be no further token
  std::vector<BlockTable> tables;  // one a KV group
};

// Counts one more generated token, keeping the order TokenCounts promises.
void count_output(TokenCounts& counts, int32_t token_id);

class SlotTable {
 public:
  SlotTable(int32_t num_slots, std::vector<int32_t> group_windows, int32_t block_size);

  // Runs the plan's operations in order. On failure everything is as before and the status is
  // kInvalidRequest. On success the changes stand until rollback() or commit().
  Status apply(const StepPlan& plan);
  // Appends (slot, sequence id) of each closed sequence to `closed`.
  void commit(std::vector<std::pair<int32_t, int32_t>>* closed);
  void rollback();

  // The row's slot holds this sequence, and every block its tokens are written to or its queries
  // can see is there.
  Status check_row(const PlanSequence& row) const;

  SlotState& operator[](int32_t slot) { return slots_[static_cast<size_t>(slot)]; }
  const SlotState& operator[](int32_t slot) const { return slots_[static_cast<size_t>(slot)]; }

 private:
  // How to take one operation back.
  struct Undo {
    int32_t opcode = 0;
    int32_t slot = 0;
    int32_t group = 0;
    int32_t first = 0;            // first changed entry
    int32_t dropped = 0;          // as it was
    int32_t holes_end = 0;        // as it was
    std::vector<int32_t> ids;     // overwritten entries
    SlotState state;              // kOpClose: what was closed
  };

  Status open(const PlanOpen& open);
  Status change(const PlanTableOp& op);
  Status append(const PlanTableOp& op, BlockTable& table);
  Status replace_range(const PlanTableOp& op, BlockTable& table);
  Status drop_prefix(const PlanTableOp& op, BlockTable& table);
  // Entry for `op` holding [first, last) of the table as it is now.
  void remember(const PlanTableOp& op, const BlockTable& table, int32_t first, int32_t last);

  std::vector<SlotState> slots_;
  std::vector<int32_t> group_windows_;
  int32_t block_size_ = 0;
  int64_t next_generation_ = 1;
  std::vector<Undo> undo_;
};

}  // namespace longhaul
