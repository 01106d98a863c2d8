// The arithmetic of device.cuh's number primitives, bit for bit what the instructions give: round
// to nearest even, canonical NaN (f16 and bf16 0x7fff, fp8 0x7f), fp8 saturating to 448.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace longhaul::simt {

inline float f16_to_f32(uint16_t half) {
  // Shift exponent and mantissa into place, then scale by 2^112 to move the bias from 15 to 127;
  // subnormals come out right because the multiplication normalizes them. No branches: loops over
  // fragments vectorize.
  const uint32_t magnitude = (half & 0x7fffu) << 13;
  const float scaled = std::bit_cast<float>(magnitude) * std::bit_cast<float>(0x77800000u);
  const uint32_t special =
      magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : std::bit_cast<uint32_t>(scaled);
  return std::bit_cast<float>(special | (half & 0x8000u) << 16);
}

inline uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t sign = bits >> 16 & 0x8000u;
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and up
  if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 aligns the last kept bit with f32's last bit, so the addition rounds.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t odd = magnitude >> 13 & 1u;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

inline float bf16_to_f32(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline float fp8_to_f32(uint8_t bits) {
  const uint32_t exponent = bits >> 3 & 15u;
  const uint32_t mantissa = bits & 7u;
  if ((bits & 0x7fu) == 0x7fu) return std::bit_cast<float>(0x7fffe000u);  // through f16 0x7fff
  const float magnitude =
      exponent == 0 ? static_cast<float>(mantissa) * 0x1p-9f
                    : std::ldexp(static_cast<float>(8 + mantissa), static_cast<int>(exponent) - 10);
  return bits & 0x80u ? -magnitude : magnitude;
}

inline uint8_t f32_to_fp8(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 24 & 0x80u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7f;
  if (magnitude >= 0x43e00000u) return static_cast<uint8_t>(sign | 0x7eu);  // 448 and up
  if (magnitude < 0x3c800000u) {
    // Below 2^-6 the step is 2^-9: 2^14's last f32 bit.
    const float shifted = std::bit_cast<float>(magnitude) + 0x1p14f;
    return static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x46800000u));
  }
  const uint32_t odd = magnitude >> 20 & 1u;
  const uint32_t rounded = (magnitude - 0x3c000000u + 0x7ffffu + odd) >> 20;
  return static_cast<uint8_t>(sign | (rounded > 0x7eu ? 0x7eu : rounded));
}

// ex2.approx.ftz: subnormal inputs and results are zero.
inline float exp2_flushed(float x) {
  const float y = std::exp2(std::fabs(x) < 0x1p-126f ? 0.0f : x);
  return y < 0x1p-126f ? 0.0f : y;
}

// rcp.approx.ftz: subnormal inputs and results are zero, with their sign.
inline float reciprocal_flushed(float x) {
  const float y = 1.0f / (std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x);
  return std::fabs(y) < 0x1p-126f ? std::copysign(0.0f, y) : y;
}

// prmt: each selector digit picks a byte of hi:lo.
inline uint32_t permute(uint32_t lo, uint32_t hi, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(hi) << 32 | lo;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t from = selector >> (4 * i) & 7u;
    result |= static_cast<uint32_t>(bytes >> (8 * from) & 0xffu) << (8 * i);
  }
  return result;
}

}  // namespace longhaul::simt
