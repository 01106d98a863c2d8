// Packets decode to what they say, and every wrong word is refused by name.
#include "step_plan.h"

#include <random>

#include "plan_packet.h"
#include "step_result.h"
#include "test.h"

using namespace longhaul;
using lh_test::PlanPacket;

namespace {

constexpr PlanLimits kLimits = {.num_slots = 4,
                                .num_groups = 2,
                                .num_blocks = 10,
                                .vocab_size = 100,
                                .max_tokens = 16,
                                .max_position = 1000,
                                .max_logprobs = 5};

SamplingParams rich_sampling() {
  SamplingParams sampling;
  sampling.temperature = 0.7f;
  sampling.top_p = 0.9f;
  sampling.min_p = 0.05f;
  sampling.top_k = 40;
  sampling.repetition_penalty = 1.1f;
  sampling.frequency_penalty = -0.5f;
  sampling.presence_penalty = 0.25f;
  sampling.seed = 0xfedcba9876543210u;
  sampling.num_logprobs = 5;
  sampling.num_prompt_logprobs = 0;
  sampling.num_prompt_tokens = 3;
  sampling.min_tokens = 2;
  sampling.logit_bias = {{7, -100.0f}, {8, 1.5f}};
  sampling.stop_token_ids = {99, 0};
  return sampling;
}

PlanPacket rich_packet() {
  PlanPacket packet(42);
  packet.close(1)
      .open(1, 5, rich_sampling(), {1, 2, 3})
      .append(1, 0, {4, 5})
      .append(1, 1, {-1, 6})
      .replace_range(1, 0, 1, {9})
      .drop_prefix(1, 1, 1)
      .row(1, 5, 30, {10, 11, 12}, kFlagSample | kFlagPromptLogprobs, 13)
      .row(0, 8, 7, {kTokenFromSlot}, kFlagSample)
      .copy(2, 3);
  return packet;
}

Status decode(const std::vector<int32_t>& words) {
  StepPlan plan;
  return decode_step_plan(words, kLimits, &plan);
}

// Changing this one word must be refused, with a message that names `what`.
void expect_refused(size_t index, int32_t value, const char* what,
                    ErrorCode code = ErrorCode::kInvalidRequest) {
  std::vector<int32_t> words = rich_packet().words();
  words[index] = value;
  const Status status = decode(words);
  EXPECT_EQ(static_cast<int>(status.code()), static_cast<int>(code));
  if (status.message().find(what) == std::string::npos) {
    lh_test::fail(__FILE__, __LINE__, "expected \"" + std::string(what) + "\" in: " + status.message());
  }
}

// Packet index of the first word of operation `number`.
size_t operation_at(int number) {
  const std::vector<int32_t> words = rich_packet().words();
  size_t at = kPlanHeaderWords;
  for (int i = 0; i < number; ++i) at += static_cast<size_t>(words[at + 1]);
  return at;
}

}  // namespace

LH_TEST(a_rich_packet_decodes_word_for_word) {
  const std::vector<int32_t> words = rich_packet().words();
  StepPlan plan;
  const Status status = decode_step_plan(words, kLimits, &plan);
  EXPECT_EQ(status.message(), std::string());
  EXPECT_EQ(plan.step_id, 42);
  EXPECT_TRUE((plan.order == std::vector<int32_t>{~0, 0, ~1, ~2, ~3, ~4}));
  EXPECT_EQ(plan.opens.size(), size_t{1});
  const PlanOpen& open = plan.opens[0];
  const SamplingParams expected = rich_sampling();
  EXPECT_EQ(open.slot, 1);
  EXPECT_EQ(open.sequence_id, 5);
  EXPECT_EQ(open.sampling.temperature, expected.temperature);
  EXPECT_EQ(open.sampling.top_p, expected.top_p);
  EXPECT_EQ(open.sampling.min_p, expected.min_p);
  EXPECT_EQ(open.sampling.top_k, 40);
  EXPECT_EQ(open.sampling.repetition_penalty, expected.repetition_penalty);
  EXPECT_EQ(open.sampling.frequency_penalty, expected.frequency_penalty);
  EXPECT_EQ(open.sampling.presence_penalty, expected.presence_penalty);
  EXPECT_EQ(open.sampling.seed, expected.seed);
  EXPECT_EQ(open.sampling.num_logprobs, 5);
  EXPECT_EQ(open.sampling.num_prompt_logprobs, 0);
  EXPECT_EQ(open.sampling.num_prompt_tokens, 3);
  EXPECT_EQ(open.sampling.min_tokens, 2);
  EXPECT_TRUE(open.sampling.logit_bias == expected.logit_bias);
  EXPECT_TRUE(open.sampling.stop_token_ids == expected.stop_token_ids);
  EXPECT_TRUE((open.history == std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(plan.table_ops.size(), size_t{5});
  EXPECT_EQ(plan.table_ops[0].opcode, static_cast<int32_t>(kOpClose));
  EXPECT_EQ(plan.table_ops[1].block_ids[1], 5);
  EXPECT_EQ(plan.table_ops[2].group, 1);
  EXPECT_EQ(plan.table_ops[2].block_ids[0], -1);
  EXPECT_EQ(plan.table_ops[3].first_index, 1);
  EXPECT_EQ(plan.table_ops[3].block_ids[0], 9);
  EXPECT_EQ(plan.table_ops[4].count, 1);
  EXPECT_EQ(plan.sequences.size(), size_t{2});
  EXPECT_EQ(plan.sequences[0].num_tokens, 3);
  EXPECT_EQ(plan.sequences[0].start_position, 30);
  EXPECT_EQ(plan.sequences[0].flags, 3);
  EXPECT_EQ(plan.sequences[0].next_token, 13);
  EXPECT_EQ(plan.sequences[1].first_row, 3);
  EXPECT_EQ(plan.tokens[3], kTokenFromSlot);
  EXPECT_EQ(plan.positions[3], 7);
  EXPECT_TRUE((plan.copies == std::vector<std::pair<int32_t, int32_t>>{{2, 3}}));
}

LH_TEST(an_empty_plan_is_a_plan) {
  EXPECT_TRUE(decode(PlanPacket(1).words()).ok());
}

LH_TEST(header_words_are_checked) {
  expect_refused(kPlanMagicWord, 0, "magic");
  expect_refused(kPlanVersionWord, 2, "version");
  expect_refused(kPlanTotalWords, 10, "total words");
  expect_refused(kPlanNumOperationWords, -1, "operation words");
  expect_refused(kPlanNumSequences, 5, "sequences");
  expect_refused(kPlanNumTokens, 17, "tokens");
  expect_refused(kPlanNumTokens, 5, "total words");
  expect_refused(kPlanNumCopies, INT32_MAX, "copies");
  expect_refused(kPlanNumPositionRows, 3, "position rows", ErrorCode::kUnsupported);
  expect_refused(kPlanNumEmbeddingSpans, 1, "embedding spans", ErrorCode::kUnsupported);
  expect_refused(kPlanHeaderWords - 1, 1, "reserved");
}

LH_TEST(open_words_are_checked) {
  const size_t at = operation_at(1) + 2;
  const int32_t nan = std::bit_cast<int32_t>(std::nanf(""));
  expect_refused(at + kOpenSlot, 4, "slot");
  expect_refused(at + kOpenSequenceId, -1, "sequence id");
  expect_refused(at + kOpenAdapterId, 0, "adapter", ErrorCode::kUnsupported);
  expect_refused(at + kOpenNumPromptTokens, 1001, "prompt tokens");
  expect_refused(at + kOpenTemperature, nan, "temperature");
  expect_refused(at + kOpenTopP, std::bit_cast<int32_t>(1.5f), "top_p");
  expect_refused(at + kOpenMinP, std::bit_cast<int32_t>(-0.1f), "min_p");
  expect_refused(at + kOpenTopK, -1, "top_k");
  expect_refused(at + kOpenRepetitionPenalty, 0, "repetition penalty");
  expect_refused(at + kOpenFrequencyPenalty, nan, "frequency penalty");
  expect_refused(at + kOpenPresencePenalty, nan, "presence penalty");
  expect_refused(at + kOpenNumLogprobs, 6, "logprobs");
  expect_refused(at + kOpenNumPromptLogprobs, -2, "prompt logprobs");
  expect_refused(at + kOpenMinTokens, -1, "min_tokens");
  expect_refused(at + kOpenNumHistory, 4, "words of OPEN");
  expect_refused(at + kOpenNumLogitBias, INT32_MAX, "logit_bias");
  expect_refused(at + kOpenNumStopTokenIds, 1, "words of OPEN");
  expect_refused(at + kOpenReserved, 1, "reserved");
  expect_refused(at + kOpenFixedWords, 100, "history token");
  expect_refused(at + kOpenFixedWords + 3, -1, "logit_bias token");
  expect_refused(at + kOpenFixedWords + 4, nan, "logit_bias");
  expect_refused(at + kOpenFixedWords + 7, 100, "stop token");
}

LH_TEST(table_operations_are_checked) {
  expect_refused(operation_at(0), 6, "operation");
  expect_refused(operation_at(0), 0, "operation");
  expect_refused(operation_at(0) + 1, 1, "words of an operation");
  expect_refused(operation_at(0) + 1, INT32_MAX, "words of an operation");
  expect_refused(operation_at(0) + 2, -1, "slot");
  expect_refused(operation_at(2) + 3, 2, "group");
  expect_refused(operation_at(2) + 4, 3, "words of an operation");
  expect_refused(operation_at(2) + 4, -1, "count");
  expect_refused(operation_at(2) + 5, 10, "block id");
  expect_refused(operation_at(2) + 5, -2, "block id");
  expect_refused(operation_at(4) + 4, -1, "first index");
  expect_refused(operation_at(5) + 4, 1001, "count");
}

LH_TEST(rows_tokens_positions_and_copies_are_checked) {
  const std::vector<int32_t> words = rich_packet().words();
  const size_t row = kPlanHeaderWords + static_cast<size_t>(words[kPlanNumOperationWords]);
  const size_t tokens = row + 2 * kSequenceWords;
  expect_refused(row + kSequenceSlot, 4, "slot");
  expect_refused(row + kSequenceSlot, 0, "two");
  expect_refused(row + kSequenceId, -5, "sequence id");
  expect_refused(row + kSequenceNumTokens, 0, "tokens of a sequence");
  expect_refused(row + kSequenceNumTokens, 5, "tokens of a sequence");
  expect_refused(row + kSequenceNumTokens, 2, "sum of sequence tokens");
  expect_refused(row + kSequenceStartPosition, 998, "start position");
  expect_refused(row + kSequenceFlags, 4, "flags");
  expect_refused(row + kSequenceNextToken, 100, "next token");
  expect_refused(row + kSequenceReserved0, 1, "reserved");
  expect_refused(tokens, 100, "token id");
  expect_refused(tokens, -2, "token id");
  expect_refused(tokens + 4, 1000, "position");
  expect_refused(tokens + 8, 10, "copied block id");
}

LH_TEST(truncated_packets_are_refused) {
  const std::vector<int32_t> words = rich_packet().words();
  for (size_t length = 0; length < words.size(); ++length) {
    std::vector<int32_t> cut(words.begin(), words.begin() + static_cast<int64_t>(length));
    EXPECT_TRUE(!decode(cut).ok());
    if (length <= kPlanTotalWords) continue;
    cut[kPlanTotalWords] = static_cast<int32_t>(length);  // lies consistently
    EXPECT_TRUE(!decode(cut).ok());
  }
}

// Under ASan and UBSan this is what shows reads out of bounds.
LH_TEST(random_and_mutated_packets_never_crash) {
  std::mt19937 random(20240611);
  const std::vector<int32_t> good = rich_packet().words();
  const int32_t interesting[] = {0, 1, -1, 2, 5, 16, INT32_MAX, INT32_MIN, 1 << 30, 0x7f800000};
  int accepted = 0;
  for (int round = 0; round < 50000; ++round) {
    // Exactly sized storage, so that a read past the end is seen.
    std::vector<int32_t> words = good;
    if (round % 10 == 0) {
      words.resize(random() % 64);
      for (int32_t& word : words) word = static_cast<int32_t>(random());
      if (words.size() >= kPlanHeaderWords) {
        std::copy(good.begin(), good.begin() + kPlanHeaderWords, words.begin());
        words[kPlanTotalWords] = static_cast<int32_t>(words.size());
      }
    } else {
      for (uint32_t i = 0; i < 1 + random() % 3; ++i) {
        int32_t& word = words[random() % words.size()];
        word = random() % 2 == 0 ? interesting[random() % std::size(interesting)]
                                 : static_cast<int32_t>(static_cast<uint32_t>(word) + random() % 7 - 3);
      }
    }
    words.shrink_to_fit();
    accepted += decode(words).ok();
  }
  EXPECT_TRUE(accepted > 0);
  EXPECT_TRUE(accepted < 50000);
}

LH_TEST(results_are_laid_out_as_the_header_says) {
  const TokenLogprob sampled[] = {{7, -0.5f, 1}};
  const TokenLogprob top[] = {{7, -0.5f, 1}, {9, -1.5f, 2}};
  const TokenLogprob prompt[] = {{1, -2.0f, 3}, {2, -3.0f, 4}};
  const TokenLogprob prompt_top[] = {{4, -0.1f, 1}, {5, -0.2f, 1}};
  StepRecord full;
  full.slot = 3;
  full.sequence_id = 11;
  full.sampled = sampled;
  full.num_top = 2;
  full.top = top;
  full.prompt = prompt;
  full.num_prompt_top = 1;
  full.prompt_top = prompt_top;
  StepRecord aborted;
  aborted.slot = 1;
  aborted.sequence_id = 12;
  aborted.status = kRecordAborted;
  const std::vector<int32_t> words =
      encode_step_result({.step_id = 9, .elapsed_micros = 100, .attention_micros = 40, .num_tokens = 2},
                         std::vector<StepRecord>{full, aborted});
  EXPECT_EQ(words[kResultMagicWord], kResultMagic);
  EXPECT_EQ(words[kResultVersionWord], kPlanVersion);
  EXPECT_EQ(words[kResultStepId], 9);
  EXPECT_EQ(words[kResultNumSequences], 2);
  EXPECT_EQ(words[kResultElapsedMicros], 100);
  EXPECT_EQ(words[kResultAttentionMicros], 40);
  EXPECT_EQ(words[kResultNumTokens], 2);
  EXPECT_EQ(words.size(), size_t{kResultHeaderWords + 2 * kRecordWords + 3 + 4 + 6 + 4});
  const std::vector<lh_test::ResultRecord> records = lh_test::read_result(words);
  EXPECT_EQ(records.size(), size_t{2});
  if (records.size() != 2) return;
  EXPECT_EQ(records[0].sampled[0].id, 7);
  EXPECT_EQ(records[0].sampled[0].top[1].second, -1.5f);
  EXPECT_EQ(records[0].prompt[1].rank, 4);
  EXPECT_EQ(records[0].prompt[1].top[0].first, 5);
  EXPECT_EQ(records[1].status, static_cast<int32_t>(kRecordAborted));
  EXPECT_EQ(records[1].sampled.size(), size_t{0});
}

LH_TEST_MAIN
