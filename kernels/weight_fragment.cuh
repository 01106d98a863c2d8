// A lane's share of one step (16 rows, 64 columns) of a quantized tile: loading its record
// (weight_layout.h) and turning it into A fragments of mma.m16n8k32 and f32 scales.
//
// A weight is  kFactor * scale * a + min  with a the fragment's signed byte. Symmetric types of 4,
// 5 and 6 bits are expanded into the upper bits of the byte, where the sign comes for free;
// kFactor, a power of two, takes that back exactly, once for a whole sum.
#pragma once

#include "device.cuh"
#include "weight_layout.h"

namespace longhaul::device {

template <WeightFormat kFormat>
struct FormatOf {
  static constexpr WeightFormatInfo kInfo = kWeightFormats[static_cast<int>(kFormat)];
  static constexpr int kBits = kInfo.bits;
  static constexpr bool kHasMin = kInfo.has_min;
  static constexpr bool kHalves = kInfo.halves;
  static constexpr bool kSuper = kInfo.super_bytes > 0;
  static constexpr int kHighAt = kInfo.low_bytes;
  static constexpr int kScalesAt = kInfo.low_bytes + kInfo.high_bytes;
  static constexpr int kRecordBytes = kScalesAt + kInfo.scale_bytes;
  static constexpr int kSuperBytes = kInfo.super_bytes;
  static constexpr bool kSigned = kBits != 8 && !kHasMin;  // expanded into upper bits
  static constexpr float kFactor = !kSigned ? 1.0f : 1.0f / static_cast<float>(1 << (8 - kBits));
  static constexpr int kLowWords = kBits == 8 ? 8 : 4;
  static constexpr int kHighWords = kBits == 5 ? 1 : kBits == 6 ? 2 : 0;
  static constexpr int kScaleWords = kInfo.scale_bytes / 32;
  // A scale for each block (Q6_K: and each half of one), row half.
  static constexpr int kScalesPerBlock = kHalves ? 2 : 1;
};

// Bytes of a lane as loaded; registers only.
template <WeightFormat kFormat>
struct WeightStep {
  using Format = FormatOf<kFormat>;
  uint32_t low[Format::kLowWords];
  uint32_t high[Format::kHighWords > 0 ? Format::kHighWords : 1];
  uint32_t scales[Format::kScaleWords];
};

// The f16 scales that a K type has per 256 columns: {d, dmin} of row g, of row g + 8, or both d.
template <WeightFormat kFormat>
struct WeightSuper {
  uint32_t words[2];
};

// How to read: weights in global memory are read once, those in shared memory by plain loads.
struct FromGlobal {
  using Pointer = const std::byte*;
  template <typename T>
  __device__ __forceinline__ static T load(Pointer p) {
    return load_stream(reinterpret_cast<const T*>(p));
  }
};
struct FromShared {
  using Pointer = Shared<const std::byte>;
  template <typename T>
  __device__ __forceinline__ static T load(Pointer p) {
    return *shared_cast<const T>(p);
  }
};

template <WeightFormat kFormat, typename From>
__device__ __forceinline__ void load_step(WeightStep<kFormat>& step, typename From::Pointer record,
                                          uint32_t lane) {
  using Format = FormatOf<kFormat>;
  const uint4 low = From::template load<uint4>(record + lane * 16);
  step.low[0] = low.x, step.low[1] = low.y, step.low[2] = low.z, step.low[3] = low.w;
  if constexpr (Format::kBits == 8) {
    const uint4 second = From::template load<uint4>(record + 512 + lane * 16);
    step.low[4] = second.x, step.low[5] = second.y, step.low[6] = second.z, step.low[7] = second.w;
  } else if constexpr (Format::kBits == 5) {
    step.high[0] = From::template load<uint32_t>(record + Format::kHighAt + lane * 4);
  } else if constexpr (Format::kBits == 6) {
    const uint2 high = From::template load<uint2>(record + Format::kHighAt + lane * 8);
    step.high[0] = high.x, step.high[1] = high.y;
  }
  if constexpr (Format::kScaleWords == 4) {
    const uint4 scales = From::template load<uint4>(record + Format::kScalesAt + lane / 4 * 16);
    step.scales[0] = scales.x, step.scales[1] = scales.y;
    step.scales[2] = scales.z, step.scales[3] = scales.w;
  } else {
    const uint2 scales = From::template load<uint2>(record + Format::kScalesAt + lane / 4 * 8);
    step.scales[0] = scales.x, step.scales[1] = scales.y;
  }
}

// Block `block` of a record alone, as block 0 of `step`: for callers that expand one block at a
// time because registers are short.
template <WeightFormat kFormat, typename From>
__device__ __forceinline__ void load_block(WeightStep<kFormat>& step, typename From::Pointer record,
                                           uint32_t block, uint32_t lane) {
  using Format = FormatOf<kFormat>;
  if constexpr (Format::kBits == 8) {
    const uint4 low = From::template load<uint4>(record + block * 512 + lane * 16);
    step.low[0] = low.x, step.low[1] = low.y, step.low[2] = low.z, step.low[3] = low.w;
  } else {
    const uint4 low = From::template load<uint4>(record + lane * 16);
    step.low[0] = low.x >> (4 * block), step.low[1] = low.y >> (4 * block);
    step.low[2] = low.z >> (4 * block), step.low[3] = low.w >> (4 * block);
  }
  if constexpr (Format::kBits == 5) {
    step.high[0] =
        From::template load<uint32_t>(record + Format::kHighAt + lane * 4) >> (4 * block);
  } else if constexpr (Format::kBits == 6) {
    step.high[0] = From::template load<uint32_t>(record + Format::kHighAt + lane * 8 + block * 4);
  }
  // f16 scales are pairs of blocks; bytes are, or (Q6_K) pairs of pairs.
  const uint32_t by = Format::kSuper && !Format::kHalves ? 8 * block : 16 * block;
  const auto scales_at = record + (Format::kScalesAt + lane / 4 * (Format::kScaleWords * 4));
  if constexpr (Format::kScaleWords == 4) {
    const uint4 scales = From::template load<uint4>(scales_at);
    step.scales[0] = scales.x >> by, step.scales[1] = scales.y >> by;
    step.scales[2] = scales.z >> by, step.scales[3] = scales.w >> by;
  } else {
    const uint2 scales = From::template load<uint2>(scales_at);
    step.scales[0] = scales.x >> by, step.scales[1] = scales.y >> by;
  }
}

// `super`: the 256 columns' entry in the tile's last plane.
template <WeightFormat kFormat, typename From>
__device__ __forceinline__ void load_super(WeightSuper<kFormat>& to, typename From::Pointer super,
                                           uint32_t lane) {
  if constexpr (FormatOf<kFormat>::kSuperBytes == 64) {
    const uint2 words = From::template load<uint2>(super + lane / 4 * 8);
    to.words[0] = words.x, to.words[1] = words.y;
  } else if constexpr (FormatOf<kFormat>::kSuperBytes == 32) {
    to.words[0] = From::template load<uint32_t>(super + lane / 4 * 4);
  }
}

// word << by, by of either sign, known at compile time.
template <int kBy>
__device__ __forceinline__ uint32_t shift(uint32_t word) {
  if constexpr (kBy >= 0) {
    return word << kBy;
  } else {
    return word >> -kBy;
  }
}

// The four A registers of block kBlock (0, 1): a[j] holds row half j % 2, columns 16 (j / 2) + 4 t
// ..
template <WeightFormat kFormat, int kBlock, int kJ = 0>
__device__ __forceinline__ void expand(uint32_t (&a)[4], const WeightStep<kFormat>& step) {
  using Format = FormatOf<kFormat>;
  if constexpr (Format::kBits == 8) {
    a[kJ] = step.low[4 * kBlock + kJ];
  } else {
    // The low four bits go to bit kLift and up.
    constexpr int kLift = Format::kSigned ? 8 - Format::kBits : 0;
    uint32_t value = shift<kLift - 4 * kBlock>(step.low[kJ]) & (0x0f0f0f0fu << kLift);
    if constexpr (Format::kBits == 5) {
      value |= shift<4 + kLift - (4 * kBlock + kJ)>(step.high[0]) & (0x10101010u << kLift);
    } else if constexpr (Format::kBits == 6) {
      value |= shift<4 + kLift - 2 * kJ>(step.high[kBlock]) & (0x30303030u << kLift);
    }
    a[kJ] = value;
  }
  if constexpr (kJ < 3) expand<kFormat, kBlock, kJ + 1>(a, step);
}

// f32 scales (and minimums) of one block: scale[row half][half of the block, or 0].
template <WeightFormat kFormat>
struct BlockScales {
  float scale[2][FormatOf<kFormat>::kScalesPerBlock];
  float min[2];  // formats with a minimum only
};

__device__ __forceinline__ float byte_to_float(uint32_t word, int index) {
  return static_cast<float>(word >> (8 * index) & 255u);
}
__device__ __forceinline__ float signed_byte_to_float(uint32_t word, int index) {
  return static_cast<float>(static_cast<int8_t>(word >> (8 * index)));
}

template <WeightFormat kFormat, int kBlock>
__device__ __forceinline__ void block_scales(BlockScales<kFormat>& to,
                                             const WeightStep<kFormat>& step,
                                             const WeightSuper<kFormat>& super) {
  using Format = FormatOf<kFormat>;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if constexpr (!Format::kSuper) {
      const float2 d = unpack2<f16>(step.scales[half]);
      to.scale[half][0] = kBlock == 0 ? d.x : d.y;
      if constexpr (Format::kHasMin) {
        const float2 m = unpack2<f16>(step.scales[2 + half]);
        to.min[half] = kBlock == 0 ? m.x : m.y;
      }
    } else if constexpr (Format::kHasMin) {
      const float2 d = unpack2<f16>(super.words[half]);
      to.scale[half][0] = d.x * byte_to_float(step.scales[0], 2 * half + kBlock);
      to.min[half] = -d.y * byte_to_float(step.scales[1], 2 * half + kBlock);
    } else {
      const float2 both = unpack2<f16>(super.words[0]);
      const float d = half == 0 ? both.x : both.y;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        to.scale[half][h] = d * signed_byte_to_float(step.scales[half], 2 * kBlock + h);
      }
    }
  }
}

// The weights in an A register of a block: row half `half`, columns 16 h + 4 t .. + 3.
template <WeightFormat kFormat>
__device__ __forceinline__ float4 quad_values(uint32_t word, const BlockScales<kFormat>& scales,
                                              int half, int h) {
  using Format = FormatOf<kFormat>;
  const float scale = scales.scale[half][Format::kHalves ? h : 0] * Format::kFactor;
  float min = 0;
  if constexpr (Format::kHasMin) min = scales.min[half];
  const auto value = [&](int i) { return fmaf(signed_byte_to_float(word, i), scale, min); };
  return float4{value(0), value(1), value(2), value(3)};
}

// ---- products

// acc += the products of one block, without kFactor. b: the B fragment (a token's 8 bytes of lane
// t, quantize_block.cuh); x_scale: this block's scales of the two tokens whose columns of C the
// lane holds; acc as C: [row half][token]. kTokens 1: only token 0 (column 2 t) is wanted.
template <WeightFormat kFormat, int kTokens>
__device__ __forceinline__ void accumulate(float (&acc)[4], const uint32_t (&a)[4],
                                           const BlockScales<kFormat>& scales, uint2 b,
                                           float2 x_scale) {
  using Format = FormatOf<kFormat>;
#pragma unroll
  for (int h = 0; h < Format::kScalesPerBlock; ++h) {
    // Scales per 16 columns: a product for each half, the other half's columns of B being zero.
    const bool whole = !Format::kHalves;
    const uint32_t fragment[2] = {whole || h == 0 ? b.x : 0u, whole || h == 1 ? b.y : 0u};
    int32_t c[4] = {0, 0, 0, 0};
    mma_16832_s8(c, a, fragment);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float scale = scales.scale[half][h];
      acc[2 * half] = fmaf(static_cast<float>(c[2 * half]), scale * x_scale.x, acc[2 * half]);
      if constexpr (kTokens > 1) {
        acc[2 * half + 1] =
            fmaf(static_cast<float>(c[2 * half + 1]), scale * x_scale.y, acc[2 * half + 1]);
      }
    }
  }
}

// Formats with a minimum: acc += minimum * the sums of x over the block, of the two tokens.
template <WeightFormat kFormat, int kTokens>
__device__ __forceinline__ void accumulate_min(float (&acc)[4], const BlockScales<kFormat>& scales,
                                               float2 x_sum) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    acc[2 * half] = fmaf(scales.min[half], x_sum.x, acc[2 * half]);
    if constexpr (kTokens > 1) {
      acc[2 * half + 1] = fmaf(scales.min[half], x_sum.y, acc[2 * half + 1]);
    }
  }
}

}  // namespace longhaul::device
