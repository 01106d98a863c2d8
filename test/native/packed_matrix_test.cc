// Packing loses nothing: every dtype's rows come back exactly as an independent reading of the
// stored bytes gives them, whatever the number of rows, parts and columns; shapes that a dtype
// cannot hold are refused.
#include "backend/cpu/packed_matrix.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include "backend/cpu/matmul.h"
#include "stored_weights.h"
#include "test.h"

using namespace longhaul;
using namespace longhaul::cpu;
using lh_test::Stored;

namespace {

const DType kAll[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0,
                      DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                      DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

void expect_rows(const PackedMatrix& matrix, const std::vector<const Stored*>& parts, float scale) {
  std::vector<float> out(static_cast<size_t>(packed_cols(matrix)) + 1);
  int64_t row = 0;
  for (const Stored* part : parts) {
    for (int64_t r = 0; r < part->rows; ++r, ++row) {
      out.back() = 12345.0f;  // nothing is written past the row
      gather_row(matrix, row, scale, out.data());
      EXPECT_EQ(out.back(), 12345.0f);
      int64_t wrong = 0;
      for (int64_t k = 0; k < part->cols; ++k) {
        const float expected = part->value(r, k) * scale;
        if (std::memcmp(&expected, &out[static_cast<size_t>(k)], 4) != 0) ++wrong;
      }
      EXPECT_EQ(wrong, 0);
    }
  }
  EXPECT_EQ(row, packed_rows(matrix));
}

}  // namespace

LH_TEST(every_dtype_and_shape) {
  ThreadPool pool(2);
  uint32_t seed = 1;
  for (const DType dtype : kAll) {
    const int block = dtype_info(dtype).block_elements;
    for (const int64_t rows : {1, 15, 16, 17, 40}) {
      for (const int64_t blocks : {1, 2, 5}) {
        const int64_t cols = block == 1 ? blocks * 17 : blocks * block;
        const Stored stored(dtype, rows, cols, ++seed);
        const TensorView view = stored.view();
        auto packed = pack_matrix({&view, 1}, false, pool);
        EXPECT_TRUE(packed.ok());
        EXPECT_EQ(packed_rows(*packed.value()), rows);
        EXPECT_EQ(packed_cols(*packed.value()), cols);
        expect_rows(*packed.value(), {&stored}, 1.0f);
        expect_rows(*packed.value(), {&stored}, 25.3f);
      }
    }
  }
}

LH_TEST(parts_of_several_dtypes) {
  ThreadPool pool(2);
  const Stored q(DType::kQ4_K, 48, 512, 7), k(DType::kQ6_K, 24, 512, 8), v(DType::kF16, 5, 512, 9);
  const TensorView views[] = {q.view(), k.view(), v.view()};
  auto packed = pack_matrix(views, false, pool);
  EXPECT_TRUE(packed.ok());
  expect_rows(*packed.value(), {&q, &k, &v}, 1.0f);
}

LH_TEST(interleaved_parts) {
  ThreadPool pool(2);
  for (const DType dtype : kAll) {
    const Stored gate(dtype, 37, 256, 11), up(dtype, 37, 256, 12);
    const TensorView views[] = {gate.view(), up.view()};
    auto packed = pack_matrix(views, true, pool);
    EXPECT_TRUE(packed.ok());
    expect_rows(*packed.value(), {&gate, &up}, 1.0f);  // rows keep their stacked numbers
    EXPECT_EQ(packed.value()->strips.size(), 3u);
  }
}

LH_TEST(no_dtype_grows) {
  ThreadPool pool(1);
  for (const DType dtype : kAll) {
    const Stored stored(dtype, 64, 1024, 3);
    const TensorView view = stored.view();
    auto packed = pack_matrix({&view, 1}, false, pool);
    const double ratio = static_cast<double>(packed_bytes(*packed.value())) /
                         static_cast<double>(64 * row_bytes(dtype, 1024));
    EXPECT_TRUE(ratio >= 1.0 && ratio < 1.03);
  }
}

LH_TEST(refused_shapes) {
  ThreadPool pool(1);
  const Stored a(DType::kQ4_0, 16, 64, 1), b(DType::kQ4_0, 16, 96, 2), c(DType::kQ8_0, 16, 64, 3),
      d(DType::kQ4_0, 17, 64, 4);
  const auto refused = [&](std::vector<TensorView> parts, bool interleave) {
    auto packed = pack_matrix(parts, interleave, pool);
    return !packed.ok() && packed.status().code() == ErrorCode::kModelFormat;
  };
  EXPECT_TRUE(refused({}, false));
  EXPECT_TRUE(refused({a.view(), b.view()}, false));
  EXPECT_TRUE(refused({a.view(), c.view()}, true));
  EXPECT_TRUE(refused({a.view(), d.view()}, true));
  EXPECT_TRUE(refused({a.view()}, true));
  TensorView odd = a.view();
  odd.cols = 48;
  EXPECT_TRUE(refused({odd}, false));
  odd = a.view();
  odd.dtype = DType::kQ4_K;
  EXPECT_TRUE(refused({odd}, false));
  odd = a.view();
  odd.rows = 0;
  EXPECT_TRUE(refused({odd}, false));
  EXPECT_TRUE(pack_matrix(std::vector<TensorView>{a.view(), c.view()}, false, pool).ok());
}

LH_TEST_MAIN
