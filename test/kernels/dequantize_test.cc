// dequantize: every weight of every format, to the bit; and the layout it reads: pieces, units,
// pairs, padding.
#include "dequantize.h"

#include "matmul_fixture.h"

using namespace longhaul;
using namespace longhaul::device;
using namespace lh_test;

namespace {

struct Shape {
  int32_t rows, cols, super_cols, first_tile, tiles;
};

void expect_rows(TestMatrix& matrix, int32_t first_tile, int32_t tiles, const std::string& what) {
  DequantizeParams params;
  params.w = matrix.piece();
  params.first_tile = first_tile;
  params.tiles = tiles;
  const int32_t cols = params.w.cols, half = params.w.rows / 2;
  const bool paired = params.w.paired;
  const int64_t out_rows = int64_t{tiles} * 16;
  const int64_t stride = cols + 8;
  params.up_row = paired ? tiles * 8 : 0;
  DeviceArray<uint16_t> out(static_cast<size_t>(out_rows * stride));
  params.out = out.data();
  params.out_stride = stride;
  EXPECT_EQ(launch_dequantize(params, TestDevice::get().stream()), 0);
  const std::vector<uint16_t> found = out.download();
  int wrong = 0;
  for (int64_t r = 0; r < out_rows; ++r) {
    // Which row of the matrix should be there.
    int64_t row = first_tile * 16 + r;
    bool exists = row < params.w.rows;
    if (paired) {
      row = first_tile * 8 + r % (tiles * 8);
      exists = row < half;
      if (r >= tiles * 8) row += half;
    }
    for (int64_t col = 0; col < stride; ++col) {
      const uint16_t bits = found[static_cast<size_t>(r * stride + col)];
      bool same = false;
      if (!exists || col >= cols) {
        same = bits == 0x7f7f;
      } else {
        same = half_value(bits) == rounded_to_f16(static_cast<float>(matrix.value(row, col)));
      }
      if (!same && ++wrong <= 3) {
        fail(__FILE__, __LINE__,
             what + ": row " + std::to_string(r) + ", column " + std::to_string(col));
      }
    }
  }
  if (wrong > 3) fail(__FILE__, __LINE__, what + ": " + std::to_string(wrong) + " differ in all");
}

}  // namespace

LH_TEST(every_weight) {
  constexpr Shape kShapes[] = {{1, 32, 256, 0, 1},
                               {33, 96, 512, 0, 3},
                               {40, 320, 256, 1, 2},
                               {16, 2112, 2304, 0, 1},
                               {16, 64, 256, 0, 0}};
  uint32_t seed = 1;
  for (const DType type : kQuantTypes) {
    for (const Shape& shape : kShapes) {
      std::vector<Stored> parts;
      parts.emplace_back(type, shape.rows, is_super(type) ? shape.super_cols : shape.cols, ++seed);
      TestMatrix matrix(std::move(parts), false);
      expect_rows(matrix, shape.first_tile, shape.tiles, dtype_info(type).name);
    }
  }
}

LH_TEST(stacked_parts_and_pairs) {
  uint32_t seed = 50;
  for (const DType type : kQuantTypes) {
    const int32_t cols = is_super(type) ? 256 : 96;
    std::vector<Stored> parts;
    for (const int64_t rows : {18, 3, 20}) parts.emplace_back(type, rows, cols, ++seed);
    TestMatrix stacked(std::move(parts), false);
    EXPECT_EQ(stacked.layout().pieces.size(), size_t{1});
    expect_rows(stacked, 0, 3, "stacked");

    std::vector<Stored> pair;
    for (int i = 0; i < 2; ++i) pair.emplace_back(type, 20, cols, ++seed);
    TestMatrix paired(std::move(pair), true);
    EXPECT_TRUE(paired.layout().pieces[0].paired);
    expect_rows(paired, 0, 3, "paired");
    expect_rows(paired, 1, 1, "a tile of a pair");
  }
}

LH_TEST(pieces_follow_formats) {
  std::vector<Stored> parts;
  parts.emplace_back(DType::kQ4_K, 20, 256, 1);
  parts.emplace_back(DType::kQ4_K, 4, 256, 2);
  parts.emplace_back(DType::kQ6_K, 9, 256, 3);
  parts.emplace_back(DType::kF32, 2, 256, 4);
  parts.emplace_back(DType::kBF16, 3, 256, 5);
  std::vector<TensorView> views;
  for (const Stored& part : parts) views.push_back(part.view());
  Result<cuda::DeviceMatrixLayout> planned = cuda::plan_device_matrix(views, false);
  EXPECT_TRUE(planned.ok());
  const cuda::DeviceMatrixLayout& layout = planned.value();
  EXPECT_EQ(layout.rows, 38);
  EXPECT_EQ(layout.pieces.size(), size_t{3});
  if (layout.pieces.size() != 3) return;
  const int32_t first_rows[] = {0, 24, 33}, rows[] = {24, 9, 5};
  const int64_t units[] = {2, 1, 5}, unit_bytes[] = {4 * 576 + 64, 4 * 832 + 32, 512};
  int64_t end = 0;
  for (size_t i = 0; i < 3; ++i) {
    const cuda::DevicePiece& piece = layout.pieces[i];
    EXPECT_EQ(piece.first_row, first_rows[i]);
    EXPECT_EQ(piece.rows, rows[i]);
    EXPECT_EQ(piece.num_units, units[i]);
    EXPECT_EQ(piece.unit_bytes, unit_bytes[i]);
    EXPECT_EQ(piece.offset % 256, 0);
    EXPECT_TRUE(piece.offset >= end);
    end = piece.offset + piece.num_units * piece.unit_bytes;
  }
  EXPECT_TRUE(layout.bytes >= end && layout.bytes % 256 == 0);

  // A pair of different formats cannot be one; parts of F32 and bf16 are of one format.
  const auto pairs = [&](size_t a, size_t b) {
    const TensorView two[] = {views[a], views[b]};
    Result<cuda::DeviceMatrixLayout> pair = cuda::plan_device_matrix(two, true);
    return pair.ok() ? (pair.value().pieces[0].paired ? 1 : 0) : -1;
  };
  EXPECT_EQ(pairs(0, 1), -1);
  Stored same(DType::kBF16, 2, 256, 6), other(DType::kQ6_K, 20, 256, 7);
  views[4] = same.view();
  EXPECT_EQ(pairs(3, 4), 1);
  views[2] = other.view();
  EXPECT_EQ(pairs(0, 2), 0);
}

LH_TEST(shapes_that_do_not_fit_are_errors) {
  const Stored good(DType::kQ4_0, 2, 64, 1), dense(DType::kF16, 2, 48, 2);
  TensorView view = good.view();
  const auto code = [](const TensorView& part) {
    return cuda::plan_device_matrix(std::span(&part, 1), false).status().code();
  };
  EXPECT_TRUE(code(view) == ErrorCode::kOk);
  EXPECT_TRUE(cuda::plan_device_matrix({}, false).status().code() == ErrorCode::kModelFormat);
  view.cols = 48;
  EXPECT_TRUE(code(view) == ErrorCode::kModelFormat);
  view.cols = 64;
  view.rows = 0;
  EXPECT_TRUE(code(view) == ErrorCode::kModelFormat);
  view.rows = int64_t{1} << 40;
  EXPECT_TRUE(code(view) == ErrorCode::kModelFormat);
  EXPECT_TRUE(code(dense.view()) == ErrorCode::kUnsupported);
  const TensorView two[] = {good.view(), dense.view()};
  EXPECT_TRUE(cuda::plan_device_matrix(two, false).status().code() == ErrorCode::kModelFormat);
}

LH_TEST(what_it_cannot_do_is_refused) {
  std::vector<Stored> parts, dense_parts;
  parts.emplace_back(DType::kQ4_0, 20, 64, 1);
  dense_parts.emplace_back(DType::kF16, 20, 64, 1);
  TestMatrix matrix(std::move(parts), false), dense(std::move(dense_parts), false);
  DeviceArray<uint16_t> out(32 * 64);
  DequantizeParams params;
  params.w = matrix.piece();
  params.tiles = 2;
  params.out = out.data();
  params.out_stride = 64;
  const auto refuses = [&](auto change) {
    DequantizeParams changed = params;
    change(changed);
    EXPECT_EQ(launch_dequantize(changed, TestDevice::get().stream()), kInvalidLaunch);
  };
  refuses([](DequantizeParams& p) { p.tiles = 3; });
  refuses([](DequantizeParams& p) { p.first_tile = 1; });
  refuses([](DequantizeParams& p) { p.first_tile = -1; });
  refuses([](DequantizeParams& p) { p.out_stride = 68; });
  refuses([&](DequantizeParams& p) { p.w = dense.piece(); });
  for (const uint16_t bits : out.download()) EXPECT_EQ(bits, 0x7f7f);
}

LH_TEST_MAIN
