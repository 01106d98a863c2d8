// The packets of test/golden/step-plan.json, which the TypeScript side is tested against too. The
// golden words are the contract; what they mean is written out there and repeated here.
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "plan_packet.h"
#include "step_plan.h"
#include "step_result.h"
#include "test.h"

using namespace longhaul;

namespace {

// The array of integers after "words" inside the object named `part`; tests run in the root folder.
std::vector<int32_t> golden_words(const std::string& part) {
  std::ifstream file("test/golden/step-plan.json");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<int32_t> words;
  size_t at = text.find("\"" + part + "\": {");
  if (at != std::string::npos) at = text.find("\"words\"", at);
  if (at != std::string::npos) at = text.find('[', at);
  if (at == std::string::npos) return words;
  const char* next = text.c_str() + at + 1;
  for (;;) {
    char* end = nullptr;
    const long word = std::strtol(next, &end, 10);
    if (end == next) return words;
    words.push_back(static_cast<int32_t>(word));
    next = end;
    while (*next == ',' || *next == ' ' || *next == '\n') ++next;
  }
}

}  // namespace

LH_TEST(the_golden_plan_means_what_it_says) {
  const std::vector<int32_t> words = golden_words("plan");
  EXPECT_EQ(words.size(), size_t{91});
  const PlanLimits limits = {.num_slots = 3,
                             .num_groups = 2,
                             .num_blocks = 11,
                             .vocab_size = 100,
                             .max_tokens = 3,
                             .max_position = 100,
                             .max_logprobs = 2};
  StepPlan plan;
  EXPECT_EQ(decode_step_plan(words, limits, &plan).message(), std::string());
  if (plan.opens.size() != 1 || plan.table_ops.size() != 4 || plan.sequences.size() != 2) {
    lh_test::fail(__FILE__, __LINE__, "expected 1 open, 4 table operations, 2 rows");
    return;
  }
  EXPECT_EQ(plan.step_id, 7);
  const PlanOpen& open = plan.opens[0];
  const SamplingParams& sampling = open.sampling;
  EXPECT_EQ(open.slot, 2);
  EXPECT_EQ(open.sequence_id, 41);
  EXPECT_EQ(sampling.num_prompt_tokens, 3);
  EXPECT_EQ(sampling.temperature, 0.5f);
  EXPECT_EQ(sampling.top_p, 0.75f);
  EXPECT_EQ(sampling.min_p, 0.25f);
  EXPECT_EQ(sampling.top_k, 40);
  EXPECT_EQ(sampling.repetition_penalty, 1.25f);
  EXPECT_EQ(sampling.frequency_penalty, -0.5f);
  EXPECT_EQ(sampling.presence_penalty, 1.5f);
  EXPECT_EQ(sampling.seed, uint64_t{18364758544493064720u});
  EXPECT_EQ(sampling.num_logprobs, 2);
  EXPECT_EQ(sampling.num_prompt_logprobs, 1);
  EXPECT_EQ(sampling.min_tokens, 4);
  EXPECT_TRUE((sampling.logit_bias == std::vector<std::pair<int32_t, float>>{{11, -100.0f}, {12, 2.5f}}));
  EXPECT_TRUE((sampling.stop_token_ids == std::vector<int32_t>{0, 9}));
  EXPECT_TRUE((open.history == std::vector<int32_t>{5, 6, 7}));
  EXPECT_TRUE((plan.order == std::vector<int32_t>{~0, 0, ~1, ~2, ~3}));
  const PlanTableOp* ops = plan.table_ops.data();
  EXPECT_EQ(ops[0].opcode, static_cast<int32_t>(kOpClose));
  EXPECT_EQ(ops[1].block_ids[0], 3);
  EXPECT_EQ(ops[1].block_ids[1], 8);
  EXPECT_EQ(ops[2].group, 1);
  EXPECT_EQ(ops[2].block_ids[0], -1);
  EXPECT_EQ(ops[3].opcode, static_cast<int32_t>(kOpDropPrefix));
  EXPECT_EQ(ops[3].count, 5);
  EXPECT_EQ(plan.sequences[0].start_position, 23);
  EXPECT_EQ(plan.sequences[0].flags, static_cast<int32_t>(kFlagSample));
  EXPECT_EQ(plan.sequences[1].flags, static_cast<int32_t>(kFlagPromptLogprobs));
  EXPECT_EQ(plan.sequences[1].next_token, 7);
  EXPECT_TRUE((std::vector<int32_t>(plan.tokens.begin(), plan.tokens.end()) == std::vector<int32_t>{-1, 5, 6}));
  EXPECT_TRUE((std::vector<int32_t>(plan.positions.begin(), plan.positions.end()) == std::vector<int32_t>{23, 0, 1}));
}

LH_TEST(the_golden_result_is_what_we_write) {
  const TokenLogprob sampled[] = {{9, -0.25f, 1}};
  const TokenLogprob top[] = {{9, -0.25f, 1}, {4, -1.5f, 2}};
  const TokenLogprob prompt[] = {{6, -2.0f, 3}, {7, -3.0f, 4}};
  const TokenLogprob prompt_top[] = {{1, -0.5f, 1}, {2, -0.75f, 1}};
  StepRecord drawn, known;
  drawn.slot = 0;
  drawn.sequence_id = 40;
  drawn.sampled = sampled;
  drawn.num_top = 2;
  drawn.top = top;
  known.slot = 2;
  known.sequence_id = 41;
  known.prompt = prompt;
  known.num_prompt_top = 1;
  known.prompt_top = prompt_top;
  const StepTotals totals = {.step_id = 7, .elapsed_micros = 1500, .attention_micros = 300, .num_tokens = 3};
  EXPECT_TRUE(encode_step_result(totals, std::vector<StepRecord>{drawn, known}) == golden_words("result"));
}

LH_TEST_MAIN
