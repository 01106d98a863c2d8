// Rows of the embedding matrix as f32 (embed.h).
//
// Cost: a row's bytes read (of quantized tiles 64-byte pieces, the neighbor rows' half of them
// unused), 4 bytes a column written. One row of 4096: launch and two dependent loads, about 2 us;
// 2048 rows: 33 MB out, 8 to 18 MB in, 16 us.
#pragma once

#include "device.cuh"
#include "embed.h"
#include "weight_fragment.cuh"

namespace longhaul::device {

struct EmbedConfig {
  static constexpr int kThreads = 128;
  static constexpr int kQuantCols = kThreads * 16;  // of a block: a lane has a quarter of a step
  static constexpr int kDenseCols = kThreads * 8;   // a lane has 16 bytes
};

// The row that a token id means; always one that exists.
__device__ __forceinline__ int32_t embedding_row(const EmbedParams& p, int32_t token) {
  int32_t id = p.token_ids[token];
  if (id < 0 && p.num_slots > 0) {
    const int32_t slot = -1 - id;  // id >= -2^31: no overflow
    id = p.last_tokens[min(slot, p.num_slots - 1)];
  }
  return max(0, min(id, p.w.rows - 1));
}

__device__ __forceinline__ float4 scaled(const float4& v, float by) {
  return float4{v.x * by, v.y * by, v.z * by, v.w * by};
}

template <WeightFormat kFormat>
__global__ void __launch_bounds__(EmbedConfig::kThreads)
    embed_quant_kernel(const __grid_constant__ EmbedParams p) {
  // Block (x, y): token x, 2048 columns from 2048 y on. Four lanes own a step of 64 columns: each
  // reads what lane 4 g + t of a product would (row g or g + 8), and writes its four quads.
  using Format = FormatOf<kFormat>;
  const int32_t token = static_cast<int32_t>(blockIdx.x);
  const uint32_t t = threadIdx.x % 4;
  const int32_t step =
      static_cast<int32_t>(blockIdx.y * (EmbedConfig::kThreads / 4) + threadIdx.x / 4);
  const int32_t steps = (p.w.cols + kStepCols - 1) / kStepCols;
  if (step >= steps) return;
  const int32_t row = embedding_row(p, token);
  const uint32_t lane = static_cast<uint32_t>(row % 8) * 4 + t;
  const int half = row % kTileRows / 8;
  const int64_t supers_at = int64_t{steps} * Format::kRecordBytes;
  const int64_t tile_bytes = supers_at + int64_t{steps / kSuperSteps} * Format::kSuperBytes;
  const std::byte* tile = static_cast<const std::byte*>(p.w.data) + row / kTileRows * tile_bytes;

  WeightStep<kFormat> weights;
  WeightSuper<kFormat> super = {};
  load_step<kFormat, FromGlobal>(weights, tile + int64_t{step} * Format::kRecordBytes, lane);
  if constexpr (Format::kSuper) {
    load_super<kFormat, FromGlobal>(
        super, tile + supers_at + int64_t{step / kSuperSteps} * Format::kSuperBytes, lane);
  }
  float* out = p.out + token * p.out_stride + step * kStepCols + 4 * t;
  const auto store_block = [&](int32_t block, const uint32_t(&a)[4],
                               const BlockScales<kFormat>& scales) {
    if (step * kStepCols + block * kBlockCols >= p.w.cols) return;  // padding of the last step
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      // Both halves are computed, so that registers are indexed by constants.
      const float4 lower = quad_values<kFormat>(a[2 * h], scales, 0, h);
      const float4 upper = quad_values<kFormat>(a[2 * h + 1], scales, 1, h);
      *reinterpret_cast<float4*>(out + block * kBlockCols + 16 * h) =
          scaled(half == 0 ? lower : upper, p.scale);
    }
  };
  uint32_t a[4];
  BlockScales<kFormat> scales;
  expand<kFormat, 0>(a, weights);
  block_scales<kFormat, 0>(scales, weights, super);
  store_block(0, a, scales);
  expand<kFormat, 1>(a, weights);
  block_scales<kFormat, 1>(scales, weights, super);
  store_block(1, a, scales);
}

template <typename T>
__global__ void __launch_bounds__(EmbedConfig::kThreads)
    embed_dense_kernel(const __grid_constant__ EmbedParams p) {
  // Block (x, y): token x, 1024 columns from 1024 y on; a lane owns 8 of them.
  const int32_t token = static_cast<int32_t>(blockIdx.x);
  const int32_t col = static_cast<int32_t>(blockIdx.y) * EmbedConfig::kDenseCols +
                      static_cast<int32_t>(threadIdx.x) * 8;
  if (col >= p.w.cols) return;
  const int64_t row = embedding_row(p, token);
  const uint4 v = load_stream(
      reinterpret_cast<const uint4*>(static_cast<const T*>(p.w.data) + row * p.w.cols + col));
  const float2 v0 = unpack2<T>(v.x), v1 = unpack2<T>(v.y), v2 = unpack2<T>(v.z),
               v3 = unpack2<T>(v.w);
  float4* out = reinterpret_cast<float4*>(p.out + token * p.out_stride + col);
  out[0] = scaled(float4{v0.x, v0.y, v1.x, v1.y}, p.scale);
  out[1] = scaled(float4{v2.x, v2.y, v3.x, v3.y}, p.scale);
}

}  // namespace longhaul::device
