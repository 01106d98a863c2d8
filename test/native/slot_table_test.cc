// Plans change slots as a whole or not at all.
#include "slot_table.h"

#include "plan_packet.h"
#include "test.h"

using namespace longhaul;
using lh_test::PlanPacket;

namespace {

constexpr PlanLimits kLimits = {.num_slots = 2,
                                .num_groups = 2,
                                .num_blocks = 100,
                                .vocab_size = 50,
                                .max_tokens = 64,
                                .max_position = 4096,
                                .max_logprobs = 5};

// Decodes and applies; the packet must outlive the plan, which points into it.
Status apply(SlotTable& slots, const PlanPacket& packet) {
  const std::vector<int32_t> words = packet.words();
  StepPlan plan;
  LH_TRY(decode_step_plan(words, kLimits, &plan));
  LH_TRY(slots.apply(plan));
  std::vector<std::pair<int32_t, int32_t>> closed;
  slots.commit(&closed);
  return {};
}

SlotTable make_slots() { return SlotTable(2, {0, 64}, 32); }  // one full group, one of window 64

Status check(const SlotTable& slots, int32_t start, int32_t count, int32_t sequence_id = 7) {
  PlanSequence row;
  row.slot = 0;
  row.sequence_id = sequence_id;
  row.start_position = start;
  row.num_tokens = count;
  return slots.check_row(row);
}

}  // namespace

LH_TEST(tables_follow_append_replace_and_drop) {
  SlotTable slots = make_slots();
  EXPECT_TRUE(apply(slots, PlanPacket().open(0, 7, {}).append(0, 0, {1, 2, 3}).append(0, 1, {4, 5, 6})).ok());
  EXPECT_TRUE(apply(slots, PlanPacket().replace_range(0, 0, 1, {8, 9}).drop_prefix(0, 1, 2)).ok());
  EXPECT_TRUE((slots[0].tables[0].ids == std::vector<int32_t>{1, 8, 9}));
  EXPECT_TRUE((slots[0].tables[1].ids == std::vector<int32_t>{-1, -1, 6}));
  EXPECT_TRUE(apply(slots, PlanPacket().drop_prefix(0, 1, 1).append(0, 1, {7})).ok());
  EXPECT_TRUE((slots[0].tables[1].ids == std::vector<int32_t>{-1, -1, 6, 7}));
}

LH_TEST(rows_need_their_blocks) {
  SlotTable slots = make_slots();
  EXPECT_TRUE(!check(slots, 0, 1).ok());  // not open
  EXPECT_TRUE(apply(slots, PlanPacket().open(0, 7, {}).append(0, 0, {1, 2, 3, 4}).append(0, 1, {5, 6, 7, 8})).ok());
  EXPECT_TRUE(check(slots, 0, 128).ok());
  EXPECT_TRUE(!check(slots, 0, 129).ok());
  EXPECT_TRUE(!check(slots, 128, 1).ok());
  EXPECT_TRUE(!check(slots, 0, 1, 8).ok());  // another sequence
  EXPECT_TRUE(apply(slots, PlanPacket().drop_prefix(0, 1, 1)).ok());
  // Window 64: position 95 still sees 32, position 94 would see 31 in the dropped block.
  EXPECT_TRUE(check(slots, 95, 1).ok());
  EXPECT_TRUE(!check(slots, 94, 1).ok());
  // The same holds for holes that came with an append.
  EXPECT_TRUE(apply(slots, PlanPacket().close(0).open(0, 7, {}).append(0, 0, {1, 2, 3, 4}).append(0, 1, {-1, 6, 7, 8})).ok());
  EXPECT_TRUE(check(slots, 95, 1).ok());
  EXPECT_TRUE(!check(slots, 94, 1).ok());
  // A hole in the full group is always visible until it is filled.
  EXPECT_TRUE(apply(slots, PlanPacket().drop_prefix(0, 0, 2)).ok());
  EXPECT_TRUE(!check(slots, 95, 1).ok());
  EXPECT_TRUE(apply(slots, PlanPacket().replace_range(0, 0, 0, {20, 21})).ok());
  EXPECT_TRUE(check(slots, 95, 1).ok());
}

LH_TEST(a_plan_that_fails_halfway_leaves_no_trace) {
  SlotTable slots = make_slots();
  SamplingParams sampling;
  sampling.frequency_penalty = 1;
  sampling.num_prompt_tokens = 2;
  EXPECT_TRUE(apply(slots, PlanPacket().open(0, 7, sampling, {5, 5, 6}).append(0, 0, {1, 2}).append(0, 1, {3, 4}).drop_prefix(0, 1, 1)).ok());
  const auto unchanged = [&] {
    EXPECT_TRUE(slots[0].open);
    EXPECT_EQ(slots[0].sequence_id, 7);
    EXPECT_TRUE((slots[0].tables[0].ids == std::vector<int32_t>{1, 2}));
    EXPECT_TRUE((slots[0].tables[1].ids == std::vector<int32_t>{-1, 4}));
    EXPECT_EQ(slots[0].tables[1].holes_end, 1);
    EXPECT_EQ(slots[0].tables[1].dropped, 1);
    EXPECT_TRUE((slots[0].counts.prompt == std::vector<int32_t>{5}));
    EXPECT_TRUE((slots[0].counts.output == std::vector<std::pair<int32_t, int32_t>>{{6, 1}}));
    EXPECT_TRUE(!slots[1].open);
  };
  // Each ends in an operation that cannot run: slot 1 is not open, or slot 0 is already.
  EXPECT_TRUE(!apply(slots, PlanPacket().append(0, 0, {9, 9}).replace_range(0, 0, 0, {30}).drop_prefix(0, 1, 2).append(1, 0, {1})).ok());
  unchanged();
  EXPECT_TRUE(!apply(slots, PlanPacket().close(0).open(0, 8, {}).append(0, 0, {3}).close(1)).ok());
  unchanged();
  EXPECT_TRUE(!apply(slots, PlanPacket().open(1, 9, {}).append(1, 1, {4}).open(0, 10, {})).ok());
  unchanged();
  EXPECT_TRUE(!apply(slots, PlanPacket().replace_range(0, 0, 1, {5, 6})).ok());
  EXPECT_TRUE(!apply(slots, PlanPacket().drop_prefix(0, 0, 3)).ok());
  EXPECT_TRUE(!apply(slots, PlanPacket().close(0).close(0)).ok());
  unchanged();
}

LH_TEST(output_counts_stay_sorted) {
  TokenCounts counts;
  for (const int32_t id : {5, 1, 9, 5, 1, 5}) count_output(counts, id);
  EXPECT_TRUE((counts.output == std::vector<std::pair<int32_t, int32_t>>{{1, 2}, {5, 3}, {9, 1}}));
}

LH_TEST_MAIN
