// What a step sends up: forward passes' inputs stay within what was planned for them and where a
// recording expects them; sampling lists say what rows ask for, or leave a row to the host.
#include <algorithm>
#include <cstring>
#include <random>

#include "attention_shapes.h"
#include "backend/cuda/forward_inputs.h"
#include "backend/cuda/row_bucket.h"
#include "backend/cuda/sample_lists.h"
#include "test.h"

using namespace longhaul;
using namespace longhaul::cuda;

namespace {

constexpr int32_t kWild = 0x7f7f7f7f;

// A step's rows for every group, owning what StepInputs points to.
struct Step {
  std::vector<int32_t> token_ids, positions;
  std::vector<std::vector<int64_t>> slots;
  std::vector<AttentionWork> works;
  std::vector<std::vector<int32_t>> tables;
  std::vector<StepGroup> groups;
  StepInputs inputs;
};

struct Rows {
  int32_t first_position = 0;
  int32_t num_rows = 1;
};

std::unique_ptr<Step> make_step(const std::vector<Rows>& sequences, const std::vector<int32_t>& windows,
                                int32_t block_size) {
  auto step = std::make_unique<Step>();
  for (const Rows& one : sequences) {
    for (int32_t i = 0; i < one.num_rows; ++i) {
      step->token_ids.push_back(1000 + static_cast<int32_t>(step->token_ids.size()));
      step->positions.push_back(one.first_position + i);
    }
  }
  step->tables.reserve(sequences.size() * windows.size());
  for (size_t g = 0; g < windows.size(); ++g) {
    AttentionWork work;
    work.window = windows[g];
    work.block_size = block_size;
    std::vector<int64_t> slots;
    int32_t row = 0;
    for (size_t s = 0; s < sequences.size(); ++s) {
      const Rows& one = sequences[s];
      const int32_t blocks = (one.first_position + one.num_rows - 1) / block_size + 1;
      std::vector<int32_t>& table = step->tables.emplace_back();
      const int32_t seen = windows[g] > 0 ? std::max(0, one.first_position - windows[g] + 1) : 0;
      for (int32_t b = 0; b < blocks; ++b) {
        table.push_back(b < seen / block_size ? -1 : static_cast<int32_t>(1000 * (s + 1) + 100 * g) + b);
      }
      table.push_back(kWild);  // allocated ahead, not needed yet
      work.sequences.push_back({row, one.num_rows, one.first_position, table.data(), blocks + 1});
      for (int32_t i = 0; i < one.num_rows; ++i) {
        const int32_t position = one.first_position + i;
        slots.push_back(int64_t{table[static_cast<size_t>(position / block_size)]} * block_size +
                        position % block_size);
      }
      row += one.num_rows;
    }
    step->works.push_back(work);
    step->slots.push_back(slots);
  }
  for (size_t g = 0; g < windows.size(); ++g) step->groups.push_back({step->slots[g].data(), &step->works[g]});
  step->inputs.num_tokens = static_cast<int32_t>(step->token_ids.size());
  step->inputs.token_ids = step->token_ids.data();
  step->inputs.positions = step->positions.data();
  step->inputs.decode_only = step->token_ids.size() == sequences.size();
  step->inputs.groups = step->groups;
  return step;
}

ForwardInputs::Options options_of(int32_t num_heads, int32_t num_kv_heads, int32_t head_dim, int32_t processors) {
  ForwardInputs::Options options;
  options.group_windows = {0, 40, 600};
  options.attention.num_heads = num_heads;
  options.attention.num_kv_heads = num_kv_heads;
  options.attention.head_dim = head_dim;
  options.attention.block_size = 32;
  options.attention.grids = device::attention_grids(head_dim, device::CacheType::kF16, processors, 227 << 10);
  options.attention.partial_row_end = partial_rows_wanted(options.attention.grids);
  options.num_tokens_max = 700;
  options.num_slots = 20;
  options.max_position = 4096;
  return options;
}

// Entry of a sequence's table as kernels read it.
int32_t entry_of(const ForwardInputs& inputs, const std::byte* host, const std::byte* device,
                 int32_t group, int32_t table_offset, int32_t entry) {
  const auto* const tables = inputs.lists(group).block_tables;
  const auto* const bytes = reinterpret_cast<const std::byte*>(tables + table_offset + entry);
  int32_t value = 0;
  std::memcpy(&value, host + (bytes - device), sizeof value);
  return value;
}

}  // namespace

LH_TEST(no_step_is_larger_than_planned) {
  std::mt19937 random(1);
  const auto below = [&](int32_t limit) { return static_cast<int32_t>(random() % static_cast<uint32_t>(limit)); };
  for (const int32_t processors : {2, 132}) {
    for (const auto& [heads, kv_heads, head_dim] :
         {std::tuple<int32_t, int32_t, int32_t>{32, 8, 128}, {4, 1, 256}, {9, 3, 64}, {16, 16, 80}}) {
      const ForwardInputs::Options options = options_of(heads, kv_heads, head_dim, processors);
      ForwardInputs forward(options);
      const int64_t most = forward.bytes_max();
      std::vector<std::byte> device_bytes(16), host(static_cast<size_t>(most) + 64);
      for (int32_t round = 0; round < 60; ++round) {
        std::vector<Rows> sequences;
        int32_t left = options.num_tokens_max;
        const int32_t count = round % 3 == 0 ? options.num_slots : 1 + below(options.num_slots);
        const bool decode = round % 2 == 0;
        for (int32_t s = 0; s < count && left > 0; ++s) {
          Rows rows;
          // The last takes what is left, so that some steps are as large as they may be.
          rows.num_rows = decode ? 1 : s + 1 == count ? left : 1 + below(std::min(left, 90));
          left -= rows.num_rows;
          const int32_t last = options.max_position - rows.num_rows;
          rows.first_position = below(4) == 0 ? last : below(last + 1);
          sequences.push_back(rows);
        }
        const auto step = make_step(sequences, options.group_windows, 32);
        const bool fixed = step->inputs.decode_only;
        forward.plan(step->inputs, row_bucket(step->inputs.num_tokens), fixed, device_bytes.data());
        if (forward.bytes() > most) {
          lh_test::fail(__FILE__, __LINE__, std::to_string(forward.bytes()) + " bytes of " + std::to_string(most));
          continue;
        }
        std::memset(host.data() + forward.bytes(), 0x5a, 64);
        forward.encode(step->inputs, host.data());
        for (int64_t i = 0; i < 64; ++i) {
          EXPECT_TRUE(host[static_cast<size_t>(forward.bytes() + i)] == std::byte{0x5a});
        }
      }
    }
  }
}

LH_TEST(decode_steps_of_a_bucket_lie_at_the_same_places) {
  const ForwardInputs::Options options = options_of(8, 2, 64, 4);
  ForwardInputs forward(options);
  std::vector<std::byte> device_bytes(16);
  const auto places = [&](const std::vector<Rows>& sequences) {
    const auto step = make_step(sequences, options.group_windows, 32);
    forward.plan(step->inputs, row_bucket(step->inputs.num_tokens), true, device_bytes.data());
    std::vector<const void*> all = {forward.token_ids(), forward.positions()};
    for (int32_t g = 0; g < 3; ++g) {
      const device::AttentionLists lists = forward.lists(g);
      for (const void* place :
           {static_cast<const void*>(forward.slot_mapping(g)), static_cast<const void*>(lists.block_tables),
            static_cast<const void*>(lists.decode_items), static_cast<const void*>(lists.decode_offsets),
            static_cast<const void*>(lists.num_merges), static_cast<const void*>(lists.merges)}) {
        all.push_back(place);
      }
      EXPECT_TRUE(forward.has_decode(g) && forward.has_merges(g) && !forward.has_prefill(g));
    }
    return all;
  };
  const auto expected = places({{0, 1}, {5, 1}, {1, 1}, {2, 1}, {9, 1}});
  EXPECT_TRUE(places({{4000, 1}, {4095, 1}, {77, 1}, {640, 1}, {31, 1}, {32, 1}, {33, 1}, {1, 1}}) == expected);
  EXPECT_TRUE(places({{1, 1}, {1, 1}, {1, 1}, {1, 1}}) != expected);  // another bucket
}

LH_TEST(rows_beyond_a_step_are_harmless_and_tables_hold_what_is_needed) {
  const ForwardInputs::Options options = options_of(8, 2, 64, 4);
  ForwardInputs forward(options);
  std::vector<std::byte> device_bytes(16), host(static_cast<size_t>(forward.bytes_max()));
  // Three rows in a bucket of four; the second sequence sees less than its table.
  const auto step = make_step({{10, 1}, {1000, 1}, {31, 1}}, options.group_windows, 32);
  forward.plan(step->inputs, 4, true, device_bytes.data());
  forward.encode(step->inputs, host.data());
  const auto read = [&](const auto* place, int32_t index) {
    auto value = *place;
    std::memcpy(&value, host.data() + (reinterpret_cast<const std::byte*>(place + index) - device_bytes.data()),
                sizeof value);
    return value;
  };
  for (int32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(read(forward.token_ids(), i), 1000 + i);
    EXPECT_EQ(read(forward.positions(), i), step->positions[static_cast<size_t>(i)]);
  }
  EXPECT_EQ(read(forward.token_ids(), 3), 0);
  EXPECT_EQ(read(forward.positions(), 3), 0);
  for (int32_t g = 0; g < 3; ++g) {
    for (int32_t i = 0; i < 3; ++i) {
      EXPECT_EQ(read(forward.slot_mapping(g), i), step->slots[static_cast<size_t>(g)][static_cast<size_t>(i)]);
    }
    EXPECT_EQ(read(forward.slot_mapping(g), 3), int64_t{-1});
    // Every item's blocks, as the sequences have them.
    const device::AttentionLists lists = forward.lists(g);
    const int32_t num_items = read(lists.decode_offsets, options.attention.grids.decode);
    EXPECT_TRUE(num_items >= 3 * options.attention.num_kv_heads);
    for (int32_t i = 0; i < num_items; ++i) {
      const device::AttentionItem item = read(lists.decode_items, i);
      const std::vector<int32_t>& table = step->tables[static_cast<size_t>(3 * g + item.first_row)];
      for (int32_t entry = item.key_begin / 32; entry <= (item.key_end - 1) / 32; ++entry) {
        EXPECT_EQ(entry_of(forward, host.data(), device_bytes.data(), g, item.table_offset, entry),
                  table[static_cast<size_t>(entry)]);
      }
    }
  }
}

namespace {

struct Wanted {
  SamplingParams params;
  TokenCounts counts;
  SampleRow row;
  explicit Wanted(int32_t logits_row) {
    row.logits_row = logits_row;
    row.slot = 7;
    row.position = 20;
    row.params = &params;
  }
};

}  // namespace

LH_TEST(sampling_rows_say_what_was_asked_for) {
  SampleLists lists;
  lists.begin_step();
  lists.clear();
  Wanted known(0), plain(1), full(2);
  known.row.sample = false;
  known.row.known_token = 55;
  plain.params.temperature = 0;
  full.params.temperature = 0.5f;
  full.params.top_k = 9;
  full.params.seed = 0x123456789abcdef0;
  full.params.num_prompt_tokens = 18;
  full.params.min_tokens = 3;  // position 20 is its third token
  full.params.stop_token_ids = {4, 5};
  full.params.logit_bias = {{30, 1.0f}, {2, -1.0f}, {30, 0.25f}};
  full.params.repetition_penalty = 1.5f;
  full.params.num_logprobs = 3;
  full.counts.prompt = {1, 8};
  full.counts.output = {{8, 2}, {9, 1}};
  full.row.counts = &full.counts;
  full.row.num_top = 3;
  for (Wanted* one : {&known, &plain, &full}) EXPECT_TRUE(lists.add(one->row));
  EXPECT_EQ(lists.num_rows(), 3);
  EXPECT_TRUE(lists.any_top());

  std::vector<std::byte> bytes(static_cast<size_t>(lists.bytes()));
  lists.encode(bytes.data());
  device::SampleParams params;
  lists.fill(bytes.data(), &params);
  EXPECT_EQ(params.num_rows, 3);
  EXPECT_EQ(params.stages, device::kSampleAllStages);
  EXPECT_EQ(params.rows[0].known_token, 55);
  EXPECT_EQ(params.rows[0].slot, -1);
  EXPECT_EQ(params.rows[0].wants_logprob, 1);
  EXPECT_EQ(params.rows[1].slot, 7);
  EXPECT_EQ(params.rows[1].known_token, -1);
  EXPECT_EQ(params.rows[1].wants_logprob, 0);
  EXPECT_EQ(params.rows[1].repetition_penalty, 1.0f);
  const device::SampleRowInput& row = params.rows[2];
  EXPECT_EQ(row.logits_row, 2);
  EXPECT_EQ(row.seed, full.params.seed);
  EXPECT_EQ(row.top_k, 9);
  EXPECT_EQ(row.num_top, 3);
  EXPECT_EQ(row.repetition_penalty, 1.5f);
  EXPECT_EQ(row.num_biases, 2);  // each id once
  EXPECT_EQ(params.biases[row.bias_begin].token_id, 2);
  EXPECT_EQ(params.biases[row.bias_begin + 1].token_id, 30);
  EXPECT_EQ(params.biases[row.bias_begin + 1].bias, 1.25f);
  EXPECT_EQ(row.num_bans, 2);
  EXPECT_EQ(params.ids[row.ban_begin + 1], 5);
  EXPECT_EQ(row.num_prompt, 2);
  EXPECT_EQ(params.ids[row.prompt_begin + 1], 8);
  EXPECT_EQ(row.num_output, 2);
  EXPECT_EQ(params.counts[row.output_begin].count, 2);
  EXPECT_EQ(params.counts[row.output_begin + 1].token_id, 9);

  // One token later the ban is over.
  full.row.position = 21;
  lists.clear();
  EXPECT_TRUE(lists.add(full.row));
  bytes.resize(static_cast<size_t>(lists.bytes()));
  lists.encode(bytes.data());
  lists.fill(bytes.data(), &params);
  EXPECT_EQ(params.rows[0].num_bans, 0);
}

LH_TEST(greedy_rows_need_one_stage) {
  SampleLists lists;
  lists.begin_step();
  lists.clear();
  Wanted plain(0);
  plain.params.temperature = 0;
  EXPECT_TRUE(lists.add(plain.row));
  device::SampleParams params;
  lists.fill(nullptr, &params);
  EXPECT_EQ(params.stages, 0u);
  EXPECT_TRUE(!lists.any_top());
}

LH_TEST(rows_the_kernel_does_not_serve_are_left_to_the_host) {
  SampleLists lists;
  lists.begin_step();
  lists.clear();
  Wanted one(0), long_one(1);
  one.row.num_top = device::kSampleTopMax + 1;
  EXPECT_TRUE(!lists.add(one.row));
  one.row.num_top = device::kSampleTopMax;
  EXPECT_TRUE(lists.add(one.row));
  // Lists of a step have limited room, over all its launches.
  for (int32_t id = 0; id < 100'000; ++id) long_one.counts.prompt.push_back(id);
  long_one.row.counts = &long_one.counts;
  EXPECT_TRUE(lists.add(long_one.row));
  EXPECT_TRUE(lists.add(long_one.row));
  lists.clear();
  EXPECT_TRUE(!lists.add(long_one.row));
  EXPECT_EQ(lists.num_rows(), 0);
  EXPECT_TRUE(lists.add(one.row));
  EXPECT_TRUE(lists.bytes() <= SampleLists::step_bytes(3, 3));
  lists.begin_step();
  lists.clear();
  EXPECT_TRUE(lists.add(long_one.row));
  EXPECT_TRUE(lists.bytes() <= SampleLists::step_bytes(1, 1));
}

LH_TEST_MAIN
