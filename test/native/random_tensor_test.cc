// Random weights have the deviation asked for in every type, and are the same every time.
#include "load/random_tensor.h"

#include <cmath>
#include <vector>

#include "test.h"

using namespace longhaul;

namespace {

float f16(const uint8_t* bytes) {
  const int bits = bytes[0] | bytes[1] << 8;
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                    : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  return (bits & 0x8000) != 0 ? -value : value;
}

// Plain dequantization by the published block layouts, one element at a time.
float element(DType dtype, const uint8_t* block, int i) {
  const auto nibble = [&](const uint8_t* qs) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; };
  const auto high = [&](const uint8_t* qh) { return (qh[i / 8] >> (i % 8) & 1) << 4; };
  switch (dtype) {
    case DType::kF32: {
      float value;
      std::memcpy(&value, block, 4);
      return value;
    }
    case DType::kF16: return f16(block);
    case DType::kBF16: {
      const uint32_t bits = static_cast<uint32_t>(block[0] | block[1] << 8) << 16;
      float value;
      std::memcpy(&value, &bits, 4);
      return value;
    }
    case DType::kQ8_0: return f16(block) * static_cast<float>(static_cast<int8_t>(block[2 + i]));
    case DType::kQ4_0: return f16(block) * static_cast<float>(nibble(block + 2) - 8);
    case DType::kQ4_1: return f16(block) * static_cast<float>(nibble(block + 4)) + f16(block + 2);
    case DType::kQ5_0:
      return f16(block) * static_cast<float>((nibble(block + 6) | high(block + 2)) - 16);
    case DType::kQ5_1:
      return f16(block) * static_cast<float>(nibble(block + 8) | high(block + 4)) + f16(block + 2);
    case DType::kQ4_K:
    case DType::kQ5_K: {
      const uint8_t* scales = block + 4;
      const int j = i / 32;
      const int scale = j < 4 ? scales[j] & 63 : (scales[j + 4] & 15) | scales[j - 4] >> 6 << 4;
      const int minimum = j < 4 ? scales[j + 4] & 63 : scales[j + 4] >> 4 | scales[j] >> 6 << 4;
      const uint8_t* qs = block + (dtype == DType::kQ4_K ? 16 : 48) + j / 2 * 32 + i % 32;
      int q = j % 2 == 0 ? *qs & 15 : *qs >> 4;
      if (dtype == DType::kQ5_K) q |= (block[16 + i % 32] >> j & 1) << 4;
      return f16(block) * static_cast<float>(scale * q) - f16(block + 2) * static_cast<float>(minimum);
    }
    case DType::kQ6_K: {
      const int half = i / 128, r = i % 128, quarter = r / 32, l = r % 32;
      const uint8_t* ql = block + 64 * half + (quarter % 2) * 32 + l;
      const int low = quarter < 2 ? *ql & 15 : *ql >> 4;
      const int q = (low | (block[128 + 32 * half + l] >> (2 * quarter) & 3) << 4) - 32;
      const int scale = static_cast<int8_t>(block[192 + i / 16]);
      return f16(block + 208) * static_cast<float>(scale * q);
    }
  }
  return 0;
}

std::vector<float> values(const RandomTensor& request) {
  auto made = make_random_tensor(request);
  EXPECT_EQ(made.status().message(), std::string());
  std::vector<float> out;
  if (!made.ok()) return out;
  const DTypeInfo& info = dtype_info(request.dtype);
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(made.value().get());
  const int64_t blocks = request.rows * request.cols / info.block_elements;
  for (int64_t b = 0; b < blocks; ++b) {
    for (int i = 0; i < info.block_elements; ++i) {
      out.push_back(element(request.dtype, bytes + b * info.block_bytes, i));
    }
  }
  return out;
}

}  // namespace

LH_TEST(matrices_have_mean_0_and_variance_1_over_cols) {
  for (int d = 0; d < kNumDTypes; ++d) {
    for (const int64_t cols : {int64_t{256}, int64_t{8192}}) {
      RandomTensor request;
      request.dtype = static_cast<DType>(d);
      request.rows = 65536 / cols * 4;
      request.cols = cols;
      request.seed = 5;
      const std::vector<float> v = values(request);
      double sum = 0, squares = 0;
      for (const float x : v) sum += x, squares += double{x} * x;
      const double n = static_cast<double>(v.size());
      EXPECT_NEAR(sum / n * std::sqrt(static_cast<double>(cols)), 0, 0.05);
      EXPECT_NEAR(squares / n * static_cast<double>(cols), 1, 0.08);
    }
  }
}

LH_TEST(norms_are_near_1_and_biases_small) {
  RandomTensor request;
  request.cols = 512;
  request.rows = 1;
  request.kind = random_kind_of("layers.3.attention_norm");
  for (const float x : values(request)) EXPECT_TRUE(x >= 0.9f && x <= 1.1f);
  request.norm_offset = -1;
  for (const float x : values(request)) EXPECT_TRUE(x >= -0.101f && x <= 0.101f);
  request.kind = random_kind_of("layers.0.q_bias");
  for (const float x : values(request)) EXPECT_TRUE(std::fabs(x) < 0.1f);
  EXPECT_TRUE(random_kind_of("layers.0.q_proj") == RandomKind::kMatrix);
}

LH_TEST(a_seed_names_its_values) {
  RandomTensor request;
  request.dtype = DType::kQ5_K;
  request.rows = 2;
  request.cols = 512;
  request.seed = 1;
  const std::vector<float> first = values(request);
  EXPECT_TRUE(first == values(request));
  request.seed = 2;
  EXPECT_TRUE(first != values(request));
}

LH_TEST(impossible_shapes_are_refused) {
  const auto refused = [](DType dtype, int64_t rows, int64_t cols) {
    RandomTensor request;
    request.dtype = dtype;
    request.rows = rows;
    request.cols = cols;
    const auto made = make_random_tensor(request);
    EXPECT_TRUE(!made.ok() && made.status().code() == ErrorCode::kModelFormat);
  };
  refused(DType::kF32, 0, 4);
  refused(DType::kF32, 4, -1);
  refused(DType::kQ8_0, 1, 33);
  refused(DType::kQ4_K, 1, 128);
  refused(DType::kF32, int64_t{1} << 31, int64_t{1} << 31);
  refused(DType::kF32, INT64_MAX, INT64_MAX);
}

LH_TEST_MAIN
