// attention_combine: partials made here, of one or two runs, against their merge in double.
#include "attention_combine.h"

#include "attention_fixture.h"

using namespace longhaul::device;
using namespace lh_test;

namespace {

constexpr int32_t kBlocks = 3, kKvHeads = 2, kGroup = 3;

// Output rows of 2 kv heads with 3 query heads each, and partials for them.
class CombineProblem {
 public:
  CombineProblem(int32_t head_dim, int32_t num_rows, int32_t num_partials, InputForm form,
                 uint32_t seed)
      : head_dim_(head_dim), num_rows_(num_rows), form_(form) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 1);
    o_.resize(static_cast<size_t>(num_partials) * static_cast<size_t>(head_dim));
    ml_.resize(static_cast<size_t>(num_partials) * 2);
    for (int32_t i = 0; i < num_partials; ++i) {
      const float l = 1.0f + std::fabs(normal(random)) * 20;
      ml_[2 * static_cast<size_t>(i)] = normal(random) * 4;
      ml_[2 * static_cast<size_t>(i) + 1] = l;
      for (int32_t c = 0; c < head_dim; ++c) o_[index(i, c)] = normal(random) * l;
    }
  }

  void make_empty(int32_t partial) {
    ml_[2 * static_cast<size_t>(partial)] = -INFINITY;
    ml_[2 * static_cast<size_t>(partial) + 1] = 0;
    for (int32_t c = 0; c < head_dim_; ++c) o_[index(partial, c)] = 0;
  }
  void add(const AttentionMerge& merge) { merges_.push_back(merge); }

  // Runs the kernel; rows of no merge must stay as they were.
  void check(const std::string& what) {
    const int64_t stride = int64_t{kKvHeads} * kGroup * head_dim_ + 4;
    const size_t element = form_ == InputForm::kF32 ? 4 : 2;
    DeviceArray<uint8_t> out(static_cast<size_t>(num_rows_ * stride) * element);
    DeviceArray<float> o(o_), ml(ml_);
    DeviceArray<AttentionMerge> merges(merges_);
    DeviceArray<int32_t> count(std::vector<int32_t>{static_cast<int32_t>(merges_.size())});
    AttentionParams p;
    p.out.form = form_;
    p.out.data = out.data();
    p.out.stride = stride;
    p.cache.num_kv_heads = kKvHeads;
    p.cache.head_dim = head_dim_;
    p.cache.block_size = 32;
    p.num_heads = kKvHeads * kGroup;
    p.grids.combine = kBlocks;
    p.lists.num_merges = count.data();
    p.lists.merges = merges.data();
    p.partial_o = o.data();
    p.partial_ml = ml.data();
    EXPECT_EQ(launch_attention_combine(p, TestDevice::get().stream()), 0);
    TestDevice::get().finish(what.c_str());

    std::vector<double> wanted(static_cast<size_t>(num_rows_ * stride), NAN);
    for (const AttentionMerge& merge : merges_) merge_exactly(merge, stride, wanted);
    const std::vector<uint8_t> bytes = out.download();
    for (size_t i = 0; i < wanted.size(); ++i) {
      const double found = written_number(form_, &bytes[i * element]);
      const double step = form_ == InputForm::kF32 ? 1e-5 : form_ == InputForm::kF16 ? 1e-3 : 1e-2;
      const bool good = std::isnan(wanted[i])
                            ? std::isnan(found)
                            : std::fabs(found - wanted[i]) <= step * (1 + std::fabs(wanted[i]));
      if (good) continue;
      fail(__FILE__, __LINE__, what + ": number " + std::to_string(i) + ": expected " +
                                   std::to_string(wanted[i]) + ", found " + std::to_string(found));
      return;
    }
  }

 private:
  size_t index(int32_t partial, int32_t channel) const {
    return static_cast<size_t>(partial) * static_cast<size_t>(head_dim_) +
           static_cast<size_t>(channel);
  }
  void merge_exactly(const AttentionMerge& merge, int64_t stride, std::vector<double>& wanted) const {
    for (int32_t i = 0; i < merge.packed_count; ++i) {
      std::vector<int32_t> partials;
      for (int r = 0; r < 2; ++r) {
        for (int32_t k = 0; k < merge.count[r]; ++k) {
          partials.push_back(merge.first[r] + k * merge.stride[r] + i);
        }
      }
      double max = -INFINITY, sum = 0;
      for (const int32_t partial : partials) {
        max = std::max<double>(max, ml_[2 * static_cast<size_t>(partial)]);
      }
      std::vector<double> o(static_cast<size_t>(head_dim_));
      for (const int32_t partial : partials) {
        if (ml_[2 * static_cast<size_t>(partial)] == -INFINITY) continue;
        const double weight = std::exp2(ml_[2 * static_cast<size_t>(partial)] - max);
        sum += weight * ml_[2 * static_cast<size_t>(partial) + 1];
        for (int32_t c = 0; c < head_dim_; ++c) {
          o[static_cast<size_t>(c)] += weight * o_[index(partial, c)];
        }
      }
      const int32_t packed = merge.packed_begin + i;
      const int64_t at = (merge.first_row + packed / kGroup) * stride +
                         (merge.kv_head * kGroup + packed % kGroup) * head_dim_;
      for (int32_t c = 0; c < head_dim_; ++c) {
        wanted[static_cast<size_t>(at + c)] = sum == 0 ? 0 : o[static_cast<size_t>(c)] / sum;
      }
    }
  }

  int32_t head_dim_, num_rows_;
  InputForm form_;
  std::vector<float> o_, ml_;
  std::vector<AttentionMerge> merges_;
};

AttentionMerge merge_of(int32_t first_row, int32_t packed_begin, int32_t packed_count,
                        int32_t kv_head, int32_t first, int32_t count, int32_t stride) {
  AttentionMerge merge;
  merge.first_row = first_row;
  merge.packed_begin = packed_begin;
  merge.packed_count = packed_count;
  merge.kv_head = kv_head;
  merge.first[0] = first;
  merge.count[0] = count;
  merge.stride[0] = stride;
  return merge;
}

}  // namespace

LH_TEST(rows_with_a_warp_each) {
  for (const InputForm form : {InputForm::kF32, InputForm::kF16, InputForm::kBF16}) {
    for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
      CombineProblem problem(head_dim, 6, 60, form, static_cast<uint32_t>(head_dim));
      problem.add(merge_of(1, 0, 3, 0, 2, 5, 3));
      problem.add(merge_of(1, 2, 4, 1, 20, 2, 7));   // packed rows 2..5: rows 1 and 2
      problem.add(merge_of(4, 1, 2, 1, 40, 1, 2));
      problem.add(merge_of(4, 0, 2, 0, 41, 9, 2));
      problem.check("a warp a row, head_dim " + std::to_string(head_dim));
    }
  }
}

LH_TEST(rows_shared_by_four_warps) {
  for (const int32_t count : {1, 3, 4, 9, 31, 33, 128, 129, 300}) {
    for (const int32_t head_dim : {80, 256}) {
      CombineProblem problem(head_dim, 5, 420, InputForm::kF32, static_cast<uint32_t>(count));
      problem.add(merge_of(1, 2, 1, 1, 3, count, 1));
      problem.add(merge_of(2, 0, 1, 0, 100, count, 1));
      problem.add(merge_of(3, 1, 1, 0, 6, count, 1));
      problem.add(merge_of(0, 1, 1, 1, 7, count, 1));   // a second merge for some block
      problem.check("shared rows, " + std::to_string(count) + " partials");
    }
  }
}

LH_TEST(long_rows_of_one_warp) {
  for (const int32_t count : {31, 32, 33, 70}) {
    CombineProblem problem(64, 4, 400, InputForm::kF32, static_cast<uint32_t>(count));
    problem.add(merge_of(1, 0, 4, 1, 10, count, 5));
    problem.check("long rows, " + std::to_string(count));
  }
}

// Partials of another segment behind the sequence's own; either may be missing.
LH_TEST(two_runs) {
  for (const int32_t rows : {1, 2, 4}) {
    for (const int32_t own : {0, 1, 6, 40}) {
      for (const int32_t other : {1, 5, 35}) {
        CombineProblem problem(128, 5, 400, InputForm::kF32, static_cast<uint32_t>(own * 50 + other));
        AttentionMerge merge = merge_of(2, 1, rows, 0, 4, own, 4);
        merge.first[1] = 190;
        merge.count[1] = other;
        merge.stride[1] = 6;
        problem.add(merge);
        problem.check("two runs, " + std::to_string(own) + " and " + std::to_string(other));
      }
    }
  }
}

LH_TEST(empty_partials) {
  for (const int32_t rows : {1, 4}) {
    CombineProblem problem(64, 4, 100, InputForm::kF32, 5);
    for (int32_t i = 0; i < 100; i += 3) problem.make_empty(i);
    for (int32_t i = 60; i < 100; ++i) problem.make_empty(i);
    problem.add(merge_of(1, 0, rows, 0, 0, 11, 5));
    problem.add(merge_of(1, 0, rows, 1, 60, 8, 5));   // all empty: zeros
    problem.check("empty partials");
  }
}

LH_TEST(no_merges) {
  CombineProblem problem(64, 2, 1, InputForm::kF32, 1);
  problem.check("no merges");
}

LH_TEST(shapes_without_a_kernel_are_refused) {
  AttentionParams p;
  p.cache.num_kv_heads = p.num_heads = 1;
  p.cache.block_size = 32;
  p.cache.head_dim = 260;
  EXPECT_EQ(launch_attention_combine(p, TestDevice::get().stream()), kInvalidLaunch);
  p.cache.head_dim = 66;
  EXPECT_EQ(launch_attention_combine(p, TestDevice::get().stream()), kInvalidLaunch);
}

LH_TEST_MAIN
