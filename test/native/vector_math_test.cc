// The scalar functions against double precision over their whole range, the fused multiply-add
// against the library's, and the 16-bit conversions exhaustively. That vector forms have the same
// bits is shown by matmul_test and the attention tests, which compare instruction sets.
#include "backend/cpu/vector_math.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>

#include "stored_weights.h"
#include "test.h"

using namespace longhaul::cpu;

namespace {
const float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();

// Largest |f(x) - exact(x)| / (|exact(x)| + floor) over floats of (-limit, limit), evenly in bits.
template <typename F, typename G>
double largest_error(float limit, double floor, const F& f, const G& exact) {
  double largest = 0;
  for (uint32_t bits = 0; bits < std::bit_cast<uint32_t>(limit); bits += 4099) {
    for (const float x : {std::bit_cast<float>(bits), -std::bit_cast<float>(bits)}) {
      const double e = exact(static_cast<double>(x));
      largest =
          std::max(largest, std::fabs(static_cast<double>(f(x)) - e) / (std::fabs(e) + floor));
    }
  }
  return largest;
}
}  // namespace

LH_TEST(exp_accuracy_and_edges) {
  const auto exact = [](double x) { return std::exp(x); };
  EXPECT_TRUE(largest_error(86.9f, 0, exp_scalar, exact) < 1.2e-7);
  EXPECT_EQ(exp_scalar(0.0f), 1.0f);
  EXPECT_EQ(exp_scalar(-0.0f), 1.0f);
  EXPECT_EQ(exp_scalar(-kInf), 0.0f);
  EXPECT_EQ(exp_scalar(-87.01f), 0.0f);
  EXPECT_TRUE(exp_scalar(-87.0f) > 1e-38f);
  EXPECT_TRUE(std::isfinite(exp_scalar(88.37f)));
  EXPECT_EQ(exp_scalar(88.5f), kInf);
  EXPECT_EQ(exp_scalar(kInf), kInf);
  EXPECT_TRUE(std::isnan(exp_scalar(kNan)));
}

LH_TEST(exp_is_monotonic) {
  // Softmax relies on order: a larger score never gets a smaller weight.
  float previous = 0;
  int64_t falls = 0;
  for (float x = -87.5f; x < 0.5f; x += 1.0f / 4096) {
    const float e = exp_scalar(x);
    if (e < previous) ++falls;
    previous = e;
  }
  EXPECT_EQ(falls, 0);
}

LH_TEST(activation_accuracy_and_edges) {
  EXPECT_TRUE(largest_error(20.0f, 1e-38, tanh_scalar, [](double x) { return std::tanh(x); }) <
              3e-7);
  EXPECT_TRUE(largest_error(80.0f, 1e-30, silu_scalar,
                            [](double x) { return x / (1 + std::exp(-x)); }) < 4e-7);
  const auto gelu = [](double x) {
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  };
  EXPECT_TRUE(largest_error(80.0f, 1e-3, gelu_scalar, gelu) < 1e-6);
  EXPECT_EQ(tanh_scalar(kInf), 1.0f);
  EXPECT_EQ(tanh_scalar(-kInf), -1.0f);
  EXPECT_EQ(tanh_scalar(-0.0f), 0.0f);
  EXPECT_EQ(silu_scalar(1e30f), 1e30f);
  EXPECT_EQ(silu_scalar(-1e30f), 0.0f);
  EXPECT_EQ(gelu_scalar(1e10f), 1e10f);
  EXPECT_EQ(gelu_scalar(-1e10f), 0.0f);
  for (const auto f : {exp_scalar, tanh_scalar, silu_scalar, gelu_scalar}) {
    EXPECT_TRUE(std::isnan(f(kNan)));
  }
}

LH_TEST(fused_rounds_once) {
  std::mt19937 random(9);
  int64_t wrong = 0;
  for (int i = 0; i < 3000000; ++i) {
    float v[3];
    for (float& value : v) {
      uint32_t bits = static_cast<uint32_t>(random());
      // Few significant bits and near exponents make exact halves likely; some values are tiny.
      if (i % 2 == 0) bits &= 0xfff80000u;
      if (i % 3 == 0) bits = (bits & 0x807fffffu) | (115 + bits % 20) << 23;
      if (i % 7 == 0) bits &= 0xa0ffffffu;
      if ((bits & 0x7f800000u) == 0x7f800000u) bits &= 0xbfffffffu;
      value = std::bit_cast<float>(bits);
    }
    const float a = fused(v[0], v[1], v[2]), b = std::fma(v[0], v[1], v[2]);
    if (std::memcmp(&a, &b, 4) != 0 && !(std::isnan(a) && std::isnan(b))) ++wrong;
  }
  // One that rounding twice gets wrong: 1 + 2^-24 + 2^-60.
  const float tie = fused(0x1p-30f, 0x1p-30f, 1.0f);
  EXPECT_EQ(tie, 1.0f);
  EXPECT_EQ(fused(1.0f + 0x1p-23f, 0x1p-24f - 0x1p-47f, 1.0f),
            std::fma(1.0f + 0x1p-23f, 0x1p-24f - 0x1p-47f, 1.0f));
  EXPECT_EQ(wrong, 0);
}

LH_TEST(sixteen_bit_floats) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const float value = f16_to_f32(static_cast<uint16_t>(h));
    const uint32_t magnitude = h & 0x7fff;
    if (magnitude > 0x7c00) {
      EXPECT_TRUE(std::isnan(value));
    } else if (magnitude == 0x7c00) {
      EXPECT_EQ(value, h & 0x8000 ? -kInf : kInf);
    } else {
      const float expected = lh_test::half_value(static_cast<uint16_t>(h));
      EXPECT_EQ(std::bit_cast<uint32_t>(value), std::bit_cast<uint32_t>(expected));
    }
    EXPECT_EQ(std::bit_cast<uint32_t>(bf16_to_f32(static_cast<uint16_t>(h))), h << 16);
  }
}

LH_TEST_MAIN
