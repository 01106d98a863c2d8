// sample: rows of logits to tokens, on the device, with the semantics of native/sampler/sampler.cc:
// bias, bans, penalties, temperature, min_p, top_k, top_p and a draw that depends on (seed,
// position) alone; log-probabilities, ranks and the most likely tokens of the unmodified row.
//
// Tokens are those of sample_row() except where two numbers that f32 cannot tell apart decide: the
// uniform number against a border of the cumulative distribution, or the cumulative weight against
// top_p. Results never depend on the batch, the grid or the order in which blocks run: weights are
// summed as integers (2^-44 of the heaviest).
//
// The row is cut into chunks, a block each, and read up to four times: scan (largest, NaN), weigh
// (weights, histogram of distances from the largest), collect (the few tokens at the border), rank.
// A stage that no row of the launch needs is not launched; sample_stages() says which it needs.
#pragma once

#include <cstdint>

#include "launch.h"

namespace longhaul::device {

constexpr int32_t kSampleTopMax = 32;   // top lists are this long at most

struct TokenBias {
  int32_t token_id = 0;
  float bias = 0;
};
struct TokenCount {
  int32_t token_id = 0;
  int32_t count = 0;
};

// One row to sample (or only to look up), in device memory, uploaded with the step. List ranges
// index the arrays of SampleParams. Ids outside of the vocabulary are ignored.
struct SampleRowInput {
  int32_t logits_row = 0;
  int32_t slot = -1;               // last_tokens[slot] takes the token; -1: none does
  int32_t position = 0;            // of the token drawn: the counter of the random number
  int32_t known_token = -1;        // >= 0: nothing is drawn, this token is looked up
  uint64_t seed = 0;
  float temperature = 1.0f;        // below 1e-5: greedy
  float top_p = 1.0f;
  float min_p = 0.0f;
  int32_t top_k = 0;               // 0: off
  float repetition_penalty = 1.0f; // of ids in `prompt` and `output`
  float frequency_penalty = 0.0f;  // of ids in `output`
  float presence_penalty = 0.0f;   // of ids in `output`
  int32_t num_top = 0;             // most likely tokens asked for, <= kSampleTopMax
  int32_t wants_logprob = 0;       // log-probability and rank of the token (implied by num_top > 0)
  int32_t bias_begin = 0;          // `biases`, ids distinct
  int32_t num_biases = 0;
  int32_t ban_begin = 0;           // `ids`: logits become -infinity, after the bias
  int32_t num_bans = 0;
  int32_t prompt_begin = 0;        // `ids`, distinct; those in `output` too are handled there
  int32_t num_prompt = 0;
  int32_t output_begin = 0;        // `counts`, ids distinct
  int32_t num_output = 0;
};

struct SampleResult {
  int32_t token_id = -1;
  float logprob = 0;               // natural; 0 unless wanted
  int32_t rank = 0;                // 1: most likely; 0 unless wanted
  int32_t finite = 0;              // 0: NaN, +infinity or no finite logit; then token_id is -1
};
struct SampleTop {
  int32_t token_id = -1;           // -1, -infinity, 0 beyond the vocabulary's end
  float logprob = 0;
  int32_t rank = 0;
};

enum SampleStage : uint32_t {
  kSampleWeigh = 1,                // a row draws, or asks for top tokens
  kSampleCollect = 2,              // a row draws with top_k or top_p, or asks for top tokens
  kSampleRank = 4,                 // a row asks for log-probabilities
};
constexpr uint32_t kSampleAllStages = kSampleWeigh | kSampleCollect | kSampleRank;

inline uint32_t sample_stages(const SampleRowInput& row) {
  const bool draws = row.known_token < 0 && row.temperature >= 1e-5f;
  uint32_t stages = 0;
  if (draws || row.num_top > 0) stages |= kSampleWeigh;
  if ((draws && (row.top_k > 0 || row.top_p < 1.0f)) || row.num_top > 0) stages |= kSampleCollect;
  if (row.wants_logprob != 0 || row.num_top > 0) stages |= kSampleRank;
  return stages;
}

struct SampleParams {
  const float* logits = nullptr;         // [.., vocab_size]; not modified
  int64_t logits_stride = 0;             // elements
  int32_t vocab_size = 0;
  const SampleRowInput* rows = nullptr;  // device, [num_rows]; rows with logits_row < 0 are padding
  int32_t num_rows = 0;
  const TokenBias* biases = nullptr;     // device; lists of all rows
  const int32_t* ids = nullptr;
  const TokenCount* counts = nullptr;
  int32_t* last_tokens = nullptr;        // device, [num_slots]; a row without a token stores 0
  SampleResult* results = nullptr;       // device, out [num_rows]
  SampleTop* top = nullptr;              // device, out [num_rows, kSampleTopMax]; entries below a
                                         // row's num_top are written. May be null if none asks
  void* scratch = nullptr;               // sample_scratch_bytes(), 256-byte aligned; zeroed once,
                                         // then the kernels' own
  uint32_t stages = kSampleAllStages;    // or of sample_stages() over the rows, or more
};

// Bytes of scratch that serve launches of up to max_rows rows.
int64_t sample_scratch_bytes(int32_t vocab_size, int32_t max_rows);
int launch_sample(const SampleParams& params, Stream stream);

}  // namespace longhaul::device
