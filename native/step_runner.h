// StepRunner: one step plan to one step result, on the engine thread. Owns slots, batch and result
// buffers; the thread, the queue and the sticky failure belong to engine.cc.
#pragma once

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

  // On a status the result is empty. `*fatal` says whether the engine can go on: a plan that is
  // wrong changes nothing, a step that failed midway leaves caches nobody can trust.
  Status run(std::span<const int32_t> packet, std::vector<int32_t>* result, bool* fatal);

 private:
  struct Flag {  // vector<bool> has no addresses
    bool value = true;
  };
  // What a sequence row of the plan became.
  struct Outcome {
    bool computed = false;   // still in the batch after the last layer
    bool not_finite = false;
    bool skipped = false;    // some request of it was never answered: aborted
    int32_t num_prompt_rows = 0;
    int32_t num_top = 0;
    int32_t num_prompt_top = 0;
    // Offsets into answers_ and top_.
    size_t sampled = 0, top = 0, prompt = 0, prompt_top = 0;
  };

  Status check_rows() const;
  Status compute();
  void build_batch();
  void build_requests();
  void add_prompt_requests(size_t batch_index);
  void add_sample_request(size_t batch_index);
  void settle();
  StepRecord record_of(size_t index) const;

  Backend& backend_;
  Decoder& decoder_;
  AbortList& aborts_;
  PlanLimits limits_;
  SlotTable slots_;
  StepBatch batch_;

  // Of the running step.
  StepPlan plan_;
  std::vector<Outcome> outcomes_;            // [plan_.sequences]
  std::vector<LogitsRequest> requests_;      // ascending step rows
  std::vector<size_t> request_outcomes_;     // [requests_] index into outcomes_
  std::vector<TokenLogprob> answers_;        // [requests_]
  std::vector<TokenLogprob> top_;
  std::vector<Flag> finite_;                 // [requests_]
  std::vector<std::span<const int32_t>> tables_;
};

}  // namespace longhaul
