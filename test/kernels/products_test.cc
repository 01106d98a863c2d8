// Which way a product takes, in pieces and in ranges, against the product in double; and that what is
// prepared is what is multiplied.
#include "backend/cuda/products.h"

#include <cmath>
#include <random>

#include "backend/cuda/product_rows.h"
#include "cuda_engine.h"
#include "matmul_fixture.h"

using namespace longhaul;
using namespace longhaul::cuda;
using namespace lh_test;
using device::Epilogue;
using device::InputForm;

namespace {

struct ProductCase {
  std::string name;
  std::vector<DType> types;       // of the parts, of 48 rows each
  bool gated = false;
};

constexpr int64_t kPartRows = 208;   // 13 tiles; paired: 26
constexpr int64_t kCols = 256;
constexpr int32_t kManyRows = row_bucket(device::kQuantRowsMax + 1);

class Fixture {
 public:
  explicit Fixture(const ProductCase& one) : matrix_(parts(one), one.gated), values_(matrix_.values()) {
    cuda_matrix_.layout = matrix_.layout();
    cuda_matrix_.rows = cuda_matrix_.layout.rows;
    cuda_matrix_.cols = cuda_matrix_.layout.cols;
    // Pieces lie at their offsets from the first one's.
    cuda_matrix_.data = static_cast<std::byte*>(const_cast<void*>(matrix_.piece(0).data));
  }

  static std::vector<Stored> parts(const ProductCase& one) {
    std::vector<Stored> parts;
    for (size_t i = 0; i < one.types.size(); ++i) {
      parts.emplace_back(one.types[i], kPartRows, kCols, static_cast<uint32_t>(31 + i));
    }
    return parts;
  }

  const CudaMatrix& matrix() const { return cuda_matrix_; }
  double product(int64_t row, const float* x) const {
    double sum = 0;
    for (int64_t c = 0; c < kCols; ++c) sum += values_[static_cast<size_t>(row * kCols + c)] * x[c];
    return sum;
  }
  double length(int64_t row) const {
    double sum = 0;
    for (int64_t c = 0; c < kCols; ++c) {
      const double w = values_[static_cast<size_t>(row * kCols + c)];
      sum += w * w;
    }
    return std::sqrt(sum);
  }

 private:
  TestMatrix matrix_;
  std::vector<double> values_;
  CudaMatrix cuda_matrix_;
};

// Scratch of a backend, with ranges as small as asked for.
struct Scratch {
  Scratch(int32_t rows, int64_t gated_floats, int64_t dequantized_bytes)
      : input(static_cast<size_t>(form_bytes_max(row_bucket(rows), kCols))),
        gated(static_cast<size_t>(gated_floats)),
        dequantized(static_cast<size_t>(dequantized_bytes)),
        partials(static_cast<size_t>(device::kQuantPartials)),
        counters(std::vector<int32_t>(static_cast<size_t>(device::kQuantCounters), 0)) {
    buffer.data = input.data();
    buffer.rows = row_bucket(rows);
    products.gated = gated.data();
    products.gated_floats = gated_floats;
    products.dequantized = dequantized.data();
    products.dequantized_bytes = dequantized_bytes;
    products.partials = partials.data();
    products.counters = counters.data();
  }
  DeviceArray<std::byte> input;
  DeviceArray<float> gated;
  DeviceArray<std::byte> dequantized;
  DeviceArray<float> partials;
  DeviceArray<int32_t> counters;
  InputBuffer buffer;
  ProductScratch products;
};

std::vector<float> random_floats(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

double activated(double gate, double up, Activation activation) {
  if (activation == Activation::kSilu) return gate / (1 + std::exp(-gate)) * up;
  return 0.5 * gate * (1 + std::tanh(0.7978845608028654 * (gate + 0.044715 * gate * gate * gate))) * up;
}

constexpr double kRounding = 0.02;  // of |w| |x|: activations in 8 bits, of which errors average out

void multiply(const ProductCase& one, int32_t rows, Epilogue epilogue, float softcap, int64_t dequantized_bytes) {
  Fixture fixture(one);
  const int64_t outputs = fixture.matrix().rows;
  const std::vector<float> x = random_floats(static_cast<size_t>(rows * kCols), 3);
  const std::vector<float> before = random_floats(static_cast<size_t>(rows * outputs), 4);
  DeviceArray<float> x_device(x), y(before);
  Scratch scratch(rows, 128, dequantized_bytes);
  TestDevice& device = TestDevice::get();
  Products products(device.runtime(), device.stream());
  products.set_scratch(scratch.products);
  DeviceTensor tensor;
  tensor.data = x_device.data();
  tensor.rows = rows;
  tensor.cols = kCols;
  UnwrittenRows unwritten(scratch.buffer, kCols);
  TestDevice::check(products.prepare(fixture.matrix(), rows, unwritten, epilogue, y.data(), outputs), "prepare");
  TensorRows source(scratch.buffer, device.stream(), tensor, rows);
  TestDevice::check(
      products.multiply(fixture.matrix(), rows, source, epilogue, softcap, y.data(), outputs), "multiply");
  const std::vector<float> found = y.download();
  int wrong = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = x.data() + r * kCols;
    double x_length = 0;
    for (int64_t c = 0; c < kCols; ++c) x_length += row[c] * row[c];
    x_length = std::sqrt(x_length);
    for (int64_t o = 0; o < outputs; ++o) {
      double expected = fixture.product(o, row);
      if (softcap > 0) expected = softcap * std::tanh(expected / softcap);
      if (epilogue == Epilogue::kAdd) expected += before[static_cast<size_t>(r * outputs + o)];
      const double tolerance = kRounding * fixture.length(o) * x_length + 1e-4;
      if (!(std::fabs(found[static_cast<size_t>(r * outputs + o)] - expected) <= tolerance)) ++wrong;
    }
  }
  if (wrong > 0) fail(__FILE__, __LINE__, one.name + ", " + std::to_string(rows) + " rows: " + std::to_string(wrong) + " wrong");
}

void multiply_gated(const ProductCase& one, int32_t rows, Activation activation, InputForm form, int64_t gated_floats,
                    int64_t dequantized_bytes) {
  Fixture fixture(one);
  const int64_t outputs = kPartRows;
  // Small enough for results within f16's range.
  std::vector<float> x = random_floats(static_cast<size_t>(rows * kCols), 3);
  for (float& value : x) value *= 0.02f;
  DeviceArray<float> x_device(x), out(static_cast<size_t>(rows * outputs));
  Scratch scratch(rows, gated_floats, dequantized_bytes);
  TestDevice& device = TestDevice::get();
  Products products(device.runtime(), device.stream());
  products.set_scratch(scratch.products);
  DeviceTensor tensor;
  tensor.data = x_device.data();
  tensor.rows = rows;
  tensor.cols = kCols;
  TensorRows source(scratch.buffer, device.stream(), tensor, rows);
  if (Products::writes_f32(fixture.matrix(), rows)) form = InputForm::kF32;
  const device::ProductInput result = rows_in_form(form, out.data(), rows, outputs);
  TestDevice::check(products.multiply_gated(fixture.matrix(), rows, source, activation, result), "multiply_gated");
  const std::vector<float> memory = out.download();
  const auto value_of = [&](int64_t r, int64_t o) -> double {
    const auto index = static_cast<size_t>(r * outputs + o);
    if (form == InputForm::kF32) return memory[index];
    uint16_t bits = 0;
    std::memcpy(&bits, reinterpret_cast<const std::byte*>(memory.data()) + 2 * index, 2);
    return lh_test::half_value(bits);
  };
  int wrong = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = x.data() + r * kCols;
    double x_length = 0;
    for (int64_t c = 0; c < kCols; ++c) x_length += row[c] * row[c];
    x_length = std::sqrt(x_length);
    for (int64_t o = 0; o < outputs; ++o) {
      const double gate = fixture.product(o, row), up = fixture.product(outputs + o, row);
      const double expected = activated(gate, up, activation);
      // Both factors move, and the activation is no steeper than 1.13.
      const double gate_off = kRounding * fixture.length(o) * x_length;
      const double up_off = kRounding * fixture.length(outputs + o) * x_length;
      const double tolerance = 1.2 * (gate_off * (std::fabs(up) + up_off) + up_off * std::fabs(gate)) + 1e-3;
      if (!(std::fabs(value_of(r, o) - expected) <= tolerance)) ++wrong;
    }
  }
  if (wrong > 0) fail(__FILE__, __LINE__, one.name + ", " + std::to_string(rows) + " rows: " + std::to_string(wrong) + " wrong");
}

}  // namespace

LH_TEST(each_way_of_multiplying) {
  const ProductCase cases[] = {{"F16", {DType::kF16}}, {"BF16", {DType::kBF16}}, {"Q4_0", {DType::kQ4_0}}, {"Q6_K", {DType::kQ6_K}}};
  for (const ProductCase& one : cases) {
    for (const int32_t rows : {1, 8, 16, kManyRows}) {
      multiply(one, rows, Epilogue::kStore, 0, 1 << 20);
      multiply(one, rows, Epilogue::kAdd, 0, 1 << 20);
    }
  }
}

LH_TEST(capped_products) {
  for (const int32_t rows : {2, 16, kManyRows}) {
    multiply({"Q8_0", {DType::kQ8_0}}, rows, Epilogue::kStore, 5.0f, 1 << 20);
    multiply({"F16", {DType::kF16}}, rows, Epilogue::kStore, 5.0f, 1 << 20);
  }
}

LH_TEST(parts_of_several_formats) {
  const ProductCase one{"Q8_0, F16, BF16, Q8_0", {DType::kQ8_0, DType::kF16, DType::kBF16, DType::kQ8_0}};
  for (const int32_t rows : {4, 24, kManyRows}) multiply(one, rows, Epilogue::kAdd, 0, 1 << 20);
}

LH_TEST(matrices_expanded_in_ranges) {
  // Room for two tiles, for five, and for one.
  for (const int64_t tiles : {2, 5, 1}) {
    const int64_t bytes = tiles * 16 * kCols * 2;
    multiply({"Q4_1", {DType::kQ4_1}}, kManyRows, Epilogue::kStore, 0, bytes);
    multiply({"Q5_K", {DType::kQ5_K}}, kManyRows, Epilogue::kAdd, 0, bytes + 100);
  }
}

LH_TEST(gated_products_in_ranges) {
  const ProductCase pairs[] = {{"F16", {DType::kF16, DType::kF16}, true}, {"Q8_0", {DType::kQ8_0, DType::kQ8_0}, true}};
  for (const ProductCase& one : pairs) {
    for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
      for (const int32_t rows : {1, 16, kManyRows}) {
        const int64_t all = 2 * rows * kPartRows;
        multiply_gated(one, rows, activation, InputForm::kF16, all, 1 << 20);
        // 64 columns at a time: three ranges and the rest; tiles of 16 rows, a few at a time.
        multiply_gated(one, rows, activation, InputForm::kF16, 2 * rows * 70, 3 * 16 * kCols * 2);
        multiply_gated(one, rows, activation, InputForm::kF32, 2 * rows * 64, 100 * 16 * kCols * 2);
      }
    }
  }
}

LH_TEST(gates_apart) {
  const ProductCase one{"F16 and Q8_0", {DType::kF16, DType::kQ8_0}, true};
  for (const int32_t rows : {1, 16, kManyRows}) {
    multiply_gated(one, rows, Activation::kSilu, InputForm::kF16, 2 * rows * kPartRows, 1 << 20);
  }
}

LH_TEST(forms_follow_the_way) {
  const auto form = [](const ProductCase& one, int32_t rows) {
    return Products::form_of(Fixture(one).matrix(), rows);
  };
  EXPECT_TRUE(form({"", {DType::kF32}}, 1) == InputForm::kBF16);
  EXPECT_TRUE(form({"", {DType::kF16}}, 999) == InputForm::kF16);
  EXPECT_TRUE(form({"", {DType::kQ4_K, DType::kQ6_K}}, device::kQuantRowsMax) == InputForm::kQ8);
  EXPECT_TRUE(form({"", {DType::kQ4_K, DType::kQ6_K}}, device::kQuantRowsMax + 1) == InputForm::kF16);
  EXPECT_TRUE(form({"", {DType::kQ8_0, DType::kF16}}, device::kQuantRowsMax) == InputForm::kF32);
  EXPECT_TRUE(form({"", {DType::kQ8_0, DType::kF16}}, device::kQuantRowsMax + 1) == InputForm::kF16);
}

LH_TEST(row_buckets) {
  int32_t before = 0;
  for (int32_t rows = 1; rows <= 5000; ++rows) {
    const int32_t bucket = row_bucket(rows);
    EXPECT_TRUE(bucket >= rows && bucket >= before && row_bucket(bucket) == bucket);
    EXPECT_TRUE(rows <= 512 || (bucket - rows) * 16 < rows);
    before = bucket;
  }
  std::vector<int32_t> small;
  for_each_bucket(70, [&](int32_t bucket) { small.push_back(bucket); });
  EXPECT_TRUE((small == std::vector<int32_t>{1, 2, 4, 8, 16, 24, 32, 48, 64, 96}));
  EXPECT_EQ(row_bucket(0), 0);
}

LH_TEST_MAIN
