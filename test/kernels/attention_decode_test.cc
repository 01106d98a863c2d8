// attention_decode against attention in double: whole items, partials of cut ones, poison, scales.
#include "attention_decode.h"

#include "attention_fixture.h"

using namespace longhaul::device;
using namespace lh_test;

namespace {

constexpr int32_t kBlocks = 3;

std::string name_of(const char* name, CacheType type, int32_t head_dim) {
  return std::string(name) + ", " + cache_type_name(type) + ", head_dim " + std::to_string(head_dim);
}

// One item a sequence and kv head.
std::vector<AttentionItem> whole_items(const AttentionProblem& problem) {
  std::vector<AttentionItem> items;
  for (size_t s = 0; s < problem.batch().size(); ++s) {
    if (problem.batch()[s].num_rows == 0) continue;
    for (int32_t head = 0; head < problem.shape().num_kv_heads; ++head) {
      items.push_back(problem.item(s, head, 0, problem.packed_rows(s)));
    }
  }
  return items;
}

void run_decode(AttentionParams& p, ItemLists& lists, const std::string& what) {
  p.grids.decode = lists.blocks();
  p.lists.decode_items = lists.items();
  p.lists.decode_offsets = lists.offsets();
  EXPECT_EQ(launch_attention_decode(p, TestDevice::get().stream()), 0);
  TestDevice::get().finish(what.c_str());
}

void check_case(const AttentionCase& test, CacheType type, uint32_t seed) {
  const std::string what = name_of(test.name, type, test.shape.head_dim);
  AttentionProblem problem(test.shape, type, test.batch, seed);
  AttentionParams p = problem.params();
  ItemLists lists(whole_items(problem), kBlocks);
  run_decode(p, lists, what);
  problem.expect_output(what);
}

}  // namespace

LH_TEST(every_case_in_f16) {
  uint32_t seed = 1;
  for (const AttentionCase& test : decode_cases()) check_case(test, CacheType::kF16, seed++);
}

LH_TEST(every_instantiation) {
  for (const CacheType type : kCacheTypes) {
    for (const int32_t head_dim : kAttentionHeadDims) {
      const AttentionShape shape{head_dim, 6, 2, 32, 0, 0, InputForm::kF32};
      check_case({"instantiation", shape, {{1, 161}, {4, 40}}}, type, 7);
    }
  }
}

LH_TEST(windows_softcaps_and_groups_of_8_bit_types) {
  for (const CacheType type : {CacheType::kQ8, CacheType::kFp8}) {
    for (const AttentionCase& test : decode_cases()) {
      const std::string name = test.name;
      if (name == "window" || name == "softcap and window" || name == "group of 7") {
        check_case(test, type, 11);
      }
    }
  }
}

LH_TEST(seeds) {
  const AttentionShape shape{128, 8, 2, 32, 90, 0, InputForm::kF32};
  for (uint32_t seed = 100; seed < 103; ++seed) {
    for (const CacheType type : {CacheType::kF16, CacheType::kQ8}) {
      check_case({"seeds", shape, {{1, static_cast<int32_t>(seed)}, {2, 200}}}, type, seed);
    }
  }
}

// Pieces of one item, cut anywhere, some with keys that a row does not see at all.
LH_TEST(partials_of_cut_items) {
  for (const CacheType type : kCacheTypes) {
    for (const int32_t window : {0, 45}) {
      const AttentionShape shape{64, 3, 1, 32, window, 0, InputForm::kF32};
      AttentionProblem problem(shape, type, {{5, 150}}, 21);
      const std::string what = name_of("cut", type, 64) + ", window " + std::to_string(window);
      const AttentionItem whole = problem.item(0, 0, 0, 15);
      const std::vector<int32_t> cuts = {whole.key_begin, whole.key_begin + 1, 128, 153,
                                         whole.key_end};
      std::vector<AttentionItem> items;
      for (size_t i = 0; i + 1 < cuts.size(); ++i) {
        AttentionItem piece = whole;
        piece.key_begin = cuts[i];
        piece.key_end = cuts[i + 1];
        piece.first_partial = 2 + 17 * static_cast<int32_t>(i);
        items.push_back(piece);
      }
      AttentionParams p = problem.params();
      PartialRows partials(80, 64);
      partials.use_in(p);
      ItemLists lists(items, kBlocks);
      run_decode(p, lists, what);
      partials.download();
      for (size_t i = 0; i < items.size(); ++i) {
        for (int32_t row = 0; row < 15; ++row) {
          partials.expect(items[i].first_partial + row,
                          problem.exact(0, 0, row, items[i].key_begin, items[i].key_end),
                          attention_tolerance(type), what);
        }
        EXPECT_TRUE(partials.is_untouched(items[i].first_partial - 1));
        EXPECT_TRUE(partials.is_untouched(items[i].first_partial + 15));
      }
      for (const double value : problem.output()) EXPECT_TRUE(std::isnan(value));
    }
  }
}

// Scales of V far apart: the accumulator's unit rises several times, and nothing leaves f16's range.
LH_TEST(scales_of_values_far_apart) {
  for (const CacheType type : {CacheType::kQ8, CacheType::kFp8}) {
    for (const int32_t head_dim : {64, 256}) {
      const AttentionShape shape{head_dim, 2, 1, 32, 0, 0, InputForm::kF32};
      AttentionProblem problem(shape, type, {{1, 255}}, 31);
      for (int32_t key = 0; key < 256; ++key) {
        problem.scale_value(0, key, 0, key < 150 ? std::ldexp(1.0f, key / 4 - 60) : 0.0f);
        if (key >= 200) problem.scale_value(0, key, 0, 1.0f);
      }
      problem.upload_cache();
      AttentionParams p = problem.params();
      ItemLists lists(whole_items(problem), kBlocks);
      run_decode(p, lists, "scales");
      problem.expect_output(name_of("scales far apart", type, head_dim));
    }
  }
}

LH_TEST(values_of_tiny_scales) {
  for (const CacheType type : {CacheType::kQ8, CacheType::kFp8}) {
    const AttentionShape shape{64, 2, 1, 32, 0, 0, InputForm::kF32};
    AttentionProblem problem(shape, type, {{1, 90}}, 32);
    for (int32_t key = 0; key <= 90; ++key) problem.scale_value(0, key, 0, 0x1p-40f);
    problem.upload_cache();
    AttentionParams p = problem.params();
    ItemLists lists(whole_items(problem), kBlocks);
    run_decode(p, lists, "tiny scales");
    const std::vector<double> found = problem.output();
    for (int32_t packed = 0; packed < 2; ++packed) {
      const ExactPartial exact = problem.exact(0, 0, packed, 0, 91);
      for (int32_t i = 0; i < 64; ++i) {
        const auto at = static_cast<size_t>(problem.out_stride() + packed * 64 + i);
        EXPECT_NEAR(found[at], exact.o[static_cast<size_t>(i)] / exact.l, 4e-3 * 0x1p-40);
      }
    }
  }
}

LH_TEST(a_key_that_is_nan_spoils_the_rows_that_see_it) {
  const AttentionShape shape{64, 2, 1, 32, 0, 0, InputForm::kF32};
  AttentionProblem problem(shape, CacheType::kQ8, {{4, 60}}, 41);
  problem.spoil_key(0, 62, 0);
  AttentionParams p = problem.params();
  ItemLists lists(whole_items(problem), kBlocks);
  run_decode(p, lists, "nan");
  const std::vector<double> found = problem.output();
  for (int32_t row = 0; row < 4; ++row) {
    for (int32_t i = 0; i < 128; ++i) {
      const double value = found[static_cast<size_t>((1 + row) * problem.out_stride() + i)];
      EXPECT_EQ(std::isnan(value), row >= 2);
    }
  }
}

LH_TEST(empty_lists) {
  const AttentionShape shape{64, 2, 1, 32, 0, 0, InputForm::kF32};
  AttentionProblem problem(shape, CacheType::kF16, {{1, 3}}, 1);
  AttentionParams p = problem.params();
  ItemLists lists({}, kBlocks);
  run_decode(p, lists, "empty");
  for (const double value : problem.output()) EXPECT_TRUE(std::isnan(value));
}

LH_TEST(shapes_without_a_kernel_are_refused) {
  const AttentionShape shape{64, 2, 1, 32, 0, 0, InputForm::kF32};
  AttentionProblem problem(shape, CacheType::kF16, {{1, 3}}, 1);
  const auto refused = [&](auto change) {
    AttentionParams p = problem.params();
    change(p);
    EXPECT_EQ(launch_attention_decode(p, TestDevice::get().stream()), kInvalidLaunch);
  };
  refused([](AttentionParams& p) { p.cache.head_dim = 72; });
  refused([](AttentionParams& p) { p.cache.block_size = 48; });
  refused([](AttentionParams& p) { p.cache.block_size = 16; });
  refused([](AttentionParams& p) { p.num_heads = 17; });
  refused([](AttentionParams& p) { p.out.form = InputForm::kQ8; });
}

LH_TEST_MAIN
