// The planner of attention's work lists: what each list must hold whatever the batch, balance, limits.
#include "backend/cuda/attention_plan.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <string>
#include <tuple>

#include "attention_shapes.h"
#include "test.h"

using longhaul::AttentionSequence;
using namespace longhaul::cuda;
namespace device = longhaul::device;
using device::AttentionItem;
using device::AttentionMerge;

namespace {

// Sequences with tables whose entry i of sequence s is 1000 s + i.
struct Step {
  std::vector<AttentionSequence> sequences;
  std::vector<std::vector<int32_t>> tables;
  AttentionPlanOptions options;

  void add(int32_t num_rows, int32_t first_position) {
    AttentionSequence sequence;
    sequence.first_row = next_row;
    sequence.num_rows = num_rows;
    sequence.first_position = first_position;
    sequence.num_blocks = (first_position + num_rows + options.block_size - 1) / options.block_size;
    sequences.push_back(sequence);
    std::vector<int32_t> table;
    for (int32_t i = 0; i < sequence.num_blocks; ++i) {
      table.push_back(1000 * static_cast<int32_t>(tables.size()) + i);
    }
    tables.push_back(std::move(table));
    next_row += num_rows + 1;
  }
  void build(AttentionPlan& plan) {
    for (size_t i = 0; i < sequences.size(); ++i) sequences[i].block_table = tables[i].data();
    plan.build(sequences, options);
  }
  int32_t group() const { return options.num_heads / options.num_kv_heads; }
  int32_t next_row = 0;
};

Step make_step(int32_t num_heads, int32_t num_kv_heads, int32_t multiprocessors) {
  Step step;
  step.options.num_heads = num_heads;
  step.options.num_kv_heads = num_kv_heads;
  step.options.head_dim = 128;
  step.options.block_size = 32;
  step.options.grids =
      device::attention_grids(128, device::CacheType::kF16, multiprocessors, 227 * 1024);
  step.options.partial_row_begin = 10;
  step.options.partial_row_end = 10 + partial_rows_wanted(step.options.grids);
  return step;
}

using RowKey = std::tuple<int32_t, int32_t>;   // step row, query head

// Everything that must hold of any plan: every row meets each key that it sees exactly once, pieces of
// a row are merged in ascending order of keys, partial rows belong to one piece each and lie within
// the limits, table entries are the sequence's.
class PlanCheck {
 public:
  PlanCheck(const Step& step, const AttentionPlan& plan) : step_(step), plan_(plan) {
    check_offsets(plan.decode_offsets(), plan.decode_items().size(), step.options.grids.decode);
    check_offsets(plan.prefill_offsets(), plan.prefill_items().size(), step.options.grids.prefill);
    for (const AttentionItem& item : plan.decode_items()) {
      EXPECT_TRUE(item.packed_count <= device::kAttentionDecodeRows);
      add_item(item);
    }
    for (const AttentionItem& item : plan.prefill_items()) {
      EXPECT_TRUE(item.packed_count <= device::attention_prefill_rows(step.options.head_dim));
      add_item(item);
    }
    for (const AttentionMerge& merge : plan.merges()) add_merge(merge);
    check_rows();
  }

 private:
  struct Piece {
    int32_t key_begin, key_end, partial;
  };

  static void check_offsets(const std::vector<int32_t>& offsets, size_t num_items, int32_t blocks) {
    EXPECT_EQ(offsets.size(), static_cast<size_t>(blocks) + 1);
    EXPECT_EQ(offsets.front(), 0);
    EXPECT_EQ(static_cast<size_t>(offsets.back()), num_items);
    EXPECT_TRUE(std::is_sorted(offsets.begin(), offsets.end()));
  }

  void add_item(const AttentionItem& item) {
    const size_t s = sequence_of(item.first_row);
    EXPECT_EQ(item.first_position, step_.sequences[s].first_position);
    EXPECT_TRUE(item.key_begin < item.key_end);
    EXPECT_TRUE(item.packed_count >= 1);
    for (int32_t block = item.key_begin / 32; block <= (item.key_end - 1) / 32; ++block) {
      if (step_.options.table_offsets != nullptr) break;
      const auto at = static_cast<size_t>(item.table_offset + block);
      EXPECT_TRUE(at < plan_.tables().size());
      if (at < plan_.tables().size()) EXPECT_EQ(plan_.tables()[at], step_.tables[s][static_cast<size_t>(block)]);
    }
    for (int32_t i = 0; i < item.packed_count; ++i) {
      const int32_t packed = item.packed_begin + i;
      const int32_t partial = item.first_partial < 0 ? -1 : item.first_partial + i;
      pieces_[row_key(item.first_row, item.kv_head, packed)].push_back(
          {item.key_begin, item.key_end, partial});
      if (partial < 0) continue;
      EXPECT_TRUE(partial >= step_.options.partial_row_begin);
      EXPECT_TRUE(partial < step_.options.partial_row_begin + plan_.num_partial_rows());
      EXPECT_TRUE(partials_.insert(partial).second);
    }
  }

  void add_merge(const AttentionMerge& merge) {
    EXPECT_TRUE(merge.packed_count >= 1 && merge.packed_count <= device::kAttentionMergeRows);
    for (int32_t i = 0; i < merge.packed_count; ++i) {
      std::vector<int32_t> partials;
      for (int32_t k = 0; k < merge.count[0]; ++k) {
        partials.push_back(merge.first[0] + k * merge.stride[0] + i);
      }
      const RowKey row = row_key(merge.first_row, merge.kv_head, merge.packed_begin + i);
      EXPECT_TRUE(merges_.emplace(row, partials).second);
      const size_t s = sequence_of(merge.first_row);
      if (step_.options.extras == nullptr) {
        EXPECT_EQ(merge.count[1], 0);
        continue;
      }
      const ExtraPartials& extra = step_.options.extras[s];
      EXPECT_EQ(merge.count[1], extra.count);
      if (extra.count == 0) continue;
      EXPECT_EQ(merge.first[1] + i,
                extra.first + merge.kv_head * extra.kv_head_stride + merge.packed_begin + i);
      EXPECT_EQ(merge.stride[1], extra.stride);
    }
  }

  void check_rows() {
    size_t num_rows = 0;
    for (size_t s = 0; s < step_.sequences.size(); ++s) {
      const AttentionSequence& sequence = step_.sequences[s];
      const bool has_extra = step_.options.extras != nullptr && step_.options.extras[s].count > 0;
      for (int32_t row = 0; row < sequence.num_rows; ++row) {
        for (int32_t head = 0; head < step_.options.num_heads; ++head) {
          ++num_rows;
          check_row(pieces_[{sequence.first_row + row, head}], sequence.first_position + row,
                    {sequence.first_row + row, head}, has_extra);
        }
      }
    }
    EXPECT_EQ(pieces_.size(), num_rows);
  }

  void check_row(std::vector<Piece>& pieces, int32_t position, RowKey row, bool has_extra) {
    std::sort(pieces.begin(), pieces.end(),
              [](const Piece& a, const Piece& b) { return a.key_begin < b.key_begin; });
    EXPECT_TRUE(!pieces.empty());
    if (pieces.empty()) return;
    const int32_t window = step_.options.window;
    const int32_t first = window > 0 ? std::max(0, position - window + 1) : 0;
    EXPECT_TRUE(pieces.front().key_begin <= first);
    EXPECT_TRUE(pieces.back().key_end > position);
    for (size_t i = 0; i + 1 < pieces.size(); ++i) {
      EXPECT_EQ(pieces[i].key_end, pieces[i + 1].key_begin);
    }
    const auto merge = merges_.find(row);
    if (pieces.size() == 1 && !has_extra) {
      EXPECT_EQ(pieces[0].partial, -1);
      EXPECT_TRUE(merge == merges_.end());
      return;
    }
    EXPECT_TRUE(merge != merges_.end());
    if (merge == merges_.end()) return;
    EXPECT_EQ(merge->second.size(), pieces.size());
    for (size_t i = 0; i < std::min(pieces.size(), merge->second.size()); ++i) {
      EXPECT_EQ(merge->second[i], pieces[i].partial);
    }
  }

  size_t sequence_of(int32_t first_row) const {
    for (size_t i = 0; i < step_.sequences.size(); ++i) {
      if (step_.sequences[i].first_row == first_row && step_.sequences[i].num_rows > 0) return i;
    }
    EXPECT_TRUE(false);
    return 0;
  }
  RowKey row_key(int32_t first_row, int32_t kv_head, int32_t packed) const {
    return {first_row + packed / step_.group(), kv_head * step_.group() + packed % step_.group()};
  }

  const Step& step_;
  const AttentionPlan& plan_;
  std::map<RowKey, std::vector<Piece>> pieces_;
  std::map<RowKey, std::vector<int32_t>> merges_;
  std::set<int32_t> partials_;
};

// Keys of the block that has the most, and of an average one.
std::pair<double, double> decode_loads(const AttentionPlan& plan) {
  double most = 0, total = 0;
  const size_t blocks = plan.decode_offsets().size() - 1;
  for (size_t b = 0; b < blocks; ++b) {
    double keys = 0;
    for (int32_t i = plan.decode_offsets()[b]; i < plan.decode_offsets()[b + 1]; ++i) {
      const AttentionItem& item = plan.decode_items()[static_cast<size_t>(i)];
      keys += item.key_end - item.key_begin;
    }
    most = std::max(most, keys);
    total += keys;
  }
  return {most, total / static_cast<double>(blocks)};
}

}  // namespace

LH_TEST(random_steps) {
  std::mt19937 random(5);
  const auto draw = [&](int32_t from, int32_t to) {
    return std::uniform_int_distribution<int32_t>(from, to)(random);
  };
  for (int trial = 0; trial < 300; ++trial) {
    const int32_t kv_heads = draw(1, 3), group = draw(1, 16);
    Step step = make_step(kv_heads * group, kv_heads, draw(1, 6));
    if (draw(0, 2) == 0) step.options.window = draw(1, 700);
    const int32_t count = draw(0, 6);
    for (int32_t i = 0; i < count; ++i) {
      step.add(draw(0, 3) == 0 ? draw(0, 90) : 1, draw(0, 1) == 0 ? draw(0, 100) : draw(0, 4000));
    }
    if (draw(0, 2) == 0) step.options.partial_row_end = 10 + draw(0, 200);
    AttentionPlan plan;
    step.build(plan);
    PlanCheck(step, plan);
    EXPECT_TRUE(plan.num_partial_rows() <=
                step.options.partial_row_end - step.options.partial_row_begin);
  }
}

LH_TEST(decode_work_is_spread_evenly) {
  // Llama 3 8B on an H100: 8 kv heads, 396 blocks.
  struct Load {
    std::vector<int32_t> positions;
    double limit;
  };
  std::vector<Load> loads = {{{32767}, 1.15}, {{131071}, 1.05}, {{524287}, 1.05}};
  loads.push_back({std::vector<int32_t>(64, 8191), 1.05});
  loads.push_back({std::vector<int32_t>(8, 4095), 1.2});
  std::vector<int32_t> uneven;
  for (int32_t i = 0; i < 40; ++i) uneven.push_back(i * i * 17 + 5);
  uneven.push_back(200000);
  loads.push_back({uneven, 1.1});
  for (const Load& load : loads) {
    Step step = make_step(32, 8, 132);
    for (const int32_t position : load.positions) step.add(1, position);
    AttentionPlan plan;
    step.build(plan);
    const auto [most, average] = decode_loads(plan);
    if (most > load.limit * average) {
      std::printf("  %zu sequences: %g keys at most, %g on average\n", load.positions.size(), most,
                  average);
    }
    EXPECT_TRUE(most <= load.limit * average);
    EXPECT_TRUE(plan.num_partial_rows() <= 2 * 4 * step.options.grids.decode);
  }
}

LH_TEST(short_contexts_are_not_cut) {
  Step step = make_step(32, 8, 132);
  for (int32_t i = 0; i < 64; ++i) step.add(1, 100 + i);
  AttentionPlan plan;
  step.build(plan);
  EXPECT_EQ(plan.decode_items().size(), size_t{512});
  EXPECT_TRUE(plan.merges().empty());
  EXPECT_EQ(plan.num_partial_rows(), 0);
  const auto [most, average] = decode_loads(plan);
  EXPECT_TRUE(most <= 2 * 164);   // 512 units, 396 blocks: two somewhere
}

LH_TEST(many_small_units_do_not_pile_up) {
  Step step = make_step(32, 8, 132);
  for (int32_t i = 0; i < 64; ++i) step.add(1, 299);
  AttentionPlan plan;
  step.build(plan);
  const auto [most, average] = decode_loads(plan);
  EXPECT_TRUE(most <= 1.6 * average);
}

LH_TEST(without_room_for_partials_nothing_is_cut) {
  Step step = make_step(8, 2, 4);
  step.options.partial_row_end = step.options.partial_row_begin;
  step.add(1, 5000);
  step.add(40, 3000);
  AttentionPlan plan;
  step.build(plan);
  PlanCheck(step, plan);
  EXPECT_TRUE(plan.merges().empty());
}

LH_TEST(few_rows_over_a_long_context_are_cut) {
  Step step = make_step(32, 8, 132);
  step.add(16, 65000);   // 64 packed rows of 8 heads: one tile each
  AttentionPlan plan;
  step.build(plan);
  PlanCheck(step, plan);
  EXPECT_TRUE(plan.decode_items().empty());
  EXPECT_TRUE(plan.prefill_items().size() >= 250);
}

LH_TEST(a_long_prompt_goes_in_whole_tiles) {
  Step step = make_step(32, 8, 132);
  step.add(8192, 0);
  AttentionPlan plan;
  step.build(plan);
  EXPECT_EQ(plan.prefill_items().size(), size_t{8 * 256});
  EXPECT_TRUE(plan.merges().empty());
  // Heaviest first within a block, and blocks as even as tiles allow.
  double most = 0, total = 0;
  for (int32_t b = 0; b < step.options.grids.prefill; ++b) {
    double keys = 0;
    int32_t before = INT32_MAX;
    for (int32_t i = plan.prefill_offsets()[static_cast<size_t>(b)];
         i < plan.prefill_offsets()[static_cast<size_t>(b) + 1]; ++i) {
      const AttentionItem& item = plan.prefill_items()[static_cast<size_t>(i)];
      EXPECT_TRUE(item.key_end <= before);
      before = item.key_end;
      keys += item.key_end - item.key_begin;
    }
    most = std::max(most, keys);
    total += keys;
  }
  EXPECT_TRUE(most <= 1.02 * total / step.options.grids.prefill);
}

LH_TEST(other_segments_are_merged_in) {
  Step step = make_step(8, 2, 2);
  step.add(1, 40);
  step.add(2, 900);
  step.add(30, 100);
  step.add(1, 3);
  const ExtraPartials extras[] = {{5000, 3, 4, 12}, {0, 0, 0, 0}, {6000, 2, 300, 700}, {7000, 1, 4, 4}};
  step.options.extras = extras;
  AttentionPlan plan;
  step.build(plan);
  PlanCheck(step, plan);
}

LH_TEST(tables_kept_on_the_device) {
  Step step = make_step(8, 2, 2);
  step.add(1, 400);
  step.add(70, 100);
  const int32_t offsets[] = {4096, 512};
  step.options.table_offsets = offsets;
  AttentionPlan plan;
  step.build(plan);
  EXPECT_TRUE(plan.tables().empty());
  for (const AttentionItem& item : plan.decode_items()) EXPECT_EQ(item.table_offset, 4096);
  for (const AttentionItem& item : plan.prefill_items()) EXPECT_EQ(item.table_offset, 512);
  PlanCheck(step, plan);
}

LH_TEST(only_needed_table_entries_are_uploaded) {
  Step step = make_step(8, 2, 2);
  step.options.window = 64;
  step.add(1, 999);    // keys 936..999: blocks 29..31
  step.add(3, 1000);   // keys 937..1002: blocks 29..31
  for (std::vector<int32_t>& table : step.tables) std::fill(table.begin(), table.begin() + 29, -1);
  AttentionPlan plan;
  step.build(plan);
  EXPECT_TRUE(plan.tables() == (std::vector<int32_t>{29, 30, 31, 1029, 1030, 1031}));
  PlanCheck(step, plan);
}

LH_TEST(encoded_lists_are_the_plan_s) {
  Step step = make_step(8, 2, 2);
  step.add(1, 3000);
  step.add(50, 700);
  AttentionPlan plan;
  step.build(plan);
  AttentionCounts room = plan.counts();
  EXPECT_TRUE(room.decode_items > 0 && room.prefill_items > 0 && room.merges > 0);
  for (const bool is_exact : {true, false}) {
    if (!is_exact) {
      room.decode_items += 3;
      room.prefill_items += 1;
      room.merges += 7;
      room.table_entries += 100;
    }
    const AttentionLayout layout(room, step.options.grids);
    std::vector<std::byte> bytes(static_cast<size_t>(layout.bytes) + 16, std::byte{0xee});
    const int64_t used = plan.encode(layout, bytes.data());
    EXPECT_TRUE(used <= layout.bytes);
    for (size_t i = static_cast<size_t>(used); i < bytes.size(); ++i) {
      EXPECT_TRUE(bytes[i] == std::byte{0xee});
    }
    const device::AttentionLists lists = layout.lists(bytes.data());
    const auto same = [](const auto* found, const auto& wanted) {
      return std::memcmp(found, wanted.data(), wanted.size() * sizeof(wanted[0])) == 0;
    };
    EXPECT_TRUE(same(lists.decode_items, plan.decode_items()));
    EXPECT_TRUE(same(lists.prefill_items, plan.prefill_items()));
    EXPECT_TRUE(same(lists.decode_offsets, plan.decode_offsets()));
    EXPECT_TRUE(same(lists.prefill_offsets, plan.prefill_offsets()));
    EXPECT_TRUE(same(lists.merges, plan.merges()));
    EXPECT_TRUE(same(lists.block_tables, plan.tables()));
    EXPECT_EQ(*lists.num_merges, static_cast<int32_t>(plan.merges().size()));
    for (const int64_t at : {layout.decode_items, layout.prefill_items, layout.merges, layout.tables,
                             layout.decode_offsets, layout.prefill_offsets}) {
      EXPECT_EQ(at % 16, int64_t{0});
    }
  }
}

LH_TEST(a_bucket_s_limits_hold) {
  std::mt19937 random(9);
  const auto draw = [&](int32_t from, int32_t to) {
    return std::uniform_int_distribution<int32_t>(from, to)(random);
  };
  for (int trial = 0; trial < 200; ++trial) {
    const int32_t kv_heads = draw(1, 4), group = draw(1, 16);
    Step step = make_step(kv_heads * group, kv_heads, draw(1, 8));
    const int32_t bucket = draw(1, 16);
    const int32_t count = draw(0, bucket);
    int64_t entries = 0;
    for (int32_t i = 0; i < count; ++i) {
      step.add(1, draw(0, 1) == 0 ? draw(0, 200) : draw(0, 20000));
      entries += step.sequences.back().num_blocks;
    }
    AttentionPlan plan;
    step.build(plan);
    const AttentionCounts limit = decode_counts_max(bucket, entries, step.options);
    const AttentionCounts counts = plan.counts();
    EXPECT_TRUE(counts.decode_items <= limit.decode_items);
    EXPECT_EQ(counts.prefill_items, 0);
    EXPECT_TRUE(counts.merges <= limit.merges);
    EXPECT_TRUE(counts.table_entries <= limit.table_entries);
  }
}

LH_TEST_MAIN
