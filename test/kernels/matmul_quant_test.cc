// matmul_quant: every format and number of tokens a block, K split or whole, against the product in
// double.
#include "matmul_quant.h"

#include "matmul_fixture.h"

using namespace longhaul::device;
using namespace lh_test;

namespace {

// Zero counters, poisoned sums.
struct Scratch {
  DeviceArray<float> partials{static_cast<size_t>(kQuantPartials)};
  DeviceArray<int32_t> counters{std::vector<int32_t>(kQuantCounters, 0)};
  void use(MatmulParams& params) {
    params.partials = partials.data();
    params.counters = counters.data();
  }
};

void run(DType type, const MatmulCase& shape, RowKind kind, uint32_t seed, Scratch* scratch) {
  TestProduct product(type, shape, kind, seed);
  MatmulParams params = product.params();
  if (scratch) scratch->use(params);
  EXPECT_EQ(launch_matmul_quant(params, TestDevice::get().stream()), 0);
  product.expect();
}

}  // namespace

LH_TEST(every_shape_of_every_format) {
  uint32_t seed = 1;
  for (const DType type : kQuantTypes) {
    Scratch scratch;
    for (const MatmulCase& shape : kQuantCases)
      run(type, shape, RowKind::kRandom, ++seed, &scratch);
    for (const int32_t count : scratch.counters.download()) EXPECT_EQ(count, 0);
  }
}

LH_TEST(less_shared_memory) {
  // As on compute capability 8.9: 32 rows a block where 64 do not fit, the same results.
  for (const DType type : {DType::kQ8_0, DType::kQ4_0}) {
    const MatmulCase shape = {70, 33, 288, 256, false, Epilogue::kStore, 0};
    TestProduct product(type, shape, RowKind::kExact, 4);
    MatmulParams params = product.params();
    params.shared_bytes_max = 99 * 1024;
    EXPECT_EQ(launch_matmul_quant(params, TestDevice::get().stream()), 0);
    product.expect();
  }
}

LH_TEST(whole_k_in_one_block) {
  uint32_t seed = 500;
  for (const DType type : {DType::kQ4_1, DType::kQ6_K}) {
    run(type, {9, 33, 1056, 1024, false, Epilogue::kStore, 1}, RowKind::kRandom, ++seed, nullptr);
    run(type, {33, 17, 2080, 2048, false, Epilogue::kAdd, 0}, RowKind::kRandom, ++seed, nullptr);
  }
}

LH_TEST(sums_are_exact) {
  uint32_t seed = 1000;
  Scratch scratch;
  for (const DType type : kQuantTypes) {
    run(type, {9, 33, 544, 512, false, Epilogue::kStore, 1}, RowKind::kExact, ++seed, nullptr);
    run(type, {33, 17, 1024, 1024, false, Epilogue::kAdd, 0}, RowKind::kExact, ++seed, &scratch);
  }
}

LH_TEST(split_products_repeat_bit_for_bit) {
  const MatmulCase shape = {20, 33, 1568, 1536, false, Epilogue::kStore, 0};
  std::vector<float> first;
  Scratch scratch;
  for (int i = 0; i < 3; ++i) {
    TestProduct product(DType::kQ5_K, shape, RowKind::kRandom, 3);
    MatmulParams params = product.params();
    scratch.use(params);
    EXPECT_EQ(launch_matmul_quant(params, TestDevice::get().stream()), 0);
    const std::vector<float> y = product.y();
    if (i == 0) first = y;
    EXPECT_TRUE(std::memcmp(first.data(), y.data(), y.size() * sizeof(float)) == 0);
  }
}

LH_TEST(rows_do_not_see_each_other) {
  const MatmulCase shape = {18, 20, 288, 256, false, Epilogue::kStore, 0};
  for (const DType type : {DType::kQ5_1, DType::kQ6_K}) {
    TestProduct product(type, shape, RowKind::kRandom, 9);
    EXPECT_EQ(launch_matmul_quant(product.params(), TestDevice::get().stream()), 0);
    const std::vector<float> clean = product.y();
    product.x().spoil(5);
    EXPECT_EQ(launch_matmul_quant(product.params(), TestDevice::get().stream()), 0);
    const std::vector<float> spoiled = product.y();
    for (size_t i = 0; i < clean.size(); ++i) {
      const bool is_spoiled = i / static_cast<size_t>(product.stride()) == 5;
      EXPECT_TRUE(is_spoiled ? std::isnan(spoiled[i])
                             : std::memcmp(&clean[i], &spoiled[i], sizeof(float)) == 0);
    }
  }
}

LH_TEST(what_it_cannot_do_is_refused) {
  const MatmulCase shape = {9, 16, 64, 256, false, Epilogue::kStore, 1};
  const Stream stream = TestDevice::get().stream();
  TestProduct dense(DType::kF16, shape, RowKind::kRandom, 1);
  EXPECT_EQ(launch_matmul_quant(dense.params(), stream), kInvalidLaunch);
  TestProduct product(DType::kQ8_0, shape, RowKind::kRandom, 1);
  const auto refuses = [&](auto change) {
    MatmulParams params = product.params();
    change(params);
    EXPECT_EQ(launch_matmul_quant(params, stream), kInvalidLaunch);
  };
  refuses([](MatmulParams& p) { p.rows = -1; });
  refuses([](MatmulParams& p) { p.rows = 1 << 30; });
  refuses([](MatmulParams& p) { p.x.stride = 32; });
  refuses([](MatmulParams& p) { p.epilogue = Epilogue::kGeluMul; });
  for (const float value : product.y()) EXPECT_TRUE(is_poison(value));
}

LH_TEST_MAIN
