// Number primitives against independent definitions: all 65,536 f16 and bf16 and all 256 fp8
// values one way, and back from every value, every midpoint and their neighbors.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "simt/launch_probe.h"

namespace {

using namespace longhaul::device;

// A small float format by its definition.
struct Format {
  int exponent_bits, mantissa_bits, bias;
  bool has_infinity;
};
constexpr Format kF16{5, 10, 15, true}, kBf16{8, 7, 127, true}, kFp8{4, 3, 7, false};

double value_of(const Format& format, uint32_t bits) {
  const uint32_t mantissa = bits & ((1u << format.mantissa_bits) - 1);
  const int exponent =
      static_cast<int>(bits >> format.mantissa_bits & ((1u << format.exponent_bits) - 1));
  const bool negative = bits >> (format.exponent_bits + format.mantissa_bits) & 1;
  const int last = (1 << format.exponent_bits) - 1;
  double magnitude;
  if (format.has_infinity && exponent == last) {
    magnitude = mantissa ? std::nan("") : HUGE_VAL;
  } else if (!format.has_infinity && exponent == last &&
             mantissa == (1u << format.mantissa_bits) - 1) {
    magnitude = std::nan("");
  } else if (exponent == 0) {
    magnitude = std::ldexp(mantissa, 1 - format.bias - format.mantissa_bits);
  } else {
    magnitude = std::ldexp(mantissa + std::ldexp(1.0, format.mantissa_bits),
                           exponent - format.bias - format.mantissa_bits);
  }
  return negative ? -magnitude : magnitude;
}

// Largest finite magnitude's bits.
uint32_t largest(const Format& format) {
  const uint32_t infinity = ((1u << format.exponent_bits) - 1) << format.mantissa_bits;
  return format.has_infinity ? infinity - 1 : infinity + (1u << format.mantissa_bits) - 2;
}

template <typename T>
void widens(const Format& format) {
  const uint32_t count = 1u << (sizeof(T) * 8);
  for (uint32_t bits = 0; bits < count; ++bits) {
    T number;
    number.bits = static_cast<decltype(number.bits)>(bits);
    const double expected = value_of(format, bits);
    const double found = to_float(number);
    if (std::isnan(expected) ? !std::isnan(found)
                             : found != expected || std::signbit(found) != std::signbit(expected)) {
      lh_test::fail(__FILE__, __LINE__, "bits " + std::to_string(bits));
    }
  }
}

// Rounds to the nearest: between neighbors low and high (bits), the midpoint goes to the even one.
template <typename T>
void narrows(const Format& format) {
  for (uint32_t low = 0; low <= largest(format); ++low) {
    const bool last = low == largest(format);
    const double below = value_of(format, low);
    // Past the largest, as if the next exponent were there (IEEE 754 4.3.1).
    const double above = last ? 2 * below - value_of(format, low - 1) : value_of(format, low + 1);
    const uint32_t up = !last ? low + 1 : format.has_infinity ? low + 1 : low;
    const auto middle = static_cast<float>((below + above) / 2);
    const float inf = std::numeric_limits<float>::infinity();
    const struct {
      float value;
      uint32_t bits;
    } cases[] = {{static_cast<float>(below), low},
                 {std::nextafterf(static_cast<float>(below), inf), low},
                 {std::nextafterf(middle, 0.0f), low},
                 {middle, low % 2 == 0 ? low : up},
                 {std::nextafterf(middle, inf), up}};
    for (const auto& c : cases) {
      const uint32_t sign = 1u << (sizeof(T) * 8 - 1);
      const uint32_t plus = from_float<T>(c.value).bits, minus = from_float<T>(-c.value).bits;
      if (plus != c.bits || minus != (c.bits | sign)) {
        lh_test::fail(__FILE__, __LINE__,
                      std::to_string(c.value) + " gave " + std::to_string(plus) + ", expected " +
                          std::to_string(c.bits));
      }
    }
  }
}

LH_TEST(widening) {
  widens<f16>(kF16);
  widens<bf16>(kBf16);
  widens<fp8>(kFp8);
}

LH_TEST(narrowing_rounds_to_nearest_even) {
  narrows<f16>(kF16);
  narrows<fp8>(kFp8);
}

// bf16 shares f32's exponents: steps below its last bit are whole f32 bits, no midpoint in doubles.
LH_TEST(narrowing_to_bf16) {
  for (uint32_t high = 0; high < 0x7f80; ++high) {
    for (const uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const uint32_t up = low > 0x8000u || (low == 0x8000u && high % 2 == 1);
      const uint32_t sign = high % 3 == 0 ? 0x8000u : 0;
      const float value = std::bit_cast<float>((high | sign) << 16 | low);
      EXPECT_EQ(from_float<bf16>(value).bits, (high | sign) + up);
    }
  }
}

LH_TEST(narrowing_of_what_is_no_number_or_too_large) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  EXPECT_EQ(from_float<f16>(inf).bits, 0x7c00);
  EXPECT_EQ(from_float<f16>(-1e6f).bits, 0xfc00);
  EXPECT_EQ(from_float<f16>(-nan).bits, 0x7fff);
  EXPECT_EQ(from_float<bf16>(-inf).bits, 0xff80);
  EXPECT_EQ(from_float<bf16>(3.4e38f).bits, 0x7f80);
  EXPECT_EQ(from_float<bf16>(nan).bits, 0x7fff);
  EXPECT_EQ(from_float<fp8>(inf).bits, 0x7e);
  EXPECT_EQ(from_float<fp8>(-1e6f).bits, 0xfe);
  EXPECT_EQ(from_float<fp8>(464.0f).bits, 0x7e);
  EXPECT_EQ(from_float<fp8>(-nan).bits, 0x7f);
}

LH_TEST(pairs) {
  const uint32_t halves = pack2<f16>(1.5f, -2.0f);
  EXPECT_EQ(halves, 0xc0003e00u);
  EXPECT_EQ(unpack2<f16>(halves).x, 1.5f);
  EXPECT_EQ(unpack2<f16>(halves).y, -2.0f);
  const uint32_t brains = pack2<bf16>(1.5f, -2.0f);
  EXPECT_EQ(brains, 0xc0003fc0u);
  EXPECT_EQ(unpack2<bf16>(brains).x, 1.5f);
  EXPECT_EQ(unpack2<bf16>(brains).y, -2.0f);
  // 1.5 and -2 in e4m3: exponents 7 and 8.
  EXPECT_EQ(unpack2_fp8(0xc03c).x, 1.5f);
  EXPECT_EQ(unpack2_fp8(0xc03c).y, -2.0f);
  EXPECT_EQ(widen2_fp8(0xffffc03cu), halves);
  for (uint32_t bits = 0; bits < 256; ++bits) {
    if ((bits & 0x7f) == 0x7f) continue;
    EXPECT_EQ(unpack2<f16>(widen2_fp8(bits << 8)).y, to_float(fp8{static_cast<uint8_t>(bits)}));
  }
  EXPECT_EQ(add2<f16>(pack2<f16>(1.0f, 2048.0f), pack2<f16>(2.0f, 1.0f)),
            pack2<f16>(3.0f, 2048.0f));
  EXPECT_EQ(add2<bf16>(pack2<bf16>(1.0f, 256.0f), pack2<bf16>(2.0f, 3.0f)),
            pack2<bf16>(3.0f, 260.0f));
}

LH_TEST(bytes) {
  EXPECT_EQ(dot4(0x01020304, 0x05060708, 10), 4 * 8 + 3 * 7 + 2 * 6 + 1 * 5 + 10);
  EXPECT_EQ(dot4(static_cast<int32_t>(0x80808080u), static_cast<int32_t>(0x80808080u), 0),
            4 * 16384);
  EXPECT_EQ(dot4(static_cast<int32_t>(0xff00ff00u), 0x02030203, 1), -4 + 1);
  EXPECT_EQ(dot4(1, 1, std::numeric_limits<int32_t>::max()), std::numeric_limits<int32_t>::min());
  EXPECT_EQ(permute_bytes(0x33221100u, 0x77665544u, 0x3210u), 0x33221100u);
  EXPECT_EQ(permute_bytes(0x33221100u, 0x77665544u, 0x7042u), 0x77004422u);
}

LH_TEST(fast_functions) {
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(exp2_fast(-inf), 0.0f);
  EXPECT_EQ(exp2_fast(inf), inf);
  EXPECT_EQ(exp2_fast(-3.0f), 0.125f);
  EXPECT_EQ(exp2_fast(-127.0f), 0.0f);  // a subnormal result
  EXPECT_EQ(exp2_fast(1e-40f), 1.0f);   // a subnormal argument
  EXPECT_TRUE(std::isnan(exp2_fast(std::nanf(""))));
  EXPECT_EQ(reciprocal_fast(-4.0f), -0.25f);
  EXPECT_EQ(reciprocal_fast(-inf), 0.0f);
  EXPECT_EQ(reciprocal_fast(-0.0f), -inf);
  EXPECT_EQ(reciprocal_fast(1e-40f), inf);
  EXPECT_EQ(reciprocal_fast(2e38f), 0.0f);
  EXPECT_EQ(rsqrt_fast(16.0f), 0.25f);
}

}  // namespace

LH_TEST_MAIN
