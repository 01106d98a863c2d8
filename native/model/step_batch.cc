#include "model/step_batch.h"

namespace longhaul {

StepBatch::StepBatch(const Options& options)
    : options_(options),
      groups_(options.group_windows.size()),
      step_groups_(options.group_windows.size()) {
  for (size_t i = 0; i < groups_.size(); ++i) {
    groups_[i].window = options.group_windows[i];
    groups_[i].work.window = options.group_windows[i];
    groups_[i].work.block_size = options.block_size;
  }
}

void StepBatch::clear() {
  sequences_.clear();
  token_ids_.clear();
  positions_.clear();
  tables_.clear();
}

void StepBatch::add(BatchSequence sequence, const int32_t* token_ids, const int32_t* positions,
                    std::span<const std::span<const int32_t>> tables) {
  sequence.first_row = num_rows();
  for (int32_t i = 0; i < sequence.num_rows; ++i) {
    // A negative token names the slot whose last token is meant.
    token_ids_.push_back(token_ids[i] >= 0 ? token_ids[i] : -1 - sequence.slot);
    positions_.push_back(positions[i]);
  }
  tables_.insert(tables_.end(), tables.begin(), tables.end());
  sequences_.push_back(sequence);
}

void StepBatch::finish() {
  const int32_t block_size = options_.block_size;
  for (size_t g = 0; g < groups_.size(); ++g) {
    BatchGroup& group = groups_[g];
    group.slot_mapping.clear();
    group.work.sequences.clear();
    for (size_t s = 0; s < sequences_.size(); ++s) {
      const BatchSequence& sequence = sequences_[s];
      const std::span<const int32_t> table = tables_[s * groups_.size() + g];
      for (int32_t i = 0; i < sequence.num_rows; ++i) {
        const int32_t position = sequence.first_position + i;
        const int64_t block = table[static_cast<size_t>(position / block_size)];
        group.slot_mapping.push_back(block * block_size + position % block_size);
      }
      group.work.sequences.push_back({sequence.first_row, sequence.num_rows,
                                      sequence.first_position, table.data(),
                                      static_cast<int32_t>(table.size())});
    }
    if (options_.plans_attention) build_attention_work(group.work, options_.attention);
    step_groups_[g] = {group.slot_mapping.data(), &group.work};
  }
  inputs_.num_tokens = num_rows();
  inputs_.token_ids = token_ids_.data();
  inputs_.positions = positions_.data();
  inputs_.decode_only = sequences_.size() == token_ids_.size();
  inputs_.groups = step_groups_;
}

std::span<const int32_t> StepBatch::keep(std::span<const int32_t> kept) {
  kept_rows_.clear();
  size_t next_sequence = 0;
  for (const int32_t index : kept) {
    BatchSequence sequence = sequences_[static_cast<size_t>(index)];
    const int32_t first_row = static_cast<int32_t>(kept_rows_.size());
    for (int32_t i = 0; i < sequence.num_rows; ++i) {
      const size_t from = static_cast<size_t>(sequence.first_row + i);
      token_ids_[kept_rows_.size()] = token_ids_[from];
      positions_[kept_rows_.size()] = positions_[from];
      kept_rows_.push_back(static_cast<int32_t>(from));
    }
    sequence.first_row = first_row;
    for (size_t g = 0; g < groups_.size(); ++g) {
      tables_[next_sequence * groups_.size() + g] =
          tables_[static_cast<size_t>(index) * groups_.size() + g];
    }
    sequences_[next_sequence++] = sequence;
  }
  sequences_.resize(next_sequence);
  tables_.resize(next_sequence * groups_.size());
  token_ids_.resize(kept_rows_.size());
  positions_.resize(kept_rows_.size());
  finish();
  return kept_rows_;
}

}  // namespace longhaul
