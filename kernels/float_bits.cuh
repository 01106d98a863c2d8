// Floats as their bits and back.
#pragma once

#include <cstdint>

#include "device.cuh"

namespace longhaul::device {

__device__ __forceinline__ uint32_t float_bits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
}
__device__ __forceinline__ float bits_float(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}

}  // namespace longhaul::device
