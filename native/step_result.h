// StepResult: what one step produced, and its packet (layout in step_plan.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "step_plan.h"

namespace longhaul {

// One sequence row's outcome. The spans point into buffers of the step.
struct StepRecord {
  int32_t slot = 0;
  int32_t sequence_id = 0;
  RecordStatus status = kRecordOk;
  std::span<const TokenLogprob> sampled;      // 0 or 1 entries
  int32_t num_top = 0;
  std::span<const TokenLogprob> top;          // [sampled.size() * num_top]
  std::span<const TokenLogprob> prompt;       // one a prompt row, in position order
  int32_t num_prompt_top = 0;
  std::span<const TokenLogprob> prompt_top;   // [prompt.size() * num_prompt_top]
};

struct StepTotals {
  int32_t step_id = 0;
  int32_t elapsed_micros = 0;
  int32_t attention_micros = 0;
  int32_t num_tokens = 0;  // rows computed to the end
};

std::vector<int32_t> encode_step_result(const StepTotals& totals,
                                        std::span<const StepRecord> records);

}  // namespace longhaul
