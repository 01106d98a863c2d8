// Expanding quantized weights to f16 rows (dequantize.h).
//
// Cost: reads 0.56 (Q4_0) to 1.06 bytes a weight, writes 2; nothing is read twice. 28672 x 4096 of
// Q4_0: 66 MB in, 235 MB out, 100 us at 3 TB/s. Stores decide: a lane exchanges half of its columns
// with its neighbor, so that each store is 16 bytes and a row's 64 bytes are written at once.
#pragma once

#include "dequantize.h"
#include "device.cuh"
#include "weight_fragment.cuh"

namespace longhaul::device {

struct DequantizeConfig {
  static constexpr int kThreads = 256;
  static constexpr int kSteps = 4;  // a warp's share of a tile: a superblock, and loads in flight
};

// Four f16: columns 16 h + 4 t .. of row half `half`.
template <WeightFormat kFormat>
__device__ __forceinline__ uint2 dequantize_quad(uint32_t word, const BlockScales<kFormat>& scales,
                                                 int half, int h) {
  const float4 v = quad_values<kFormat>(word, scales, half, h);
  return uint2{pack2<f16>(v.x, v.y), pack2<f16>(v.z, v.w)};
}

template <WeightFormat kFormat>
__global__ void __launch_bounds__(DequantizeConfig::kThreads, 3)
    dequantize_kernel(const __grid_constant__ DequantizeParams p) {
  // A block owns tile blockIdx.x and 8 runs of 4 steps (256 columns) of it, a warp one run; lane
  // 4 g + t has the elements it has in a product, and stores 8 columns of a row at a time.
  using Config = DequantizeConfig;
  using Format = FormatOf<kFormat>;
  const uint32_t lane = threadIdx.x % 32;
  const int32_t t = static_cast<int32_t>(lane % 4), g = static_cast<int32_t>(lane / 4);
  const int32_t run = static_cast<int32_t>(blockIdx.y * (Config::kThreads / 32) + threadIdx.x / 32);
  const int32_t local_tile = static_cast<int32_t>(blockIdx.x);
  const int32_t steps = (p.w.cols + kStepCols - 1) / kStepCols;
  const int32_t first = run * Config::kSteps;
  if (first >= steps) return;  // the whole warp
  const int64_t supers_at = int64_t{steps} * Format::kRecordBytes;
  const int64_t tile_bytes = supers_at + int64_t{steps / kSuperSteps} * Format::kSuperBytes;
  const std::byte* tile =
      static_cast<const std::byte*>(p.w.data) + (p.first_tile + local_tile) * tile_bytes;

  // Where rows g and g + 8 go; null: nowhere.
  f16* out[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t tile_row = g + 8 * half;
    const int32_t index = p.first_tile + local_tile;
    const bool exists =
        p.w.paired ? index * 8 + g < p.w.rows / 2 : index * kTileRows + tile_row < p.w.rows;
    const int64_t row = p.w.paired ? local_tile * 8 + g + (half == 0 ? 0 : p.up_row)
                                   : local_tile * kTileRows + tile_row;
    out[half] = exists ? static_cast<f16*>(p.out) + row * p.out_stride : nullptr;
  }

  WeightSuper<kFormat> super = {};
  if constexpr (Format::kSuper) {
    load_super<kFormat, FromGlobal>(super, tile + supers_at + int64_t{run} * Format::kSuperBytes,
                                    lane);
  }
  WeightStep<kFormat> weights[Config::kSteps];
#pragma unroll
  for (int s = 0; s < Config::kSteps; ++s) {
    if (first + s < steps) {
      load_step<kFormat, FromGlobal>(weights[s], tile + int64_t{first + s} * Format::kRecordBytes,
                                     lane);
    }
  }
  const auto store_block = [&](int32_t col, const uint32_t(&a)[4],
                               const BlockScales<kFormat>& scales) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint2 low = dequantize_quad<kFormat>(a[half], scales, half, 0);
      const uint2 high = dequantize_quad<kFormat>(a[2 + half], scales, half, 1);
      // An even t gives its columns 16 + 4 t .. and gets the neighbor's 4 t + 4 ..; so it has 8
      // columns from 4 t on, and the odd neighbor 8 from 16 + 4 (t - 1) on.
      const bool odd = t % 2 != 0;
      const uint2 given = odd ? low : high;
      const uint2 kept = odd ? high : low;
      const uint2 got = {warp_shuffle_xor(given.x, 1), warp_shuffle_xor(given.y, 1)};
      const uint4 eight =
          odd ? uint4{got.x, got.y, kept.x, kept.y} : uint4{kept.x, kept.y, got.x, got.y};
      const int32_t at = col + (odd ? 16 + 4 * (t - 1) : 4 * t);
      // The padding block of a last step is not part of the matrix.
      if (out[half] != nullptr && col < p.w.cols) {
        // A plain store: the product that reads it comes next, from L2 as far as that reaches.
        *reinterpret_cast<uint4*>(out[half] + at) = eight;
      }
    }
  };
#pragma unroll
  for (int s = 0; s < Config::kSteps; ++s) {
    if (first + s >= steps) break;
    const int32_t col = (first + s) * kStepCols;
    uint32_t a[4];
    BlockScales<kFormat> scales;
    expand<kFormat, 0>(a, weights[s]);
    block_scales<kFormat, 0>(scales, weights[s], super);
    store_block(col, a, scales);
    expand<kFormat, 1>(a, weights[s]);
    block_scales<kFormat, 1>(scales, weights[s], super);
    store_block(col + kBlockCols, a, scales);
  }
}

}  // namespace longhaul::device
