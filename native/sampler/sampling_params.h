// SamplingParams: how one sequence's next tokens are drawn. Arrives once, in the plan's OPEN
// operation, and stays with the sequence's slot.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace longhaul {

struct SamplingParams {
  float temperature = 1.0f;         // 0 = greedy
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1]
  int32_t top_k = 0;                // 0 = off
  float repetition_penalty = 1.0f;  // > 0; 1 = off (Keskar et al. 2019); prompt and output tokens
  float frequency_penalty = 0.0f;   // OpenAI: logit -= count * f; output tokens only
  float presence_penalty = 0.0f;    // OpenAI: logit -= (count > 0) * p; output tokens only
  uint64_t seed = 0;                // Philox key; draws depend on (seed, position) alone
  int32_t num_logprobs = -1;        // -1 none, 0 the sampled token's only, k the top k besides
  int32_t num_prompt_logprobs = -1; // the same for prompt rows
  int32_t num_prompt_tokens = 0;    // output starts at this position
  int32_t min_tokens = 0;           // stop_token_ids are banned before this many output tokens
  std::vector<std::pair<int32_t, float>> logit_bias;  // (token id, added to the logit)
  std::vector<int32_t> stop_token_ids;                // only for min_tokens; TypeScript ends a sequence
};

}  // namespace longhaul
