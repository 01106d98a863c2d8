#include "step_runner.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace longhaul {
namespace {

// An answer nobody wrote: the row's sequence was aborted before its logits were looked at.
constexpr int32_t kNoAnswer = -2;

int32_t micros_since(std::chrono::steady_clock::time_point start) {
  const auto elapsed = std::chrono::steady_clock::now() - start;
  const int64_t micros = std::chrono::duration_cast<std::chrono::microseconds>(elapsed).count();
  return static_cast<int32_t>(std::min<int64_t>(micros, INT32_MAX));
}

}  // namespace

StepRunner::StepRunner(Backend& backend, Decoder& decoder, AbortList& aborts,
                       const PlanLimits& limits, const StepBatch::Options& batch)
    : backend_(backend),
      decoder_(decoder),
      aborts_(aborts),
      limits_(limits),
      slots_(limits.num_slots, batch.group_windows, batch.block_size),
      batch_(batch) {}

Status StepRunner::run(std::span<const int32_t> packet, std::vector<int32_t>* result,
                       bool* fatal) {
  const auto start = std::chrono::steady_clock::now();
  *fatal = false;
  aborts_.changed();
  LH_TRY(decode_step_plan(packet, limits_, &plan_));
  LH_TRY(slots_.apply(plan_));
  if (Status status = check_rows(); !status.ok()) {
    slots_.rollback();
    return status;
  }
  std::vector<std::pair<int32_t, int32_t>> closed;
  slots_.commit(&closed);
  for (const auto& [slot, sequence_id] : closed) aborts_.remove(slot, sequence_id);

  *fatal = true;
  LH_TRY(compute());
  settle();
  std::vector<StepRecord> records;
  StepTotals totals;
  for (size_t i = 0; i < plan_.sequences.size(); ++i) {
    records.push_back(record_of(i));
    if (outcomes_[i].computed) totals.num_tokens += plan_.sequences[i].num_tokens;
  }
  totals.step_id = plan_.step_id;
  totals.attention_micros =
      static_cast<int32_t>(std::min<int64_t>(decoder_.take_attention_micros(), INT32_MAX));
  totals.elapsed_micros = micros_since(start);
  *result = encode_step_result(totals, records);
  *fatal = false;
  return {};
}

Status StepRunner::check_rows() const {
  for (const PlanSequence& row : plan_.sequences) {
    LH_TRY(slots_.check_row(row));
    const SlotState& state = slots_[row.slot];
    const bool runs = !state.not_finite && !aborts_.is_aborted(row.slot, row.sequence_id);
    const auto tokens = plan_.tokens.subspan(static_cast<size_t>(row.first_row),
                                             static_cast<size_t>(row.num_tokens));
    for (int32_t i = 0; i < row.num_tokens; ++i) {
      if (tokens[static_cast<size_t>(i)] != kTokenFromSlot) continue;
      if (runs && !state.has_sampled) {
        return error(ErrorCode::kInvalidRequest,
                     "step plan: row of slot %d: a token from the slot, but sequence %d has not "
                     "sampled one",
                     row.slot, row.sequence_id);
      }
      if (i > 0 && (row.flags & kFlagPromptLogprobs) != 0) {
        return error(ErrorCode::kInvalidRequest,
                     "step plan: row of slot %d: prompt log-probabilities need known tokens, found "
                     "one from the slot",
                     row.slot);
      }
    }
  }
  return {};
}

Status StepRunner::compute() {
  if (!plan_.copies.empty()) LH_TRY(backend_.copy_blocks(plan_.copies));
  build_batch();
  LH_TRY(decoder_.forward(batch_, aborts_));
  build_requests();
  LH_TRY(decoder_.sample(batch_, requests_, aborts_));
  return backend_.finish_step();
}

void StepRunner::build_batch() {
  outcomes_.assign(plan_.sequences.size(), Outcome{});
  batch_.clear();
  for (size_t i = 0; i < plan_.sequences.size(); ++i) {
    const PlanSequence& row = plan_.sequences[i];
    const SlotState& state = slots_[row.slot];
    outcomes_[i].not_finite = state.not_finite;
    if (state.not_finite || aborts_.is_aborted(row.slot, row.sequence_id)) continue;
    tables_.clear();
    for (const BlockTable& table : state.tables) tables_.push_back(table.ids);
    BatchSequence sequence;
    sequence.record = static_cast<int32_t>(i);
    sequence.slot = row.slot;
    sequence.sequence_id = row.sequence_id;
    sequence.num_rows = row.num_tokens;
    sequence.first_position = row.start_position;
    batch_.add(sequence, plan_.tokens.data() + row.first_row,
               plan_.positions.data() + row.first_row, tables_);
  }
  batch_.finish();
}

void StepRunner::build_requests() {
  requests_.clear();
  request_outcomes_.clear();
  size_t num_top = 0;
  for (size_t i = 0; i < batch_.sequences().size(); ++i) {
    const BatchSequence& sequence = batch_.sequences()[i];
    const PlanSequence& row = plan_.sequences[static_cast<size_t>(sequence.record)];
    const SamplingParams& sampling = slots_[row.slot].sampling;
    Outcome& outcome = outcomes_[static_cast<size_t>(sequence.record)];
    outcome.computed = true;
    if ((row.flags & kFlagPromptLogprobs) != 0) {
      outcome.num_prompt_top = std::max(0, sampling.num_prompt_logprobs);
      outcome.prompt = requests_.size();
      outcome.prompt_top = num_top;
      add_prompt_requests(i);
      num_top += static_cast<size_t>(outcome.num_prompt_rows) *
                 static_cast<size_t>(outcome.num_prompt_top);
    }
    if ((row.flags & kFlagSample) != 0) {
      outcome.num_top = std::max(0, sampling.num_logprobs);
      outcome.sampled = requests_.size();
      outcome.top = num_top;
      add_sample_request(i);
      num_top += static_cast<size_t>(outcome.num_top);
    }
  }

  // Sizes are final: outputs may be pointed to.
  answers_.assign(requests_.size(), TokenLogprob{kNoAnswer, 0, 0});
  top_.assign(num_top, TokenLogprob{});
  finite_.assign(requests_.size(), Flag{});
  size_t next_top = 0;
  for (size_t i = 0; i < requests_.size(); ++i) {
    SampleRow& row = requests_[i].row;
    row.token = &answers_[i];
    row.finite = &finite_[i].value;
    row.top = row.num_top > 0 ? &top_[next_top] : nullptr;
    next_top += static_cast<size_t>(row.num_top);
  }
}

void StepRunner::add_prompt_requests(size_t batch_index) {
  const BatchSequence& sequence = batch_.sequences()[batch_index];
  const size_t record = static_cast<size_t>(sequence.record);
  const PlanSequence& row = plan_.sequences[record];
  const SlotState& state = slots_[row.slot];
  for (int32_t i = 0; i < row.num_tokens; ++i) {
    const bool last = i + 1 == row.num_tokens;
    const int32_t known =
        last ? row.next_token : plan_.tokens[static_cast<size_t>(row.first_row + i + 1)];
    if (known < 0) continue;
    LogitsRequest request;
    request.sequence = static_cast<int32_t>(batch_index);
    request.step_row = sequence.first_row + i;
    request.row.slot = row.slot;
    request.row.position = row.start_position + i + 1;
    request.row.sample = false;
    request.row.known_token = known;
    request.row.params = &state.sampling;
    request.row.num_top = outcomes_[record].num_prompt_top;
    requests_.push_back(request);
    request_outcomes_.push_back(record);
    ++outcomes_[record].num_prompt_rows;
  }
}

void StepRunner::add_sample_request(size_t batch_index) {
  const BatchSequence& sequence = batch_.sequences()[batch_index];
  const size_t record = static_cast<size_t>(sequence.record);
  const PlanSequence& row = plan_.sequences[record];
  const SlotState& state = slots_[row.slot];
  LogitsRequest request;
  request.sequence = static_cast<int32_t>(batch_index);
  request.step_row = sequence.first_row + sequence.num_rows - 1;
  request.row.slot = row.slot;
  request.row.position = row.start_position + row.num_tokens;
  request.row.sample = true;
  request.row.params = &state.sampling;
  request.row.counts = state.counts_needed ? &state.counts : nullptr;
  request.row.num_top = outcomes_[record].num_top;
  requests_.push_back(request);
  request_outcomes_.push_back(record);
}

void StepRunner::settle() {
  for (size_t i = 0; i < requests_.size(); ++i) {
    Outcome& outcome = outcomes_[request_outcomes_[i]];
    if (answers_[i].token_id == kNoAnswer) {
      outcome.skipped = true;
    } else if (!finite_[i].value) {
      outcome.not_finite = true;
    }
  }
  for (size_t i = 0; i < plan_.sequences.size(); ++i) {
    const PlanSequence& row = plan_.sequences[i];
    const Outcome& outcome = outcomes_[i];
    SlotState& state = slots_[row.slot];
    if (outcome.not_finite) state.not_finite = true;
    if (!outcome.computed || outcome.skipped || outcome.not_finite) continue;
    if ((row.flags & kFlagSample) == 0) continue;
    state.has_sampled = true;
    if (state.counts_needed) count_output(state.counts, answers_[outcome.sampled].token_id);
  }
}

StepRecord StepRunner::record_of(size_t index) const {
  const PlanSequence& row = plan_.sequences[index];
  const Outcome& outcome = outcomes_[index];
  StepRecord record;
  record.slot = row.slot;
  record.sequence_id = row.sequence_id;
  if (outcome.not_finite) {
    record.status = kRecordNotFinite;
    return record;
  }
  if (!outcome.computed || outcome.skipped) {
    record.status = kRecordAborted;
    return record;
  }
  const std::span<const TokenLogprob> answers(answers_), top(top_);
  if ((row.flags & kFlagSample) != 0) {
    record.sampled = answers.subspan(outcome.sampled, 1);
    record.num_top = outcome.num_top;
    record.top = top.subspan(outcome.top, static_cast<size_t>(outcome.num_top));
  }
  if (outcome.num_prompt_rows > 0) {
    const size_t rows = static_cast<size_t>(outcome.num_prompt_rows);
    record.prompt = answers.subspan(outcome.prompt, rows);
    record.num_prompt_top = outcome.num_prompt_top;
    record.prompt_top =
        top.subspan(outcome.prompt_top, rows * static_cast<size_t>(outcome.num_prompt_top));
  }
  return record;
}

}  // namespace longhaul
