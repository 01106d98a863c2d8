// attention_prefill against attention in double: tiles of rows, partials of cut ones, poison.
#include "attention_prefill.h"

#include "attention_fixture.h"

using namespace longhaul::device;
using namespace lh_test;

namespace {

constexpr int32_t kBlocks = 3;

std::string name_of(const char* name, CacheType type, int32_t head_dim) {
  return std::string(name) + ", " + cache_type_name(type) + ", head_dim " + std::to_string(head_dim);
}

// Tiles of `rows` packed rows of every sequence and kv head.
std::vector<AttentionItem> tiles(const AttentionProblem& problem, int32_t rows) {
  std::vector<AttentionItem> items;
  for (size_t s = 0; s < problem.batch().size(); ++s) {
    for (int32_t begin = 0; begin < problem.packed_rows(s); begin += rows) {
      for (int32_t head = 0; head < problem.shape().num_kv_heads; ++head) {
        items.push_back(
            problem.item(s, head, begin, std::min(rows, problem.packed_rows(s) - begin)));
      }
    }
  }
  return items;
}

void run_prefill(AttentionParams& p, ItemLists& lists, const std::string& what) {
  p.grids.prefill = lists.blocks();
  p.lists.prefill_items = lists.items();
  p.lists.prefill_offsets = lists.offsets();
  EXPECT_EQ(launch_attention_prefill(p, TestDevice::get().stream()), 0);
  TestDevice::get().finish(what.c_str());
}

void check_case(const AttentionCase& test, CacheType type, int32_t rows, uint32_t seed) {
  const std::string what = name_of(test.name, type, test.shape.head_dim);
  AttentionProblem problem(test.shape, type, test.batch, seed);
  AttentionParams p = problem.params();
  ItemLists lists(tiles(problem, rows), kBlocks);
  run_prefill(p, lists, what);
  problem.expect_output(what);
}

}  // namespace

LH_TEST(every_case_in_f16) {
  uint32_t seed = 1;
  for (const AttentionCase& test : prefill_cases()) {
    check_case(test, CacheType::kF16, attention_prefill_rows(test.shape.head_dim), seed++);
  }
}

LH_TEST(tiles_of_any_number_of_rows) {
  const AttentionShape shape{64, 3, 1, 32, 0, 0, InputForm::kF32};
  for (const int32_t rows : {1, 15, 64, 65, 100}) {
    check_case({"tiles", shape, {{37, 60}}}, CacheType::kF16, rows, 3);
  }
}

LH_TEST(every_instantiation) {
  for (const CacheType type : kCacheTypes) {
    for (const int32_t head_dim : kAttentionHeadDims) {
      const AttentionShape shape{head_dim, 4, 2, 32, 0, 0, InputForm::kF32};
      check_case({"instantiation", shape, {{50, 81}, {9, 0}}}, type, attention_prefill_rows(head_dim),
                 7);
    }
  }
}

LH_TEST(windows_and_softcaps_of_8_bit_types) {
  for (const CacheType type : {CacheType::kQ8, CacheType::kFp8}) {
    for (const AttentionCase& test : prefill_cases()) {
      const std::string name = test.name;
      if (name == "window" || name == "window and softcap") check_case(test, type, 128, 11);
    }
  }
}

LH_TEST(seeds) {
  const AttentionShape shape{128, 4, 1, 32, 70, 0, InputForm::kF32};
  for (uint32_t seed = 100; seed < 102; ++seed) {
    for (const CacheType type : {CacheType::kBF16, CacheType::kQ8}) {
      check_case({"seeds", shape, {{33, static_cast<int32_t>(seed)}}}, type, 128, seed);
    }
  }
}

// Pieces of one tile, cut anywhere, some with keys that a row does not see at all.
LH_TEST(partials_of_cut_items) {
  for (const CacheType type : kCacheTypes) {
    for (const int32_t window : {0, 45}) {
      const AttentionShape shape{64, 3, 1, 32, window, 0, InputForm::kF32};
      AttentionProblem problem(shape, type, {{30, 150}}, 21);
      const std::string what = name_of("cut", type, 64) + ", window " + std::to_string(window);
      const AttentionItem whole = problem.item(0, 0, 2, 85);
      const std::vector<int32_t> cuts = {whole.key_begin, whole.key_begin + 1, 128, 161,
                                         whole.key_end};
      std::vector<AttentionItem> items;
      for (size_t i = 0; i + 1 < cuts.size(); ++i) {
        AttentionItem piece = whole;
        piece.key_begin = cuts[i];
        piece.key_end = cuts[i + 1];
        piece.first_partial = 2 + 87 * static_cast<int32_t>(i);
        items.push_back(piece);
      }
      AttentionParams p = problem.params();
      PartialRows partials(360, 64);
      partials.use_in(p);
      ItemLists lists(items, kBlocks);
      run_prefill(p, lists, what);
      partials.download();
      for (size_t i = 0; i < items.size(); ++i) {
        for (int32_t row = 0; row < 85; ++row) {
          partials.expect(items[i].first_partial + row,
                          problem.exact(0, 0, 2 + row, items[i].key_begin, items[i].key_end),
                          attention_tolerance(type), what);
        }
        EXPECT_TRUE(partials.is_untouched(items[i].first_partial - 1));
        EXPECT_TRUE(partials.is_untouched(items[i].first_partial + 85));
      }
      for (const double value : problem.output()) EXPECT_TRUE(std::isnan(value));
    }
  }
}

LH_TEST(scales_of_values_far_apart) {
  for (const CacheType type : {CacheType::kQ8, CacheType::kFp8}) {
    const AttentionShape shape{64, 4, 1, 32, 0, 0, InputForm::kF32};
    AttentionProblem problem(shape, type, {{20, 170}}, 31);
    for (int32_t key = 0; key < 190; ++key) {
      problem.scale_value(0, key, 0, key < 150 ? std::ldexp(1.0f, key / 4 - 60) : 1.0f);
    }
    problem.upload_cache();
    AttentionParams p = problem.params();
    ItemLists lists(tiles(problem, 128), kBlocks);
    run_prefill(p, lists, "scales");
    problem.expect_output(name_of("scales far apart", type, 64));
  }
}

LH_TEST(a_key_that_is_nan_spoils_the_rows_that_see_it) {
  const AttentionShape shape{64, 2, 1, 32, 0, 0, InputForm::kF32};
  AttentionProblem problem(shape, CacheType::kFp8, {{40, 60}}, 41);
  problem.spoil_key(0, 75, 0);
  AttentionParams p = problem.params();
  ItemLists lists(tiles(problem, 128), kBlocks);
  run_prefill(p, lists, "nan");
  const std::vector<double> found = problem.output();
  for (int32_t row = 0; row < 40; ++row) {
    for (int32_t i = 0; i < 128; ++i) {
      const double value = found[static_cast<size_t>((1 + row) * problem.out_stride() + i)];
      EXPECT_EQ(std::isnan(value), row >= 15);
    }
  }
}

LH_TEST(empty_lists) {
  const AttentionShape shape{64, 2, 1, 32, 0, 0, InputForm::kF32};
  AttentionProblem problem(shape, CacheType::kF16, {{20, 3}}, 1);
  AttentionParams p = problem.params();
  ItemLists lists({}, kBlocks);
  run_prefill(p, lists, "empty");
  for (const double value : problem.output()) EXPECT_TRUE(std::isnan(value));
}

LH_TEST(shapes_without_a_kernel_are_refused) {
  const AttentionShape shape{64, 2, 1, 32, 0, 0, InputForm::kF32};
  AttentionProblem problem(shape, CacheType::kF16, {{20, 3}}, 1);
  AttentionParams p = problem.params();
  p.cache.head_dim = 112;
  EXPECT_EQ(launch_attention_prefill(p, TestDevice::get().stream()), kInvalidLaunch);
  p = problem.params();
  p.num_heads = 0;
  p.cache.num_kv_heads = 0;
  EXPECT_EQ(launch_attention_prefill(p, TestDevice::get().stream()), kInvalidLaunch);
}

LH_TEST_MAIN
