// f32 to the 16-bit types of the cache and back, nearest even.
//
// `static inline` on purpose: files compiled for different instruction sets include this, and none
// may be linked to another's copy.
#pragma once

#include <cstdint>

namespace longhaul::cpu {

static inline float bf16_to_float(uint16_t x) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(x) << 16);
}

// NaN becomes a quiet NaN.
static inline uint16_t float_to_bf16(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const uint32_t quiet = bits >> 16 | 0x40u;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

// Exact. Shifting the fields up leaves the exponent 112 short, which one multiplication repairs
// for normal and subnormal numbers alike.
static inline float half_to_float(uint16_t x) {
  const uint32_t sign = (x & 0x8000u) << 16, magnitude = (x & 0x7fffu) << 13;
  if ((x & 0x7c00u) == 0x7c00u) return __builtin_bit_cast(float, sign | 0x7f800000u | magnitude);
  const float scaled = __builtin_bit_cast(float, magnitude) * 0x1p112f;
  return __builtin_bit_cast(float, sign | __builtin_bit_cast(uint32_t, scaled));
}

// As VCVTPS2PH does: from 65520 on infinity, NaN quiet with its upper payload bits.
static inline uint16_t float_to_half(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return static_cast<uint16_t>(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
  }
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65536 and more
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 rounds to a multiple of 2^-24, the step of f16 subnormals, and
    // leaves the multiple in the low bits.
    const float sum = __builtin_bit_cast(float, magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (__builtin_bit_cast(uint32_t, sum) - 0x3f000000u));
  }
  const uint32_t odd = magnitude >> 13 & 1u;
  return static_cast<uint16_t>(sign | (magnitude - 0x38000000u + 0xfffu + odd) >> 13);
}

}  // namespace longhaul::cpu
