// Elementary functions of the CPU backend, defined operation by operation, so that the scalar
// code here and the vector code in vector_math_avx2.h and vector_math_avx512.h give the same bits:
// the same constants, the same order, a fused multiply-add exactly where `fused` stands.
// Everything is `static inline`, and nothing inline from the standard library is called: these
// headers are compiled with different instruction sets, and the linker must not keep one copy of a
// function for all of them.
#pragma once

#include <cstdint>

namespace longhaul::cpu {

// exp(x) = 2^n * p(r), n = round(x / ln 2), r = x - n ln 2 in [-0.347, 0.347];
// p(r) = 1 + r + r^2 q(r), q fitted for the smallest relative error (3.6e-9). The result is
// within 1 ulp or so; 0 below kExpMin (its results would be close to subnormal), infinity above
// kExpMax; NaN stays NaN.
constexpr float kExpMin = -87.0f;
constexpr float kExpMax = 88.37f;
constexpr float kLog2E = 1.44269502f;
constexpr float kLn2High = 0.693145752f;  // 16 bits, so that n * kLn2High is exact
constexpr float kLn2Low = 1.42860677e-6f;
// Adding and subtracting 1.5 * 2^23 rounds to an integer, nearest even; the integer also stands in
// the low bits of the sum.
constexpr float kRoundMagic = 12582912.0f;
constexpr float kExpQ0 = 0.49999994f;
constexpr float kExpQ1 = 0.16666521f;
constexpr float kExpQ2 = 0.04166839f;
constexpr float kExpQ3 = 0.008368745f;
constexpr float kExpQ4 = 0.001381454f;

// tanh(u) = u + u^3 P(u^2) below kTanhSmall (relative error 4.4e-9), else 1 - 2 / (exp(2|u|) + 1).
constexpr float kTanhSmall = 0.625f;
constexpr float kTanhP0 = -0.3333328f;
constexpr float kTanhP1 = 0.13331442f;
constexpr float kTanhP2 = -0.053739704f;
constexpr float kTanhP3 = 0.020639053f;
constexpr float kTanhP4 = -0.0057049464f;

// GELU by tanh: 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3).
constexpr float kGeluScale = -1.59576912f;  // -2 sqrt(2/pi)
constexpr float kGeluCubic = 0.044715f;

// a * b + c, rounded once.
static inline float fused(float a, float b, float c) {
#if defined(__FP_FAST_FMAF) || defined(__FMA__)
  return __builtin_fmaf(a, b, c);
#else
  // Without the instruction: the product is exact in double; the sum is rounded to double, then
  // to float. Rounding twice errs only if the first rounding lands exactly between two floats (or
  // the result is subnormal, where "between" lies elsewhere): leave those to the library.
  const double sum = static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c);
  const uint64_t bits = __builtin_bit_cast(uint64_t, sum);
  const bool halfway = (bits & 0x1fffffff) == 0x10000000;
  const bool tiny = (bits >> 52 & 0x7ff) < 1023 - 125;
  return halfway || tiny ? __builtin_fmaf(a, b, c) : static_cast<float>(sum);
#endif
}

static inline float exp_scalar(float x) {
  if (x < kExpMin) return 0.0f;
  if (x > kExpMax) return __builtin_bit_cast(float, 0x7f800000u);
  if (x != x) return x;
  const float shifted = fused(x, kLog2E, kRoundMagic);
  const float n = shifted - kRoundMagic;
  float r = fused(n, -kLn2High, x);
  r = fused(n, -kLn2Low, r);
  float q = fused(kExpQ4, r, kExpQ3);
  q = fused(q, r, kExpQ2);
  q = fused(q, r, kExpQ1);
  q = fused(q, r, kExpQ0);
  const float r2 = r * r;
  const float p = fused(q, r2, r) + 1.0f;
  // The low bits of `shifted` are n; its other bits leave with the shift.
  return __builtin_bit_cast(
      float, __builtin_bit_cast(uint32_t, p) + (__builtin_bit_cast(uint32_t, shifted) << 23));
}

static inline float tanh_scalar(float u) {
  const float a = __builtin_fabsf(u);
  if (a < kTanhSmall) {
    const float z = u * u;
    float p = fused(kTanhP4, z, kTanhP3);
    p = fused(p, z, kTanhP2);
    p = fused(p, z, kTanhP1);
    p = fused(p, z, kTanhP0);
    return fused(u * z, p, u);
  }
  return __builtin_copysignf(1.0f - 2.0f / (exp_scalar(a + a) + 1.0f), u);
}

// x * sigmoid(x)
static inline float silu_scalar(float x) { return x / (1.0f + exp_scalar(-x)); }

// The tanh-approximated GELU.
static inline float gelu_scalar(float x) {
  const float u = fused(kGeluCubic * x, x * x, x) * kGeluScale;
  return x / (1.0f + exp_scalar(u));
}

// Exact conversions of stored 16-bit floats.
static inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  const uint32_t magnitude = h & 0x7fff;
  if (magnitude >= 0x7c00) {  // infinity, NaN (made quiet, as hardware does)
    const uint32_t quiet = magnitude > 0x7c00 ? 0x00400000u : 0u;
    return __builtin_bit_cast(float, sign | 0x7f800000u | (magnitude & 0x3ff) << 13 | quiet);
  }
  if (magnitude >= 0x0400)
    return __builtin_bit_cast(float, sign | ((magnitude << 13) + 0x38000000u));
  // Subnormal or zero: magnitude * 2^-24 is exact.
  const float value = static_cast<float>(magnitude) * 0x1p-24f;
  return __builtin_bit_cast(float, sign | __builtin_bit_cast(uint32_t, value));
}
static inline float bf16_to_f32(uint16_t h) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(h) << 16);
}

}  // namespace longhaul::cpu
