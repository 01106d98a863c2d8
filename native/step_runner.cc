#include "step_runner.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace longhaul {
namespace {

int32_t clamp_micros(int64_t micros) {
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

Status StepRunner::start(std::span<const int32_t> packet, bool* fatal) {
  Step& step = in_flight(num_steps_);
  step.started = Clock::now();
  step.settled = false;
  *fatal = false;
  aborts_.changed();
  LH_TRY(decode_step_plan(packet, limits_, &step.plan));
  for (size_t i = 0; i < num_steps_; ++i) {
    if (!needs_results(step.plan, in_flight(i))) continue;
    *fatal = true;
    LH_TRY(settle(in_flight(i)));
    *fatal = false;
  }
  LH_TRY(slots_.apply(step.plan));
  if (Status status = check_rows(step.plan); !status.ok()) {
    slots_.rollback();
    return status;
  }
  std::vector<std::pair<int32_t, int32_t>> closed;
  slots_.commit(&closed);
  for (const auto& [slot, sequence_id] : closed) aborts_.remove(slot, sequence_id);

  *fatal = true;
  LH_TRY(compute(step));
  *fatal = false;
  ++num_steps_;
  return {};
}

Result<bool> StepRunner::is_done() {
  Step& step = in_flight(0);
  if (step.settled) return true;
  return backend_.is_step_done(step.ticket);
}

Status StepRunner::finish(std::vector<int32_t>* result) {
  Step& step = in_flight(0);
  first_step_ = (first_step_ + 1) % steps_.size();
  --num_steps_;
  LH_TRY(settle(step));
  std::vector<StepRecord> records;
  StepTotals totals;
  for (size_t i = 0; i < step.plan.sequences.size(); ++i) {
    records.push_back(record_of(step, i));
    if (step.outcomes[i].computed) totals.num_tokens += step.plan.sequences[i].num_tokens;
  }
  totals.step_id = step.plan.step_id;
  totals.attention_micros = step.attention_micros;
  // A step queued behind another began when that one ended.
  const Clock::time_point now = Clock::now();
  const auto elapsed = now - std::max(step.started, last_finish_);
  totals.elapsed_micros =
      clamp_micros(std::chrono::duration_cast<std::chrono::microseconds>(elapsed).count());
  last_finish_ = now;
  *result = encode_step_result(totals, records);
  return {};
}

bool StepRunner::needs_results(const StepPlan& plan, const Step& running) const {
  if (running.settled) return false;
  for (const PlanSequence& row : plan.sequences) {
    const SlotState& state = slots_[row.slot];
    if ((row.flags & kFlagSample) == 0 || !state.counts_needed) continue;
    for (const PlanSequence& before : running.plan.sequences) {
      if (before.slot == row.slot && (before.flags & kFlagSample) != 0) return true;
    }
  }
  return false;
}

Status StepRunner::check_rows(const StepPlan& plan) const {
  for (const PlanSequence& row : plan.sequences) {
    LH_TRY(slots_.check_row(row));
    const SlotState& state = slots_[row.slot];
    const bool runs = !state.not_finite && !aborts_.is_aborted(row.slot, row.sequence_id);
    const auto tokens = plan.tokens.subspan(static_cast<size_t>(row.first_row),
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

Status StepRunner::compute(Step& step) {
  if (!step.plan.copies.empty()) LH_TRY(backend_.copy_blocks(step.plan.copies));
  build_batch(step);
  LH_TRY(decoder_.forward(batch_, aborts_));
  step.attention_micros = clamp_micros(decoder_.take_attention_micros());
  build_requests(step);
  LH_TRY(decoder_.sample(batch_, step.requests, aborts_));
  for (const LogitsRequest& request : step.requests) {
    if (request.taken && request.row.sample) slots_[request.row.slot].has_sampled = true;
  }
  LH_ASSIGN_OR_RETURN(step.ticket, backend_.end_step());
  return {};
}

void StepRunner::build_batch(Step& step) {
  step.outcomes.assign(step.plan.sequences.size(), Outcome{});
  batch_.clear();
  for (size_t i = 0; i < step.plan.sequences.size(); ++i) {
    const PlanSequence& row = step.plan.sequences[i];
    const SlotState& state = slots_[row.slot];
    step.outcomes[i].not_finite = state.not_finite;
    step.outcomes[i].generation = state.generation;
    if (state.not_finite || aborts_.is_aborted(row.slot, row.sequence_id)) continue;
    tables_.clear();
    for (const BlockTable& table : state.tables) tables_.push_back(table.ids);
    BatchSequence sequence;
    sequence.record = static_cast<int32_t>(i);
    sequence.slot = row.slot;
    sequence.sequence_id = row.sequence_id;
    sequence.num_rows = row.num_tokens;
    sequence.first_position = row.start_position;
    batch_.add(sequence, step.plan.tokens.data() + row.first_row,
               step.plan.positions.data() + row.first_row, tables_);
  }
  batch_.finish();
}

void StepRunner::build_requests(Step& step) {
  step.requests.clear();
  step.request_outcomes.clear();
  size_t num_top = 0;
  for (size_t i = 0; i < batch_.sequences().size(); ++i) {
    const BatchSequence& sequence = batch_.sequences()[i];
    const PlanSequence& row = step.plan.sequences[static_cast<size_t>(sequence.record)];
    const SamplingParams& sampling = slots_[row.slot].sampling;
    Outcome& outcome = step.outcomes[static_cast<size_t>(sequence.record)];
    outcome.computed = true;
    if ((row.flags & kFlagPromptLogprobs) != 0) {
      outcome.num_prompt_top = std::max(0, sampling.num_prompt_logprobs);
      outcome.prompt = step.requests.size();
      outcome.prompt_top = num_top;
      add_prompt_requests(step, i);
      num_top += static_cast<size_t>(outcome.num_prompt_rows) *
                 static_cast<size_t>(outcome.num_prompt_top);
    }
    if ((row.flags & kFlagSample) != 0) {
      outcome.num_top = std::max(0, sampling.num_logprobs);
      outcome.sampled = step.requests.size();
      outcome.top = num_top;
      add_sample_request(step, i);
      num_top += static_cast<size_t>(outcome.num_top);
    }
  }

  // Sizes are final: outputs may be pointed to.
  step.answers.assign(step.requests.size(), TokenLogprob{});
  step.top.assign(num_top, TokenLogprob{});
  step.finite.assign(step.requests.size(), Flag{});
  size_t next_top = 0;
  for (size_t i = 0; i < step.requests.size(); ++i) {
    SampleRow& row = step.requests[i].row;
    row.token = &step.answers[i];
    row.finite = &step.finite[i].value;
    row.top = row.num_top > 0 ? &step.top[next_top] : nullptr;
    next_top += static_cast<size_t>(row.num_top);
  }
}

void StepRunner::add_prompt_requests(Step& step, size_t batch_index) {
  const BatchSequence& sequence = batch_.sequences()[batch_index];
  const size_t record = static_cast<size_t>(sequence.record);
  const PlanSequence& row = step.plan.sequences[record];
  const SlotState& state = slots_[row.slot];
  for (int32_t i = 0; i < row.num_tokens; ++i) {
    const bool last = i + 1 == row.num_tokens;
    const int32_t known =
        last ? row.next_token : step.plan.tokens[static_cast<size_t>(row.first_row + i + 1)];
    if (known < 0) continue;
    LogitsRequest request;
    request.sequence = static_cast<int32_t>(batch_index);
    request.step_row = sequence.first_row + i;
    request.row.slot = row.slot;
    request.row.position = row.start_position + i + 1;
    request.row.sample = false;
    request.row.known_token = known;
    request.row.params = &state.sampling;
    request.row.num_top = step.outcomes[record].num_prompt_top;
    step.requests.push_back(request);
    step.request_outcomes.push_back(record);
    ++step.outcomes[record].num_prompt_rows;
  }
}

void StepRunner::add_sample_request(Step& step, size_t batch_index) {
  const BatchSequence& sequence = batch_.sequences()[batch_index];
  const size_t record = static_cast<size_t>(sequence.record);
  const PlanSequence& row = step.plan.sequences[record];
  const SlotState& state = slots_[row.slot];
  LogitsRequest request;
  request.sequence = static_cast<int32_t>(batch_index);
  request.step_row = sequence.first_row + sequence.num_rows - 1;
  request.row.slot = row.slot;
  request.row.position = row.start_position + row.num_tokens;
  request.row.sample = true;
  request.row.params = &state.sampling;
  request.row.counts = state.counts_needed ? &state.counts : nullptr;
  request.row.num_top = step.outcomes[record].num_top;
  step.requests.push_back(request);
  step.request_outcomes.push_back(record);
}

Status StepRunner::settle(Step& step) {
  if (step.settled) return step.settle_status;
  step.settled = true;
  step.settle_status = backend_.wait_step(step.ticket);
  if (step.settle_status.ok()) settle_rows(step);
  return step.settle_status;
}

void StepRunner::settle_rows(Step& step) {
  for (size_t i = 0; i < step.requests.size(); ++i) {
    Outcome& outcome = step.outcomes[step.request_outcomes[i]];
    if (!step.requests[i].taken) {
      outcome.skipped = true;
    } else if (!step.finite[i].value) {
      outcome.not_finite = true;
    }
  }
  for (size_t i = 0; i < step.plan.sequences.size(); ++i) {
    const PlanSequence& row = step.plan.sequences[i];
    Outcome& outcome = step.outcomes[i];
    SlotState& state = slots_[row.slot];
    if (state.generation != outcome.generation) continue;  // closed by a step started since
    // A step before this one may have said so after this one was started.
    if (state.not_finite) outcome.not_finite = true;
    if (outcome.not_finite) state.not_finite = true;
    if (!outcome.computed || outcome.skipped || outcome.not_finite) continue;
    if ((row.flags & kFlagSample) == 0 || !state.counts_needed) continue;
    count_output(state.counts, step.answers[outcome.sampled].token_id);
  }
}

StepRecord StepRunner::record_of(const Step& step, size_t index) const {
  const PlanSequence& row = step.plan.sequences[index];
  const Outcome& outcome = step.outcomes[index];
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
  const std::span<const TokenLogprob> answers(step.answers), top(step.top);
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
