// A step's attention as the backend runs it: plan, one upload, then prefill, decode and combine.
#include <cstddef>

#include "attention_combine.h"
#include "attention_decode.h"
#include "attention_fixture.h"
#include "attention_prefill.h"
#include "backend/cuda/attention_plan.h"

using namespace longhaul::device;
using namespace lh_test;
using longhaul::AttentionSequence;
using longhaul::cuda::AttentionCounts;
using longhaul::cuda::AttentionLayout;
using longhaul::cuda::AttentionPlan;
using longhaul::cuda::AttentionPlanOptions;
using longhaul::cuda::ExtraPartials;

namespace {

std::vector<AttentionSequence> sequences_of(const AttentionProblem& problem) {
  std::vector<AttentionSequence> sequences;
  for (size_t s = 0; s < problem.batch().size(); ++s) {
    AttentionSequence sequence;
    sequence.first_row = problem.first_row(s);
    sequence.num_rows = problem.batch()[s].num_rows;
    sequence.first_position = problem.batch()[s].first_position;
    sequence.block_table = problem.table(s);
    sequence.num_blocks = problem.num_table_entries(s);
    sequences.push_back(sequence);
  }
  return sequences;
}

AttentionPlanOptions options_of(const AttentionProblem& problem, int32_t partial_rows) {
  AttentionPlanOptions options;
  options.num_heads = problem.shape().num_heads;
  options.num_kv_heads = problem.shape().num_kv_heads;
  options.head_dim = problem.shape().head_dim;
  options.block_size = problem.shape().block_size;
  options.window = problem.shape().window;
  options.grids = {3, 5, 2};
  options.partial_row_end = partial_rows;
  return options;
}

// Launches with the lists at `bytes` on the device.
void run_step(AttentionParams& p, const std::string& what) {
  const Stream stream = TestDevice::get().stream();
  EXPECT_EQ(launch_attention_prefill(p, stream), 0);
  EXPECT_EQ(launch_attention_decode(p, stream), 0);
  EXPECT_EQ(launch_attention_combine(p, stream), 0);
  TestDevice::get().finish(what.c_str());
}

void check_step(const AttentionCase& test, CacheType type, uint32_t seed, bool tables_on_device) {
  const std::string what = std::string(test.name) + ", " + cache_type_name(type);
  AttentionProblem problem(test.shape, type, test.batch, seed);
  AttentionPlanOptions options = options_of(problem, 4000);
  std::vector<int32_t> table_offsets;
  for (size_t s = 0; s < test.batch.size(); ++s) table_offsets.push_back(problem.table_offset(s));
  if (tables_on_device) options.table_offsets = table_offsets.data();
  AttentionPlan plan;
  plan.build(sequences_of(problem), options);

  AttentionCounts counts = plan.counts();
  counts.decode_items += 2;   // a bucket's layout has room to spare
  counts.merges += 1;
  const AttentionLayout layout(counts, options.grids);
  std::vector<std::byte> bytes(static_cast<size_t>(layout.bytes), std::byte{kPoisonByte});
  plan.encode(layout, bytes.data());
  DeviceArray<std::byte> upload(bytes);

  AttentionParams p = problem.params();
  p.grids = options.grids;
  p.lists = layout.lists(upload.data(), tables_on_device ? p.lists.block_tables : nullptr);
  PartialRows partials(plan.num_partial_rows(), test.shape.head_dim);
  partials.use_in(p);
  run_step(p, what);
  partials.download();   // guard bands
  problem.expect_output(what);
}

}  // namespace

LH_TEST(mixed_steps) {
  const std::vector<AttentionCase> cases = {
      {"mixed", {64, 6, 2, 32, 0, 0, InputForm::kF32}, {{1, 700}, {40, 33}, {1, 5}, {2, 1300}, {0, 9}}},
      {"window", {64, 4, 2, 32, 300, 0, InputForm::kF16}, {{1, 900}, {30, 620}, {1, 299}, {1, 300}}},
      {"softcap", {80, 2, 1, 64, 0, 10, InputForm::kBF16}, {{1, 1000}, {20, 64}}},
      {"one long", {128, 4, 1, 32, 0, 0, InputForm::kF32}, {{1, 1500}}},
      {"few rows over a long context", {64, 8, 1, 32, 0, 0, InputForm::kF32}, {{4, 1600}}},
      {"shared prefix", {64, 4, 1, 32, 0, 0, InputForm::kF32}, {{1, 800}, {1, 850, 0, 25}, {9, 810, 0, 25}}},
  };
  uint32_t seed = 1;
  for (const AttentionCase& test : cases) {
    for (const CacheType type : {CacheType::kF16, CacheType::kQ8}) {
      check_step(test, type, seed, seed % 2 == 0);
      ++seed;
    }
  }
}

LH_TEST(other_types_over_many_pieces) {
  const AttentionShape shape{96, 4, 2, 32, 0, 0, InputForm::kF32};
  for (const CacheType type : kCacheTypes) {
    check_step({"pieces", shape, {{1, 1200}, {8, 1100}}}, type, 50, false);
  }
}

// The same lists with less and less scratch for partials.
LH_TEST(any_amount_of_scratch) {
  const AttentionShape shape{64, 4, 1, 32, 0, 0, InputForm::kF32};
  AttentionProblem problem(shape, CacheType::kF16, {{1, 900}, {6, 1100}}, 3);
  for (const int32_t rows : {0, 7, 8, 30, 120}) {
    const AttentionPlanOptions options = options_of(problem, rows);
    AttentionPlan plan;
    plan.build(sequences_of(problem), options);
    EXPECT_TRUE(plan.num_partial_rows() <= rows);
    const AttentionLayout layout(plan.counts(), options.grids);
    std::vector<std::byte> bytes(static_cast<size_t>(layout.bytes));
    plan.encode(layout, bytes.data());
    DeviceArray<std::byte> upload(bytes);
    AttentionParams p = problem.params();
    p.grids = options.grids;
    p.lists = layout.lists(upload.data());
    PartialRows partials(rows, 64);
    partials.use_in(p);
    run_step(p, "scratch");
    partials.download();
    problem.expect_output("scratch for " + std::to_string(rows) + " partial rows");
  }
}

// Rows that also attend to another segment, whose partials somebody else has left.
LH_TEST(merged_with_another_segment) {
  constexpr int32_t kHeadDim = 64, kParts = 3, kFirst = 2000;
  for (const CacheType type : {CacheType::kF16, CacheType::kFp8}) {
    const AttentionShape shape{kHeadDim, 4, 2, 32, 0, 0, InputForm::kF32};
    AttentionProblem problem(shape, type, {{1, 40}, {1, 500}, {20, 100}}, 17);
    AttentionPlanOptions options = options_of(problem, kFirst);
    const ExtraPartials extras[] = {{kFirst, kParts, 2, 6}, {0, 0, 0, 0}, {kFirst + 12, kParts, 40, 120}};
    options.extras = extras;
    AttentionPlan plan;
    plan.build(sequences_of(problem), options);
    const AttentionLayout layout(plan.counts(), options.grids);
    std::vector<std::byte> bytes(static_cast<size_t>(layout.bytes));
    plan.encode(layout, bytes.data());
    DeviceArray<std::byte> upload(bytes);

    const int32_t rows = kFirst + 12 + 240;
    std::mt19937 random(8);
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> o(static_cast<size_t>(rows * kHeadDim), NAN), ml(static_cast<size_t>(rows) * 2, NAN);
    for (int32_t row = kFirst; row < rows; ++row) {
      const bool is_empty = row % 7 == 0;
      const float l = is_empty ? 0 : 5 + std::fabs(normal(random)) * 30;
      ml[2 * static_cast<size_t>(row)] = is_empty ? -INFINITY : normal(random) + 5;
      ml[2 * static_cast<size_t>(row) + 1] = l;
      for (int32_t c = 0; c < kHeadDim; ++c) {
        o[static_cast<size_t>(row * kHeadDim + c)] = l * normal(random);
      }
    }
    DeviceArray<float> o_device(o), ml_device(ml);
    AttentionParams p = problem.params();
    p.grids = options.grids;
    p.lists = layout.lists(upload.data());
    p.partial_o = o_device.data();
    p.partial_ml = ml_device.data();
    run_step(p, "segments");
    problem.expect_output("segments", [&](size_t s, int32_t head, int32_t packed) {
      std::vector<ExactPartial> others;
      for (int32_t k = 0; k < extras[s].count; ++k) {
        const auto row = static_cast<size_t>(extras[s].first + head * extras[s].kv_head_stride +
                                             k * extras[s].stride + packed);
        ExactPartial other;
        other.m = ml[2 * row];
        other.l = ml[2 * row + 1];
        for (size_t c = 0; c < kHeadDim; ++c) other.o.push_back(o[row * kHeadDim + c]);
        others.push_back(std::move(other));
      }
      return others;
    });
  }
}

LH_TEST_MAIN
