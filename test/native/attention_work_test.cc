// build_attention_work: what the items cover, where partials go, balance and limits.
#include "attention/attention_work.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "test.h"

namespace longhaul {
namespace {

AttentionWork work_of(std::vector<std::pair<int32_t, int32_t>> rows_and_positions,
                      int32_t window = 0) {
  AttentionWork work;
  work.window = window;
  int32_t row = 0;
  for (const auto& [num_rows, first_position] : rows_and_positions) {
    AttentionSequence sequence;
    sequence.first_row = row;
    sequence.num_rows = num_rows;
    sequence.first_position = first_position;
    work.sequences.push_back(sequence);
    row += num_rows;
  }
  return work;
}

int32_t position_of(const AttentionWork& work, const AttentionItem& item, int32_t row) {
  const AttentionSequence& sequence = work.sequences[static_cast<size_t>(item.sequence)];
  return sequence.first_position + row - sequence.first_row;
}

int32_t first_slice(const AttentionWork& work, int32_t position) {
  return work.window > 0 ? std::max(0, position - work.window + 1) / kSliceTokens : 0;
}

int64_t cost_of(const AttentionWork& work, const AttentionItem& item) {
  int64_t cost = 0;
  for (int32_t row = item.row_begin; row < item.row_begin + item.num_rows; ++row) {
    const int32_t position = position_of(work, item, row);
    const int32_t first = work.window > 0 ? std::max(0, position - work.window + 1) : 0;
    for (int32_t slice = item.slice_begin; slice < item.slice_end; ++slice) {
      const int32_t begin = std::max(first, slice * kSliceTokens);
      const int32_t end = std::min(position + 1, (slice + 1) * kSliceTokens);
      cost += std::max(0, end - begin);
    }
  }
  return cost;
}

// Every (row, slice with a visible key) is computed exactly once, and split rows are combined
// from exactly their own partials in ascending order.
void expect_covers(const AttentionWork& work, int32_t max_partials) {
  std::map<std::pair<int32_t, int32_t>, int> covered;  // (row, slice) -> times
  std::map<int32_t, std::pair<int32_t, int32_t>> partial_owner;
  std::set<int32_t> whole_rows;
  for (const AttentionItem& item : work.items) {
    EXPECT_TRUE(item.num_rows > 0 && item.slice_begin < item.slice_end);
    for (int32_t row = item.row_begin; row < item.row_begin + item.num_rows; ++row) {
      const int32_t position = position_of(work, item, row);
      if (item.first_partial < 0) EXPECT_TRUE(whole_rows.insert(row).second);
      for (int32_t slice = item.slice_begin; slice < item.slice_end; ++slice) {
        const bool visible =
            slice >= first_slice(work, position) && slice <= position / kSliceTokens;
        if (visible) ++covered[{row, slice}];
        if (item.first_partial < 0) continue;
        const int32_t index = item.first_partial +
                              (slice - item.slice_begin) * item.num_rows + row - item.row_begin;
        EXPECT_TRUE(index >= 0 && index < work.num_partials);
        EXPECT_TRUE(partial_owner.insert({index, {row, slice}}).second);
      }
    }
  }
  size_t expected = 0;
  for (const AttentionSequence& sequence : work.sequences) {
    for (int32_t i = 0; i < sequence.num_rows; ++i) {
      const int32_t position = sequence.first_position + i;
      for (int32_t s = first_slice(work, position); s <= position / kSliceTokens; ++s) {
        EXPECT_EQ((covered[{sequence.first_row + i, s}]), 1);
        ++expected;
      }
    }
  }
  EXPECT_EQ(covered.size(), expected);
  std::set<int32_t> combined;
  for (const AttentionCombine& combine : work.combines) {
    EXPECT_TRUE(combined.insert(combine.row).second);
    EXPECT_TRUE(!whole_rows.count(combine.row));
    int32_t last_slice = -1;
    for (int32_t i = 0; i < combine.count; ++i) {
      const int32_t index = work.partial_indices[static_cast<size_t>(combine.first + i)];
      const auto owner = partial_owner.find(index);
      EXPECT_TRUE(owner != partial_owner.end());
      if (owner == partial_owner.end()) return;
      EXPECT_EQ(owner->second.first, combine.row);
      EXPECT_EQ(covered.count(owner->second), 1u);  // a slice the row sees
      EXPECT_TRUE(owner->second.second > last_slice);
      if (last_slice >= 0) EXPECT_EQ(owner->second.second, last_slice + 1);
      last_slice = owner->second.second;
    }
  }
  size_t rows = 0;
  for (const AttentionSequence& sequence : work.sequences) {
    rows += static_cast<size_t>(sequence.num_rows);
  }
  EXPECT_EQ(combined.size() + whole_rows.size(), rows);
  EXPECT_TRUE(work.num_partials <= max_partials);
  for (size_t i = 1; i < work.items.size(); ++i) {
    EXPECT_TRUE(cost_of(work, work.items[i - 1]) >= cost_of(work, work.items[i]));
  }
}

}  // namespace

LH_TEST(no_rows_no_items) {
  AttentionWork work = work_of({});
  build_attention_work(work, {1, 4, 100});
  EXPECT_EQ(work.items.size(), 0u);
  work = work_of({{0, 0}, {0, 700}});
  build_attention_work(work, {1, 4, 100});
  EXPECT_EQ(work.items.size(), 0u);
  EXPECT_EQ(work.num_partials, 0);
}

LH_TEST(one_worker_never_splits) {
  AttentionWork work = work_of({{1, 99999}});
  build_attention_work(work, {1, 1, 1 << 20});
  EXPECT_EQ(work.items.size(), 1u);
  EXPECT_EQ(work.items[0].first_partial, -1);
  EXPECT_EQ(work.items[0].slice_begin, 0);
  EXPECT_EQ(work.items[0].slice_end, 196);
  EXPECT_EQ(work.combines.size(), 0u);
}

LH_TEST(long_decode_row_is_split_for_idle_workers) {
  AttentionWork work = work_of({{1, 8191}});  // 16 slices
  build_attention_work(work, {1, 2, 100});
  EXPECT_EQ(work.items.size(), 8u);  // 2 workers, 4 units each
  EXPECT_EQ(work.num_partials, 16);
  EXPECT_EQ(work.combines.size(), 1u);
  EXPECT_EQ(work.combines[0].count, 16);
  for (size_t i = 0; i < work.items.size(); ++i) {
    EXPECT_EQ(work.items[i].slice_begin, static_cast<int32_t>(2 * i));
    EXPECT_EQ(work.items[i].slice_end, static_cast<int32_t>(2 * i + 2));
    EXPECT_EQ(work.items[i].first_partial, static_cast<int32_t>(2 * i));
  }
  expect_covers(work, 100);
}

LH_TEST(many_kv_heads_need_no_split) {
  AttentionWork work = work_of({{1, 8191}});
  build_attention_work(work, {8, 2, 100});
  EXPECT_EQ(work.items.size(), 1u);
  EXPECT_EQ(work.num_partials, 0);
}

LH_TEST(partials_stay_within_their_limit) {
  AttentionWork work = work_of({{1, 8191}, {1, 8191}, {1, 8191}});
  build_attention_work(work, {1, 64, 40});  // two rows fit, the third stays whole
  EXPECT_EQ(work.num_partials, 32);
  EXPECT_EQ(work.combines.size(), 2u);
  expect_covers(work, 40);
  EXPECT_EQ(work.items[0].first_partial, -1);  // and is the heaviest
}

LH_TEST(prefill_rows_are_packed) {
  AttentionWork work = work_of({{100, 0}});
  build_attention_work(work, {1, 1, 0});
  EXPECT_EQ(work.items.size(), 4u);
  expect_covers(work, 0);
  // Heaviest first: the full pack with the most keys, the tail of four rows last.
  EXPECT_EQ(work.items[0].row_begin, 64);
  EXPECT_EQ(work.items[0].num_rows, 32);
  EXPECT_EQ(work.items[3].row_begin == 0 || work.items[3].row_begin == 96, true);
}

LH_TEST(window_drops_slices) {
  AttentionWork work = work_of({{1, 5000}}, 512);
  build_attention_work(work, {1, 1, 0});
  EXPECT_EQ(work.items[0].slice_begin, 8);  // keys 4489 .. 5000
  EXPECT_EQ(work.items[0].slice_end, 10);
  work = work_of({{1, 1023}}, 512);
  build_attention_work(work, {1, 1, 0});
  EXPECT_EQ(work.items[0].slice_begin, 1);  // keys 512 .. 1023 exactly
  EXPECT_EQ(work.items[0].slice_end, 2);
}

LH_TEST(random_steps_are_covered) {
  std::mt19937 random(7);
  const auto below = [&](int32_t n) {
    return static_cast<int32_t>(random() % static_cast<uint32_t>(n));
  };
  for (int round = 0; round < 400; ++round) {
    std::vector<std::pair<int32_t, int32_t>> rows;
    const int32_t count = below(6);
    for (int32_t i = 0; i < count; ++i) {
      rows.push_back({below(3) ? below(2) : below(150), below(2) ? below(6000) : below(600)});
    }
    AttentionWork work = work_of(rows, below(2) ? 1 + below(1500) : 0);
    const int32_t max_partials = below(3) ? below(2000) : 0;
    build_attention_work(work, {1 + below(8), 1 + below(32), max_partials});
    expect_covers(work, max_partials);
  }
}

LH_TEST(build_forgets_the_previous_step) {
  AttentionWork work = work_of({{1, 8191}});
  build_attention_work(work, {1, 2, 100});
  const size_t items = work.items.size();
  build_attention_work(work, {1, 2, 100});
  EXPECT_EQ(work.items.size(), items);
  EXPECT_EQ(work.partial_indices.size(), 16u);
  EXPECT_EQ(work.num_partials, 16);
}

}  // namespace longhaul

LH_TEST_MAIN
