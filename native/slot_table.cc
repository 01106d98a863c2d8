#include "slot_table.h"

#include <algorithm>

namespace longhaul {
namespace {

TokenCounts counts_of(const PlanOpen& open) {
  TokenCounts counts;
  const size_t num_prompt = std::min(open.history.size(),
                                     static_cast<size_t>(open.sampling.num_prompt_tokens));
  counts.prompt.assign(open.history.begin(), open.history.begin() + static_cast<int64_t>(num_prompt));
  std::sort(counts.prompt.begin(), counts.prompt.end());
  counts.prompt.erase(std::unique(counts.prompt.begin(), counts.prompt.end()), counts.prompt.end());
  for (size_t i = num_prompt; i < open.history.size(); ++i) count_output(counts, open.history[i]);
  return counts;
}

int32_t holes_end_of(const BlockTable& table) {
  int32_t end = static_cast<int32_t>(table.ids.size());
  while (end > 0 && table.ids[static_cast<size_t>(end) - 1] >= 0) --end;
  return end;
}

}  // namespace

void count_output(TokenCounts& counts, int32_t token_id) {
  const auto at = std::lower_bound(
      counts.output.begin(), counts.output.end(), token_id,
      [](const std::pair<int32_t, int32_t>& entry, int32_t id) { return entry.first < id; });
  if (at != counts.output.end() && at->first == token_id) {
    ++at->second;
  } else {
    counts.output.insert(at, {token_id, 1});
  }
}

SlotTable::SlotTable(int32_t num_slots, std::vector<int32_t> group_windows, int32_t block_size)
    : slots_(static_cast<size_t>(num_slots)),
      group_windows_(std::move(group_windows)),
      block_size_(block_size) {}

Status SlotTable::apply(const StepPlan& plan) {
  undo_.clear();
  for (const int32_t entry : plan.order) {
    const Status status = entry >= 0 ? open(plan.opens[static_cast<size_t>(entry)])
                                     : change(plan.table_ops[static_cast<size_t>(~entry)]);
    if (status.ok()) continue;
    rollback();
    return status;
  }
  return {};
}

Status SlotTable::open(const PlanOpen& open) {
  SlotState& state = (*this)[open.slot];
  if (state.open) {
    return error(ErrorCode::kInvalidRequest,
                 "step plan: OPEN of slot %d for sequence %d: the slot holds sequence %d", open.slot,
                 open.sequence_id, state.sequence_id);
  }
  state = SlotState{};
  state.open = true;
  state.generation = next_generation_++;
  state.sequence_id = open.sequence_id;
  state.sampling = open.sampling;
  state.tables.resize(group_windows_.size());
  state.counts_needed = open.sampling.repetition_penalty != 1.0f ||
                        open.sampling.frequency_penalty != 0.0f ||
                        open.sampling.presence_penalty != 0.0f;
  if (state.counts_needed) state.counts = counts_of(open);
  Undo undo;
  undo.opcode = kOpOpen;
  undo.slot = open.slot;
  undo_.push_back(std::move(undo));
  return {};
}

Status SlotTable::change(const PlanTableOp& op) {
  SlotState& state = (*this)[op.slot];
  if (!state.open) {
    return error(ErrorCode::kInvalidRequest, "step plan: operation %d: slot %d is not open",
                 op.opcode, op.slot);
  }
  if (op.opcode == kOpClose) {
    Undo undo;
    undo.opcode = kOpClose;
    undo.slot = op.slot;
    undo.state = std::exchange(state, SlotState{});
    undo_.push_back(std::move(undo));
    return {};
  }
  BlockTable& table = state.tables[static_cast<size_t>(op.group)];
  if (op.opcode == kOpAppend) return append(op, table);
  if (op.opcode == kOpReplaceRange) return replace_range(op, table);
  return drop_prefix(op, table);
}

void SlotTable::remember(const PlanTableOp& op, const BlockTable& table, int32_t first,
                         int32_t last) {
  Undo undo;
  undo.opcode = op.opcode;
  undo.slot = op.slot;
  undo.group = op.group;
  undo.first = first;
  undo.dropped = table.dropped;
  undo.holes_end = table.holes_end;
  undo.ids.assign(table.ids.begin() + first, table.ids.begin() + last);
  undo_.push_back(std::move(undo));
}

Status SlotTable::append(const PlanTableOp& op, BlockTable& table) {
  const int32_t size = static_cast<int32_t>(table.ids.size());
  // Decoding bounds one append; tables are bounded here, so that none can grow without end.
  constexpr int32_t kEntriesMax = 1 << 26;
  if (op.count > kEntriesMax - size) {
    return error(ErrorCode::kInvalidRequest,
                 "step plan: APPEND to slot %d group %d: expected at most %d entries, found %lld",
                 op.slot, op.group, kEntriesMax, static_cast<long long>(size) + op.count);
  }
  remember(op, table, size, size);
  table.ids.insert(table.ids.end(), op.block_ids, op.block_ids + op.count);
  for (int32_t i = 0; i < op.count; ++i) {
    if (op.block_ids[i] < 0) table.holes_end = size + i + 1;
  }
  return {};
}

Status SlotTable::replace_range(const PlanTableOp& op, BlockTable& table) {
  const int64_t end = int64_t{op.first_index} + op.count;
  if (end > static_cast<int64_t>(table.ids.size())) {
    return error(ErrorCode::kInvalidRequest,
                 "step plan: REPLACE_RANGE of slot %d group %d: expected a range within %zu "
                 "entries, found [%d, %lld)",
                 op.slot, op.group, table.ids.size(), op.first_index, static_cast<long long>(end));
  }
  remember(op, table, op.first_index, static_cast<int32_t>(end));
  std::copy(op.block_ids, op.block_ids + op.count, table.ids.begin() + op.first_index);
  if (op.count > 0) table.dropped = std::min(table.dropped, op.first_index);
  table.holes_end = holes_end_of(table);
  return {};
}

Status SlotTable::drop_prefix(const PlanTableOp& op, BlockTable& table) {
  if (op.count > static_cast<int64_t>(table.ids.size())) {
    return error(ErrorCode::kInvalidRequest,
                 "step plan: DROP_PREFIX of slot %d group %d: expected at most %zu entries, found %d",
                 op.slot, op.group, table.ids.size(), op.count);
  }
  const int32_t first = std::min(table.dropped, op.count);
  remember(op, table, first, op.count);
  std::fill(table.ids.begin() + first, table.ids.begin() + op.count, -1);
  table.dropped = std::max(table.dropped, op.count);
  table.holes_end = std::max(table.holes_end, op.count);
  return {};
}

void SlotTable::commit(std::vector<std::pair<int32_t, int32_t>>* closed) {
  for (const Undo& undo : undo_) {
    if (undo.opcode == kOpClose) closed->emplace_back(undo.slot, undo.state.sequence_id);
  }
  undo_.clear();
}

void SlotTable::rollback() {
  for (; !undo_.empty(); undo_.pop_back()) {
    Undo& undo = undo_.back();
    SlotState& state = (*this)[undo.slot];
    if (undo.opcode == kOpOpen) {
      state = SlotState{};
      continue;
    }
    if (undo.opcode == kOpClose) {
      state = std::move(undo.state);
      continue;
    }
    BlockTable& table = state.tables[static_cast<size_t>(undo.group)];
    if (undo.opcode == kOpAppend) table.ids.resize(static_cast<size_t>(undo.first));
    std::copy(undo.ids.begin(), undo.ids.end(), table.ids.begin() + undo.first);
    table.dropped = undo.dropped;
    table.holes_end = undo.holes_end;
  }
}

Status SlotTable::check_row(const PlanSequence& row) const {
  const SlotState& state = (*this)[row.slot];
  if (!state.open || state.sequence_id != row.sequence_id) {
    return error(ErrorCode::kInvalidRequest,
                 "step plan: row of slot %d: expected sequence %d, found %d", row.slot,
                 state.open ? state.sequence_id : -1, row.sequence_id);
  }
  const int64_t end = int64_t{row.start_position} + row.num_tokens;
  for (size_t group = 0; group < state.tables.size(); ++group) {
    const BlockTable& table = state.tables[group];
    const int64_t covered = static_cast<int64_t>(table.ids.size()) * block_size_;
    if (end > covered) {
      return error(ErrorCode::kInvalidRequest,
                   "step plan: row of slot %d: positions to %lld, but the block table of group %zu "
                   "covers %lld",
                   row.slot, static_cast<long long>(end), group, static_cast<long long>(covered));
    }
    const int32_t window = group_windows_[group];
    const int32_t first_visible = window > 0 ? std::max(0, row.start_position - window + 1) : 0;
    if (first_visible / block_size_ < table.holes_end) {
      return error(ErrorCode::kInvalidRequest,
                   "step plan: row of slot %d: position %d of group %zu is visible, but blocks "
                   "before entry %d are not there",
                   row.slot, first_visible, group, table.holes_end);
    }
  }
  return {};
}

}  // namespace longhaul
