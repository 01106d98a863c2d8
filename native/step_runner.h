// StepRunner: step plans to step results, on the engine thread. A step has two halves: start() reads
// the plan and has everything computed or, on an asynchronous backend, queued; finish() waits and
// makes the result. Up to kStepsInFlight steps may be started before the first is finished, so that
// a device always has work. Owns slots, batch and result buffers; the thread, the queue and the
// sticky failure belong to engine.cc.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "abort_list.h"
#include "backend/backend.h"
#include "model/decoder.h"
#include "model/step_batch.h"
#include "slot_table.h"
#include "step_plan.h"
#include "step_result.h"

namespace longhaul {

class StepRunner {
 public:
  StepRunner(Backend& backend, Decoder& decoder, AbortList& aborts, const PlanLimits& limits,
             const StepBatch::Options& batch);

  // Starts the step after those in flight, of which there are fewer than kStepsInFlight. Not ok: the
  // step is not in flight, and `*fatal` says whether the engine can go on: a plan that is wrong
  // changes nothing, a step that failed midway leaves caches nobody can trust.
  Status start(std::span<const int32_t> packet, bool* fatal);
  // Whether finish() would not wait.
  Result<bool> is_done();
  // Waits for the oldest step in flight and takes it out. Every failure is fatal; on one the result is
  // empty.
  Status finish(std::vector<int32_t>* result);

 private:
  struct Flag {  // vector<bool> has no addresses
    bool value = true;
  };
  // What a sequence row of the plan became.
  struct Outcome {
    bool computed = false;   // still in the batch after the last layer
    bool not_finite = false;
    bool skipped = false;    // some request of it was never answered: aborted
    int64_t generation = 0;  // SlotState::generation it ran in
    int32_t num_prompt_rows = 0;
    int32_t num_top = 0;
    int32_t num_prompt_top = 0;
    // Offsets into answers_ and top_.
    size_t sampled = 0, top = 0, prompt = 0, prompt_top = 0;
  };

  using Clock = std::chrono::steady_clock;
  struct Step {
    StepPlan plan;                             // its spans end with start()
    std::vector<Outcome> outcomes;             // [plan.sequences]
    std::vector<LogitsRequest> requests;       // ascending step rows
    std::vector<size_t> request_outcomes;      // [requests] index into outcomes
    std::vector<TokenLogprob> answers;         // [requests]
    std::vector<TokenLogprob> top;
    std::vector<Flag> finite;                  // [requests]
    StepTicket ticket = 0;
    bool settled = false;                      // waited for, and slots know what it drew
    Status settle_status;
    Clock::time_point started;
    int32_t attention_micros = 0;
  };

  Step& in_flight(size_t index) { return steps_[(first_step_ + index) % steps_.size()]; }
  Status check_rows(const StepPlan& plan) const;
  // Some row draws with counts that a token in flight belongs to.
  bool needs_results(const StepPlan& plan, const Step& running) const;
  Status compute(Step& step);
  void build_batch(Step& step);
  void build_requests(Step& step);
  void add_prompt_requests(Step& step, size_t batch_index);
  void add_sample_request(Step& step, size_t batch_index);
  Status settle(Step& step);
  void settle_rows(Step& step);
  StepRecord record_of(const Step& step, size_t index) const;

  Backend& backend_;
  Decoder& decoder_;
  AbortList& aborts_;
  PlanLimits limits_;
  SlotTable slots_;
  StepBatch batch_;  // of the step that is being started
  std::vector<std::span<const int32_t>> tables_;

  std::array<Step, kStepsInFlight> steps_;  // a ring
  size_t first_step_ = 0;
  size_t num_steps_ = 0;
  Clock::time_point last_finish_;  // when the last step finished
};

}  // namespace longhaul
