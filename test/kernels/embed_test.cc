// embed: rows of every format to the bit, sampled tokens from the device, ids out of range.
#include "embed.h"

#include <algorithm>

#include "matmul_fixture.h"

using namespace longhaul;
using namespace longhaul::device;
using namespace lh_test;

namespace {

struct Shape {
  int32_t vocab, cols, super_cols;
};

void run(DType type, const Shape& shape, uint32_t seed) {
  const int32_t cols = is_super(type) ? shape.super_cols : shape.cols;
  std::vector<Stored> parts;
  parts.emplace_back(type, shape.vocab, cols, seed);
  TestMatrix matrix(std::move(parts), false);
  const std::vector<int32_t> last = {3 % shape.vocab, shape.vocab - 1, -1, shape.vocab + 5, 0};
  // First, last, twice the same, slots, a slot that has sampled nothing, one that holds nonsense;
  // ids and slots that do not exist read the nearest.
  const std::vector<int32_t> ids = {0,  shape.vocab - 1, 9 % shape.vocab, 0,         -1, -2, -3,
                                    -4, shape.vocab,     INT32_MAX,       INT32_MIN, -6};
  const int64_t last_row = shape.vocab - 1;
  const std::vector<int64_t> rows = {0, last_row, 9 % shape.vocab, 0,        last[0], last_row,
                                     0, last_row, last_row,        last_row, 0,       0};
  DeviceArray<int32_t> ids_device(ids), last_device(last);
  const int64_t stride = cols + 4;
  DeviceArray<float> out(ids.size() * static_cast<size_t>(stride));
  EmbedParams params;
  params.w = matrix.piece();
  params.token_ids = ids_device.data();
  params.num_tokens = static_cast<int32_t>(ids.size());
  params.last_tokens = last_device.data();
  params.num_slots = static_cast<int32_t>(last.size());
  params.scale = 1.7f;
  params.out = out.data();
  params.out_stride = stride;
  EXPECT_EQ(launch_embed(params, TestDevice::get().stream()), 0);
  const std::vector<float> found = out.download();
  int wrong = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    for (int64_t col = 0; col < stride; ++col) {
      const float value = found[i * static_cast<size_t>(stride) + static_cast<size_t>(col)];
      const bool same = col >= cols
                            ? is_poison(value)
                            : value == static_cast<float>(matrix.value(rows[i], col)) * 1.7f;
      if (!same && ++wrong <= 3) {
        fail(__FILE__, __LINE__,
             std::string(dtype_info(type).name) + ": token " + std::to_string(i) + ", column " +
                 std::to_string(col));
      }
    }
  }
  if (wrong > 3) fail(__FILE__, __LINE__, std::to_string(wrong) + " differ in all");
}

}  // namespace

LH_TEST(rows_of_every_format) {
  constexpr Shape kShapes[] = {{1, 32, 256}, {40, 96, 512}, {17, 2144, 2304}};
  uint32_t seed = 1;
  for (const Shape& shape : kShapes) {
    for (const DType type : kQuantTypes) run(type, shape, ++seed);
    for (const DType type : kDenseTypes) run(type, shape, ++seed);
  }
}

LH_TEST(no_tokens_and_no_slots) {
  std::vector<Stored> parts;
  parts.emplace_back(DType::kQ8_0, 5, 32, 1);
  TestMatrix matrix(std::move(parts), false);
  DeviceArray<int32_t> ids(std::vector<int32_t>{-1});
  DeviceArray<float> out(32);
  EmbedParams params;
  params.w = matrix.piece();
  params.token_ids = ids.data();
  params.out = out.data();
  params.out_stride = 32;
  EXPECT_EQ(launch_embed(params, TestDevice::get().stream()), 0);
  for (const float value : out.download()) EXPECT_TRUE(is_poison(value));
  params.num_tokens = 1;  // a slot where there are none reads row 0
  EXPECT_EQ(launch_embed(params, TestDevice::get().stream()), 0);
  const std::vector<float> found = out.download();
  for (int64_t col = 0; col < 32; ++col) {
    EXPECT_EQ(found[static_cast<size_t>(col)], static_cast<float>(matrix.value(0, col)));
  }
}

LH_TEST(what_it_cannot_do_is_refused) {
  std::vector<Stored> parts;
  parts.emplace_back(DType::kQ4_0, 5, 64, 1);
  TestMatrix matrix(std::move(parts), false);
  DeviceArray<int32_t> ids(std::vector<int32_t>{0});
  DeviceArray<float> out(64);
  EmbedParams params;
  params.w = matrix.piece();
  params.token_ids = ids.data();
  params.num_tokens = 1;
  params.out = out.data();
  params.out_stride = 64;
  const auto refuses = [&](auto change) {
    EmbedParams changed = params;
    change(changed);
    EXPECT_EQ(launch_embed(changed, TestDevice::get().stream()), kInvalidLaunch);
  };
  refuses([](EmbedParams& p) { p.num_tokens = -1; });
  refuses([](EmbedParams& p) { p.out_stride = 66; });
  refuses([](EmbedParams& p) { p.out += 1; });
  refuses([](EmbedParams& p) { p.w.paired = true; });
  for (const float value : out.download()) EXPECT_TRUE(is_poison(value));
}

LH_TEST_MAIN
