// Cosines and sines of RoPE's angles, accurate for any position.
#pragma once

#include <cmath>
#include <cstdint>

#include "device.cuh"

namespace longhaul::device {

// cos and sin of position * inv_freq. The angle and its reduction to a quarter turn are in double:
// the product of 31 and 24 bits is exact below 2^29 positions, and at a million positions the
// quarter turns are known to 2^-32. What is left is in [-pi/4, pi/4], where Taylor's polynomials to
// x^9 and x^10 leave out at most 2e-9 and 1e-10: less than f32 rounds.
__device__ __forceinline__ float2 cos_sin(int32_t position, float inv_freq) {
  constexpr double kTwoOverPi = 0.63661977236758134308;
  constexpr float kHalfPi = 1.57079632679489661923f;
  constexpr double kRound = 0x1.8p52;  // adding and subtracting it rounds to an integer
  const double angle = static_cast<double>(position) * static_cast<double>(inv_freq);
  const double quarters = angle * kTwoOverPi;
  const double shifted = quarters + kRound;
  const double whole = shifted - kRound;
  const float r = static_cast<float>(quarters - whole) * kHalfPi;
  const uint32_t quadrant = static_cast<uint32_t>(static_cast<int64_t>(whole)) & 3u;

  const float r2 = r * r;
  float s = fmaf(r2, 2.7557319e-6f, -1.9841270e-4f);
  s = fmaf(r2, s, 8.3333333e-3f);
  s = fmaf(r2, s, -1.6666667e-1f);
  s = fmaf(r * r2, s, r);
  float c = fmaf(r2, -2.7557319e-7f, 2.4801587e-5f);
  c = fmaf(r2, c, -1.3888889e-3f);
  c = fmaf(r2, c, 4.1666667e-2f);
  c = fmaf(r2, c, -0.5f);
  c = fmaf(r2, c, 1.0f);
  // cos and sin of r + quadrant * pi/2
  const float cosine = quadrant & 1u ? s : c, sine = quadrant & 1u ? c : s;
  return float2{quadrant == 1 || quadrant == 2 ? -cosine : cosine, quadrant >= 2 ? -sine : sine};
}

}  // namespace longhaul::device
