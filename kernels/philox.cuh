// Philox4x32-10 (Salmon et al., SC 2011) on the device: the numbers of native/sampler/rng.cc.
#pragma once

#include <cstdint>

#include "device.cuh"

namespace longhaul::device {

// Uniform in [0, 1) with 53 random bits, a function of (seed, position) alone.
__device__ __forceinline__ double philox_uniform(uint64_t seed, int32_t position) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  uint32_t c0 = static_cast<uint32_t>(position), c1 = 0, c2 = 0, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * c0, product1 = kMultiplier1 * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(product0);
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return static_cast<double>((uint64_t{c0} << 21) ^ (c1 >> 11)) * 0x1p-53;
}

}  // namespace longhaul::device
