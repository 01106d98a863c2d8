// The packet that crosses from TypeScript to native once a step, and the one that comes back.
// Mirror of src/engine/step-plan.ts; docs/formats.md draws both. Everything is little-endian
// int32 words; floats are stored as their bits.
//
// Plan:   header (kPlanHeaderWords) | operations | sequence rows | tokens | positions | copies
// Result: header (kResultHeaderWords) | one record a sequence row, in plan order
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sampler/sampling_params.h"
#include "status.h"

namespace longhaul {

constexpr int32_t kPlanMagic = 0x5053484c;    // "LHSP"
constexpr int32_t kResultMagic = 0x5253484c;  // "LHSR"
constexpr int32_t kPlanVersion = 1;

// Header words.
enum PlanHeader : int {
  kPlanMagicWord = 0,
  kPlanVersionWord,
  kPlanStepId,
  kPlanNumOperationWords,   // words of the operation stream
  kPlanNumSequences,
  kPlanNumTokens,
  kPlanNumPositionRows,     // 1 (3 for multi-axis RoPE: kUnsupported yet)
  kPlanNumCopies,
  kPlanNumEmbeddingSpans,   // kUnsupported yet unless 0
  kPlanTotalWords,          // of the whole packet
  kPlanHeaderWords = 16,    // the rest is 0
};

// Operations, each [opcode, total words of the operation, arguments...]; run in order before the
// step's rows. A slot is a small integer in [0, max_num_seqs) that a sequence holds while it runs.
enum PlanOperation : int32_t {
  kOpOpen = 1,          // see OpenWord
  kOpClose = 2,         // slot
  kOpAppend = 3,        // slot, group, count, block ids[count]
  kOpReplaceRange = 4,  // slot, group, first index, count, block ids[count]
  kOpDropPrefix = 5,    // slot, group, count: entries [0, count) are no longer valid (indices stay)
};

// Words of kOpOpen after [opcode, words].
enum OpenWord : int {
  kOpenSlot = 0,
  kOpenSequenceId,          // any int32 >= 0; abort() names it
  kOpenAdapterId,           // -1
  kOpenNumPromptTokens,
  kOpenTemperature,         // float
  kOpenTopP,                // float
  kOpenMinP,                // float
  kOpenTopK,
  kOpenRepetitionPenalty,   // float
  kOpenFrequencyPenalty,    // float
  kOpenPresencePenalty,     // float
  kOpenSeedLow,
  kOpenSeedHigh,
  kOpenNumLogprobs,
  kOpenNumPromptLogprobs,
  kOpenMinTokens,
  kOpenNumHistory,          // all tokens known at this moment; 0 unless a penalty is on
  kOpenNumLogitBias,
  kOpenNumStopTokenIds,
  kOpenReserved,
  kOpenFixedWords,          // then history ids, (id, float) pairs, stop token ids
};

// A sequence row: the tokens one sequence computes this step.
enum SequenceWord : int {
  kSequenceSlot = 0,
  kSequenceId,
  kSequenceNumTokens,       // >= 1
  kSequenceStartPosition,   // of its first token
  kSequenceFlags,           // SequenceFlags
  kSequenceNextToken,       // prompt token after the last row, for prompt_logprobs; -1 = none
  kSequenceReserved0,
  kSequenceReserved1,
  kSequenceWords,
};
enum SequenceFlags : int32_t {
  kFlagSample = 1,          // draw a token from the last row
  kFlagPromptLogprobs = 2,  // log-probabilities of the known next token of every row
};

constexpr int32_t kTokenFromSlot = -1;  // token word: what this row's slot sampled last

struct PlanSequence {
  int32_t slot = 0;
  int32_t sequence_id = 0;
  int32_t first_row = 0;
  int32_t num_tokens = 0;
  int32_t start_position = 0;
  int32_t flags = 0;
  int32_t next_token = -1;
};

struct PlanOpen {
  int32_t slot = 0;
  int32_t sequence_id = 0;
  SamplingParams sampling;
  std::vector<int32_t> history;
};

struct PlanTableOp {
  int32_t opcode = 0;       // kOpAppend, kOpReplaceRange, kOpDropPrefix, kOpClose
  int32_t slot = 0;
  int32_t group = 0;
  int32_t first_index = 0;  // kOpReplaceRange
  int32_t count = 0;
  const int32_t* block_ids = nullptr;  // into the packet
};

// Limits a plan is checked against. Decoding accepts nothing that could index out of bounds.
struct PlanLimits {
  int32_t num_slots = 0;
  int32_t num_groups = 0;
  int32_t num_blocks = 0;
  int32_t vocab_size = 0;
  int32_t max_tokens = 0;      // max_num_batched_tokens
  int32_t max_position = 0;    // max_model_len
  int32_t max_logprobs = 0;
};

struct StepPlan {
  int32_t step_id = 0;
  // Operations in packet order: index into opens when >= 0, else ~index into table_ops.
  std::vector<int32_t> order;
  std::vector<PlanOpen> opens;
  std::vector<PlanTableOp> table_ops;
  std::vector<PlanSequence> sequences;
  std::span<const int32_t> tokens;
  std::span<const int32_t> positions;
  std::vector<std::pair<int32_t, int32_t>> copies;  // block id from, to
};

// Checks every length, count and range of `words` and fills `plan` (spans point into words).
// kInvalidRequest with word index, expected and found otherwise. State-dependent rules (slot open,
// table long enough) are the engine's.
Status decode_step_plan(std::span<const int32_t> words, const PlanLimits& limits, StepPlan* plan);

enum ResultHeader : int {
  kResultMagicWord = 0,
  kResultVersionWord,
  kResultStepId,
  kResultNumSequences,
  kResultElapsedMicros,    // wall time of the step on the engine thread
  kResultAttentionMicros,
  kResultNumTokens,        // rows computed, aborted rows excluded
  kResultTotalWords,
  kResultHeaderWords = 16,
};

// A record: the fixed words, then num_sampled * (id, logprob, rank), then num_sampled * num_top *
// (id, logprob), then num_prompt_rows * (id, logprob, rank), then num_prompt_rows * num_prompt_top
// * (id, logprob). Logprobs are float bits (0 when none was asked for).
enum RecordWord : int {
  kRecordSlot = 0,
  kRecordSequenceId,
  kRecordStatus,           // RecordStatus
  kRecordNumSampled,       // 0 or 1 today, 0..k with speculation
  kRecordNumTop,
  kRecordNumPromptRows,
  kRecordNumPromptTop,
  kRecordReserved,
  kRecordWords,
};
enum RecordStatus : int32_t {
  kRecordOk = 0,
  kRecordAborted = 1,
  kRecordNotFinite = 2,    // logits held NaN: the sequence cannot go on
};

}  // namespace longhaul
