// matmul_gemv: every format and shape against the product in double.
#include "matmul_gemv.h"

#include "matmul_fixture.h"

using namespace longhaul::device;
using namespace lh_test;

namespace {

void run(DType type, const MatmulCase& shape, RowKind kind, uint32_t seed) {
  TestProduct product(type, shape, kind, seed);
  EXPECT_EQ(launch_matmul_gemv(product.params(), TestDevice::get().stream()), 0);
  product.expect();
}

}  // namespace

LH_TEST(quantized_weights) {
  uint32_t seed = 1;
  for (const DType type : kQuantTypes) {
    for (const MatmulCase& shape : kGemvCases) run(type, shape, RowKind::kRandom, ++seed);
  }
}

LH_TEST(quantized_sums_are_exact) {
  uint32_t seed = 1000;
  for (const DType type : kQuantTypes) {
    run(type, {1, 33, 544, 512, false, Epilogue::kStore, 1}, RowKind::kExact, ++seed);
    run(type, {8, 17, 544, 512, false, Epilogue::kAdd, 0}, RowKind::kExact, ++seed);
  }
}

LH_TEST(dense_weights) {
  uint32_t seed = 2000;
  for (const DType type : kDenseTypes) {
    for (const MatmulCase& shape : kGemvCases) run(type, shape, RowKind::kRandom, ++seed);
  }
}

LH_TEST(rows_do_not_see_each_other) {
  const MatmulCase shape = {4, 33, 544, 512, false, Epilogue::kStore, 0};
  for (const DType type : {DType::kQ4_0, DType::kQ4_K}) {
    TestProduct product(type, shape, RowKind::kRandom, 7);
    EXPECT_EQ(launch_matmul_gemv(product.params(), TestDevice::get().stream()), 0);
    const std::vector<float> clean = product.y();
    product.x().spoil(1);
    EXPECT_EQ(launch_matmul_gemv(product.params(), TestDevice::get().stream()), 0);
    const std::vector<float> spoiled = product.y();
    for (size_t i = 0; i < clean.size(); ++i) {
      const bool is_spoiled = i / static_cast<size_t>(product.stride()) == 1;
      EXPECT_TRUE(is_spoiled ? std::isnan(spoiled[i])
                             : std::memcmp(&clean[i], &spoiled[i], sizeof(float)) == 0);
    }
  }
}

LH_TEST(what_it_cannot_do_is_refused) {
  const MatmulCase shape = {2, 16, 64, 256, false, Epilogue::kStore, 1};
  TestProduct product(DType::kQ4_0, shape, RowKind::kRandom, 1);
  const Stream stream = TestDevice::get().stream();
  const auto refuses = [&](auto change) {
    MatmulParams params = product.params();
    change(params);
    EXPECT_EQ(launch_matmul_gemv(params, stream), kInvalidLaunch);
  };
  refuses([](MatmulParams& p) { p.rows = 9; });
  refuses([](MatmulParams& p) { p.rows = -1; });
  refuses([](MatmulParams& p) { p.x.form = InputForm::kF16; });
  refuses([](MatmulParams& p) { p.w.cols = 48; });
  refuses([](MatmulParams& p) { p.x.stride = 96; });
  refuses([](MatmulParams& p) { p.x.data = static_cast<char*>(p.x.data) + 8; });
  refuses([](MatmulParams& p) { p.epilogue = Epilogue::kSiluMul; });
  refuses([](MatmulParams& p) { p.epilogue = Epilogue::kSoftcap; });
  for (const float value : product.y()) EXPECT_TRUE(is_poison(value));
}

LH_TEST_MAIN
