// Decoding of step plans. Everything the packet claims is checked against its own length and the
// engine's limits before it is used; after that the engine may index with what it finds here.
#include "step_plan.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace longhaul {
namespace {

// A forward reader over the words of one operation; `base` is the packet index of its first word.
class Words {
 public:
  Words(std::span<const int32_t> words, int64_t base) : words_(words), base_(base) {}
  int32_t operator[](int64_t index) const { return words_[static_cast<size_t>(index)]; }
  float real(int64_t index) const { return std::bit_cast<float>((*this)[index]); }
  int64_t size() const { return static_cast<int64_t>(words_.size()); }
  const int32_t* data(int64_t index) const { return words_.data() + index; }
  long long at(int64_t index) const { return static_cast<long long>(base_ + index); }

 private:
  std::span<const int32_t> words_;
  int64_t base_;
};

Status bad(long long word, const char* what, long long expected_min, long long expected_max,
           long long found) {
  return error(ErrorCode::kInvalidRequest,
               "step plan word %lld: %s: expected %lld to %lld, found %lld", word, what,
               expected_min, expected_max, found);
}

Status check_range(const Words& words, int64_t index, const char* what, int64_t min, int64_t max) {
  const int64_t value = words[index];
  if (value >= min && value <= max) return {};
  return bad(words.at(index), what, min, max, value);
}

Status check_real(const Words& words, int64_t index, const char* what, double min, double max) {
  const float value = words.real(index);
  if (std::isfinite(value) && value >= min && value <= max) return {};
  return error(ErrorCode::kInvalidRequest,
               "step plan word %lld: %s: expected a number in [%g, %g], found %g", words.at(index),
               what, min, max, static_cast<double>(value));
}

constexpr double kRealMax = 3.4e38;
constexpr int64_t kInt32Max = INT32_MAX;

// `op` starts at the opcode; its length was checked to lie inside the packet.
Status decode_open(const Words& op, const PlanLimits& limits, PlanOpen* open) {
  constexpr int64_t kArguments = 2;
  if (op.size() < kArguments + kOpenFixedWords) {
    return bad(op.at(1), "words of OPEN", kArguments + kOpenFixedWords, kInt32Max, op.size());
  }
  const auto word = [&](OpenWord w) { return kArguments + w; };
  LH_TRY(check_range(op, word(kOpenSlot), "slot", 0, limits.num_slots - 1));
  LH_TRY(check_range(op, word(kOpenSequenceId), "sequence id", 0, kInt32Max));
  if (op[word(kOpenAdapterId)] != -1) {
    return error(ErrorCode::kUnsupported, "step plan word %lld: adapter id: expected -1, found %d",
                 op.at(word(kOpenAdapterId)), op[word(kOpenAdapterId)]);
  }
  LH_TRY(check_range(op, word(kOpenNumPromptTokens), "prompt tokens", 0, limits.max_position));
  LH_TRY(check_real(op, word(kOpenTemperature), "temperature", 0, kRealMax));
  LH_TRY(check_real(op, word(kOpenTopP), "top_p", 0, 1));
  LH_TRY(check_real(op, word(kOpenMinP), "min_p", 0, 1));
  LH_TRY(check_range(op, word(kOpenTopK), "top_k", 0, kInt32Max));
  LH_TRY(check_real(op, word(kOpenRepetitionPenalty), "repetition penalty", 1e-6, kRealMax));
  LH_TRY(check_real(op, word(kOpenFrequencyPenalty), "frequency penalty", -1e6, 1e6));
  LH_TRY(check_real(op, word(kOpenPresencePenalty), "presence penalty", -1e6, 1e6));
  LH_TRY(check_range(op, word(kOpenNumLogprobs), "logprobs", -1, limits.max_logprobs));
  LH_TRY(check_range(op, word(kOpenNumPromptLogprobs), "prompt logprobs", -1, limits.max_logprobs));
  LH_TRY(check_range(op, word(kOpenMinTokens), "min_tokens", 0, kInt32Max));
  LH_TRY(check_range(op, word(kOpenNumHistory), "history", 0, limits.max_position));
  LH_TRY(check_range(op, word(kOpenNumLogitBias), "logit_bias entries", 0, limits.vocab_size));
  LH_TRY(check_range(op, word(kOpenNumStopTokenIds), "stop ids", 0, limits.vocab_size));
  LH_TRY(check_range(op, word(kOpenReserved), "reserved word", 0, 0));

  const int64_t num_history = op[word(kOpenNumHistory)];
  const int64_t num_bias = op[word(kOpenNumLogitBias)];
  const int64_t num_stop = op[word(kOpenNumStopTokenIds)];
  const int64_t expected = kArguments + kOpenFixedWords + num_history + 2 * num_bias + num_stop;
  if (op.size() != expected) return bad(op.at(1), "words of OPEN", expected, expected, op.size());

  open->slot = op[word(kOpenSlot)];
  open->sequence_id = op[word(kOpenSequenceId)];
  SamplingParams& sampling = open->sampling;
  sampling.num_prompt_tokens = op[word(kOpenNumPromptTokens)];
  sampling.temperature = op.real(word(kOpenTemperature));
  sampling.top_p = op.real(word(kOpenTopP));
  sampling.min_p = op.real(word(kOpenMinP));
  sampling.top_k = op[word(kOpenTopK)];
  sampling.repetition_penalty = op.real(word(kOpenRepetitionPenalty));
  sampling.frequency_penalty = op.real(word(kOpenFrequencyPenalty));
  sampling.presence_penalty = op.real(word(kOpenPresencePenalty));
  sampling.seed = uint64_t{static_cast<uint32_t>(op[word(kOpenSeedHigh)])} << 32 |
                  static_cast<uint32_t>(op[word(kOpenSeedLow)]);
  sampling.num_logprobs = op[word(kOpenNumLogprobs)];
  sampling.num_prompt_logprobs = op[word(kOpenNumPromptLogprobs)];
  sampling.min_tokens = op[word(kOpenMinTokens)];

  int64_t at = kArguments + kOpenFixedWords;
  for (int64_t i = 0; i < num_history; ++i, ++at) {
    LH_TRY(check_range(op, at, "history token", 0, limits.vocab_size - 1));
    open->history.push_back(op[at]);
  }
  for (int64_t i = 0; i < num_bias; ++i, at += 2) {
    LH_TRY(check_range(op, at, "logit_bias token", 0, limits.vocab_size - 1));
    LH_TRY(check_real(op, at + 1, "logit_bias", -kRealMax, kRealMax));
    sampling.logit_bias.emplace_back(op[at], op.real(at + 1));
  }
  for (int64_t i = 0; i < num_stop; ++i, ++at) {
    LH_TRY(check_range(op, at, "stop token", 0, limits.vocab_size - 1));
    sampling.stop_token_ids.push_back(op[at]);
  }
  return {};
}

Status decode_table_op(const Words& op, const PlanLimits& limits, PlanTableOp* table) {
  table->opcode = op[0];
  const int64_t fixed = table->opcode == kOpClose          ? 3
                        : table->opcode == kOpReplaceRange ? 6
                                                           : 5;  // append, drop prefix
  if (op.size() < fixed) return bad(op.at(1), "words of an operation", fixed, kInt32Max, op.size());
  LH_TRY(check_range(op, 2, "slot", 0, limits.num_slots - 1));
  table->slot = op[2];
  int64_t num_ids = 0;
  if (table->opcode != kOpClose) {
    LH_TRY(check_range(op, 3, "group", 0, limits.num_groups - 1));
    table->group = op[3];
    const int64_t count_word = fixed - 1;
    // A table never has more entries than the context has positions.
    LH_TRY(check_range(op, count_word, "count", 0, limits.max_position));
    table->count = op[count_word];
    if (table->opcode == kOpReplaceRange) {
      LH_TRY(check_range(op, 4, "first index", 0, limits.max_position));
      table->first_index = op[4];
    }
    if (table->opcode != kOpDropPrefix) num_ids = table->count;
  }
  if (op.size() != fixed + num_ids) {
    return bad(op.at(1), "words of an operation", fixed + num_ids, fixed + num_ids, op.size());
  }
  // -1 is a hole: a block wholly before a window. Whether a row would see it is checked by state.
  for (int64_t i = 0; i < num_ids; ++i) {
    LH_TRY(check_range(op, fixed + i, "block id", -1, limits.num_blocks - 1));
  }
  table->block_ids = op.data(fixed);
  return {};
}

Status decode_operations(const Words& stream, const PlanLimits& limits, StepPlan* plan) {
  int64_t at = 0;
  while (at < stream.size()) {
    const int64_t left = stream.size() - at;
    if (left < 2) return bad(stream.at(at), "words left for an operation", 2, kInt32Max, left);
    LH_TRY(check_range(stream, at + 1, "words of an operation", 2, left));
    const int64_t length = stream[at + 1];
    const Words op({stream.data(at), static_cast<size_t>(length)}, stream.at(at));
    LH_TRY(check_range(op, 0, "operation", kOpOpen, kOpDropPrefix));
    if (op[0] == kOpOpen) {
      PlanOpen open;
      LH_TRY(decode_open(op, limits, &open));
      plan->order.push_back(static_cast<int32_t>(plan->opens.size()));
      plan->opens.push_back(std::move(open));
    } else {
      PlanTableOp table;
      LH_TRY(decode_table_op(op, limits, &table));
      plan->order.push_back(~static_cast<int32_t>(plan->table_ops.size()));
      plan->table_ops.push_back(table);
    }
    at += length;
  }
  return {};
}

Status decode_sequences(const Words& words, const PlanLimits& limits, int64_t num_tokens,
                        StepPlan* plan) {
  const int64_t count = words.size() / kSequenceWords;
  std::vector<bool> seen(static_cast<size_t>(limits.num_slots), false);
  int64_t first_row = 0;
  for (int64_t i = 0; i < count; ++i) {
    const auto word = [&](SequenceWord w) { return i * kSequenceWords + w; };
    LH_TRY(check_range(words, word(kSequenceSlot), "slot", 0, limits.num_slots - 1));
    LH_TRY(check_range(words, word(kSequenceId), "sequence id", 0, kInt32Max));
    LH_TRY(check_range(words, word(kSequenceNumTokens), "tokens of a sequence", 1,
                       num_tokens - first_row));
    const int32_t length = words[word(kSequenceNumTokens)];
    LH_TRY(check_range(words, word(kSequenceStartPosition), "start position", 0,
                       limits.max_position - length));
    LH_TRY(check_range(words, word(kSequenceFlags), "flags", 0, kFlagSample | kFlagPromptLogprobs));
    LH_TRY(check_range(words, word(kSequenceNextToken), "next token", -1, limits.vocab_size - 1));
    LH_TRY(check_range(words, word(kSequenceReserved0), "reserved word", 0, 0));
    LH_TRY(check_range(words, word(kSequenceReserved1), "reserved word", 0, 0));
    PlanSequence sequence;
    sequence.slot = words[word(kSequenceSlot)];
    sequence.sequence_id = words[word(kSequenceId)];
    sequence.first_row = static_cast<int32_t>(first_row);
    sequence.num_tokens = length;
    sequence.start_position = words[word(kSequenceStartPosition)];
    sequence.flags = words[word(kSequenceFlags)];
    sequence.next_token = words[word(kSequenceNextToken)];
    if (seen[static_cast<size_t>(sequence.slot)]) {
      return error(ErrorCode::kInvalidRequest,
                   "step plan word %lld: slot %d: expected one sequence row, found two",
                   words.at(word(kSequenceSlot)), sequence.slot);
    }
    seen[static_cast<size_t>(sequence.slot)] = true;
    plan->sequences.push_back(sequence);
    first_row += length;
  }
  if (first_row != num_tokens) {
    return bad(kPlanNumTokens, "sum of sequence tokens", num_tokens, num_tokens, first_row);
  }
  return {};
}

}  // namespace

Status decode_step_plan(std::span<const int32_t> packet, const PlanLimits& limits,
                        StepPlan* plan) {
  *plan = StepPlan{};
  const int64_t size = static_cast<int64_t>(packet.size());
  if (size < kPlanHeaderWords) {
    return error(ErrorCode::kInvalidRequest, "step plan: expected at least %d words, found %lld",
                 kPlanHeaderWords, static_cast<long long>(size));
  }
  const Words header(packet.first(kPlanHeaderWords), 0);
  LH_TRY(check_range(header, kPlanMagicWord, "magic", kPlanMagic, kPlanMagic));
  LH_TRY(check_range(header, kPlanVersionWord, "version", kPlanVersion, kPlanVersion));
  LH_TRY(check_range(header, kPlanTotalWords, "total words", size, size));
  LH_TRY(check_range(header, kPlanNumOperationWords, "operation words", 0, size));
  LH_TRY(check_range(header, kPlanNumSequences, "sequences", 0, limits.num_slots));
  LH_TRY(check_range(header, kPlanNumTokens, "tokens", 0, limits.max_tokens));
  LH_TRY(check_range(header, kPlanNumCopies, "copies", 0, size));
  if (header[kPlanNumPositionRows] != 1) {
    return error(ErrorCode::kUnsupported, "step plan word %d: position rows: expected 1, found %d",
                 kPlanNumPositionRows, header[kPlanNumPositionRows]);
  }
  if (header[kPlanNumEmbeddingSpans] != 0) {
    return error(ErrorCode::kUnsupported, "step plan word %d: embedding spans: expected 0, found %d",
                 kPlanNumEmbeddingSpans, header[kPlanNumEmbeddingSpans]);
  }
  for (int word = kPlanTotalWords + 1; word < kPlanHeaderWords; ++word) {
    LH_TRY(check_range(header, word, "reserved header word", 0, 0));
  }

  const int64_t num_operation_words = header[kPlanNumOperationWords];
  const int64_t num_sequence_words = int64_t{header[kPlanNumSequences]} * kSequenceWords;
  const int64_t num_tokens = header[kPlanNumTokens];
  const int64_t num_copies = header[kPlanNumCopies];
  const int64_t expected =
      kPlanHeaderWords + num_operation_words + num_sequence_words + 2 * num_tokens + 2 * num_copies;
  if (expected != size) return bad(kPlanTotalWords, "total words", expected, expected, size);

  int64_t at = kPlanHeaderWords;
  const auto take = [&](int64_t count) {
    const Words part(packet.subspan(static_cast<size_t>(at), static_cast<size_t>(count)), at);
    at += count;
    return part;
  };
  plan->step_id = header[kPlanStepId];
  LH_TRY(decode_operations(take(num_operation_words), limits, plan));
  LH_TRY(decode_sequences(take(num_sequence_words), limits, num_tokens, plan));

  const Words tokens = take(num_tokens);
  const Words positions = take(num_tokens);
  for (int64_t i = 0; i < num_tokens; ++i) {
    LH_TRY(check_range(tokens, i, "token id", kTokenFromSlot, limits.vocab_size - 1));
    LH_TRY(check_range(positions, i, "position", 0, limits.max_position - 1));
  }
  plan->tokens = {tokens.data(0), static_cast<size_t>(num_tokens)};
  plan->positions = {positions.data(0), static_cast<size_t>(num_tokens)};

  const Words copies = take(2 * num_copies);
  for (int64_t i = 0; i < 2 * num_copies; ++i) {
    LH_TRY(check_range(copies, i, "copied block id", 0, limits.num_blocks - 1));
  }
  for (int64_t i = 0; i < num_copies; ++i) {
    plan->copies.emplace_back(copies[2 * i], copies[2 * i + 1]);
  }
  return {};
}

}  // namespace longhaul
