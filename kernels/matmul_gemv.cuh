// Products of 1 to 8 rows with weights of any format (matmul_gemv.h).
//
// One scheme for all: a tile of 16 weight rows is the A operand of a tensor-core product, the rows
// of x are the up to 8 columns of B. Weights go from memory straight into the lane that multiplies
// them, by 16-byte loads that are issued kAhead steps before they are needed; nothing of them
// passes through shared memory. The tensor core is there for its instruction count, not for its
// speed: 8 rows cost little more than one, 1.6 to 1.9 lane instructions a 4-bit weight, where dot
// products of four bytes would take 1 for one row and 4 for eight.
//
// Cost, H100 (132 multiprocessors, 3.35 TB/s, about 3.0 reached by a copy): bytes are the weights'
// (0.5625 a weight of Q4_0, 0.578 Q4_K, 0.820 Q6_K, 1.0625 Q8_0, 2 dense); x comes from L1 or L2
// (co-resident blocks walk K in step and share it). At 3.0 TB/s a multiprocessor takes in 23 Q4_0
// weights a cycle: 40 of its 128 lane instructions, and one mma in 22 cycles.
// Registers 72 to 80: three blocks, 24 warps a multiprocessor (sm_80 too); kAhead steps of a warp
// are 2.3 KB (4 bit) to 3.3 KB (8 bit), of dense weights 4 KB: 55 to 98 KB in flight, where 3.35
// TB/s times 0.8 us needs 20. So memory is the limit, and what is lost is the ends: launch, first
// loads, last blocks, about 2 us a matrix. Expected share of copy bandwidth: 0.9 and more from
// 32 MB on, 0.8 at 25 MB, 0.6 at 9 MB (4096 x 4096 of Q4_0); under 5 MB latency is all.
// One pass over a 28672 x 4096 gate and up: Q4_0 66 MB, 24 us; bf16 235 MB, 80 us. Decode of 8 B
// parameters in bf16: 15 GB, 5.0 ms, four products a layer lose 0.2 ms of it: 0.95 of the roofline.
#pragma once

#include "device.cuh"
#include "matmul_epilogue.cuh"
#include "matmul_gemv.h"
#include "weight_fragment.cuh"

namespace longhaul::device {

struct MatmulGemvConfig {
  // Steps whose loads are under way in a warp; fewer of formats whose step takes more registers
  // than kAheadWords (Q8_0 10, Q5_1 9; the others 6 to 8).
  static constexpr int kAhead = 4;
  static constexpr int kAheadLarge = 3;
  static constexpr int kAheadWords = 8;
  // Warps of a block share a tile and split its K: 8, or 4 where K is short. A matrix of 2048 rows
  // has 128 tiles, a block a multiprocessor: all of K (2048) is then in flight at once.
  static constexpr int kWarps = 8;
  static constexpr int kWarpsShort = 4;
  static constexpr int kBlocks = 3;  // a multiprocessor: 24 warps at 80 registers
  static constexpr int kTokens = 8;  // columns of B
  static constexpr int kPartial = kTileRows * kTokens;  // sums of one warp
  static_assert(kPartial <= kWarpsShort * 32);          // finish_tile: a thread a result
};

// Adds the warps' partial sums [warp][16 rows][8 tokens] in order of warps and finishes the tile's
// results. All threads of the block; reads what block_sync() has made visible.
__device__ __forceinline__ void finish_tile(const MatmulParams& p, int32_t tile,
                                            Shared<const float> partials) {
  using Config = MatmulGemvConfig;
  const int32_t warps = static_cast<int32_t>(blockDim.x / 32);
  const auto total = [&](int32_t r, int32_t token) {
    float sum = partials[r * Config::kTokens + token];
    for (int32_t warp = 1; warp < warps; ++warp) {
      sum += partials[warp * Config::kPartial + r * Config::kTokens + token];
    }
    return sum;
  };
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  if (is_gated(p.epilogue)) {
    const int32_t g = thread % 8, token = thread / 8;
    const int32_t row = tile * 8 + g;
    if (token >= p.rows || row >= p.w.rows / 2) return;
    p.y[token * p.y_stride + row] = gate_of(p.epilogue, total(g, token)) * total(g + 8, token);
    return;
  }
  const int32_t token = thread / kTileRows, row = tile_row(p.w, tile, thread % kTileRows);
  if (token >= p.rows || row < 0) return;
  finish(p, token, row, total(thread % kTileRows, token));
}

// C fragment of a warp to its place among the partial sums.
__device__ __forceinline__ void store_partial(Shared<float> partials, int32_t warp, uint32_t lane,
                                              const float (&acc)[4]) {
  Shared<float2> pairs = shared_cast<float2>(partials + warp * MatmulGemvConfig::kPartial);
  pairs[lane] = float2{acc[0], acc[1]};
  pairs[lane + 32] = float2{acc[2], acc[3]};
}

template <WeightFormat kFormat, int kTokens>
__global__ void __launch_bounds__(MatmulGemvConfig::kWarps * 32, MatmulGemvConfig::kBlocks)
    matmul_gemv_quant_kernel(const __grid_constant__ MatmulParams p) {
  // A block owns a tile of 16 weight rows and all of x. Its warps take turns at the steps of K (of
  // K types at 256 columns); lane 4 g + t owns the rows g and g + 8 and, of the result, tokens 2 t
  // and 2 t + 1. kTokens: 1, or 2 for any number up to 8.
  using Config = MatmulGemvConfig;
  using Format = FormatOf<kFormat>;
  constexpr int kWords = Format::kLowWords + Format::kHighWords + Format::kScaleWords;
  constexpr int kAhead = kWords > Config::kAheadWords ? Config::kAheadLarge : Config::kAhead;
  constexpr int kTurn = Format::kSuper ? kSuperSteps : 1;  // consecutive steps of a warp
  static_assert(kAhead % kTurn == 0);
  const uint32_t lane = threadIdx.x % 32;
  const int32_t warp = static_cast<int32_t>(threadIdx.x / 32);
  const int32_t warps = static_cast<int32_t>(blockDim.x / 32);
  const int32_t tile = static_cast<int32_t>(blockIdx.x);

  const int32_t steps = (p.w.cols + kStepCols - 1) / kStepCols;
  const int64_t supers_at = int64_t{steps} * Format::kRecordBytes;
  const int64_t tile_bytes = supers_at + int64_t{steps / kSuperSteps} * Format::kSuperBytes;
  const std::byte* records = static_cast<const std::byte*>(p.w.data) + tile * tile_bytes;
  const std::byte* supers = records + supers_at;

  // This warp's steps, numbered i = 0 .. mine - 1. (A K type has whole turns only.)
  const int32_t turns = steps / kTurn;
  const int32_t mine = (turns - warp + warps - 1) / warps * kTurn;
  const auto step_of = [&](int32_t i) { return (warp + i / kTurn * warps) * kTurn + i % kTurn; };

  // Tokens that do not exist read the last one; their columns of the product are dropped.
  const int32_t last = p.rows - 1;
  const int32_t t = static_cast<int32_t>(lane % 4), g = static_cast<int32_t>(lane / 4);
  const int8_t* x = static_cast<const int8_t*>(p.x.data) + min(g, last) * p.x.stride + 8 * t;
  const int64_t scale_stride = p.x.stride / 32;
  const int64_t token_at[2] = {min(2 * t, last) * scale_stride,
                               min(2 * t + 1, last) * scale_stride};

  WeightStep<kFormat> ring[kAhead];
  WeightSuper<kFormat> super_ring[kAhead / kTurn];
  const auto load = [&](int slot, int32_t i) {
    const int32_t step = step_of(i);
    load_step<kFormat, FromGlobal>(ring[slot], records + int64_t{step} * Format::kRecordBytes,
                                   lane);
    if (Format::kSuper && slot % kTurn == 0) {
      load_super<kFormat, FromGlobal>(super_ring[slot / kTurn],
                                      supers + int64_t{step / kSuperSteps} * Format::kSuperBytes,
                                      lane);
    }
  };
#pragma unroll
  for (int slot = 0; slot < kAhead; ++slot) {
    if (slot < mine) load(slot, slot);
  }

  float acc[4] = {0, 0, 0, 0};
  for (int32_t first = 0; first < mine; first += kAhead) {
#pragma unroll
    for (int slot = 0; slot < kAhead; ++slot) {
      const int32_t i = first + slot;
      if (i >= mine) break;
      const int32_t step = step_of(i);
      const int8_t* x_step = x + int64_t{step} * kStepCols;
      const uint2 b0 = load_cached(reinterpret_cast<const uint2*>(x_step));
      const uint2 b1 = load_cached(reinterpret_cast<const uint2*>(x_step + kBlockCols));
      // Of the lane's two tokens, both blocks.
      float2 x_scale[2] = {}, x_sum[2] = {};
#pragma unroll
      for (int token = 0; token < kTokens; ++token) {
        const int64_t at = token_at[token] + 2 * step;
        x_scale[token] = load_cached(reinterpret_cast<const float2*>(p.x.scales + at));
        if constexpr (Format::kHasMin) {
          x_sum[token] = load_cached(reinterpret_cast<const float2*>(p.x.sums + at));
        }
      }
      uint32_t a[4];
      BlockScales<kFormat> scales;
      expand<kFormat, 0>(a, ring[slot]);
      block_scales<kFormat, 0>(scales, ring[slot], super_ring[slot / kTurn]);
      accumulate<kFormat, kTokens>(acc, a, scales, b0, float2{x_scale[0].x, x_scale[1].x});
      if constexpr (Format::kHasMin) {
        accumulate_min<kFormat, kTokens>(acc, scales, float2{x_sum[0].x, x_sum[1].x});
      }
      expand<kFormat, 1>(a, ring[slot]);
      block_scales<kFormat, 1>(scales, ring[slot], super_ring[slot / kTurn]);
      accumulate<kFormat, kTokens>(acc, a, scales, b1, float2{x_scale[0].y, x_scale[1].y});
      if constexpr (Format::kHasMin) {
        accumulate_min<kFormat, kTokens>(acc, scales, float2{x_sum[0].y, x_sum[1].y});
      }
      // The slot is free: its next step's loads run while the other slots are consumed. A super
      // entry belongs to all slots of its turn, so it is replaced with the turn's last one.
      if (i + kAhead < mine) {
        const int32_t next = step_of(i + kAhead);
        load_step<kFormat, FromGlobal>(ring[slot], records + int64_t{next} * Format::kRecordBytes,
                                       lane);
        if (Format::kSuper && slot % kTurn == kTurn - 1) {
          load_super<kFormat, FromGlobal>(
              super_ring[slot / kTurn], supers + int64_t{next / kSuperSteps} * Format::kSuperBytes,
              lane);
        }
      }
    }
  }

#pragma unroll
  for (float& sum : acc) sum *= Format::kFactor;
  const Shared<float> partials = dynamic_shared<float>();
  store_partial(partials, warp, lane, acc);
  block_sync();  // every warp's sums are there for finish_tile
  finish_tile(p, tile, partials);
}

template <typename T>
__global__ void __launch_bounds__(MatmulGemvConfig::kWarps * 32, MatmulGemvConfig::kBlocks)
    matmul_gemv_dense_kernel(const __grid_constant__ MatmulParams p) {
  // A block owns 16 weight rows (of a paired matrix 8 gate rows and their up rows) and all of x.
  // Its warps take turns at 64 columns of K: two steps of 32, so that a row's share is a whole
  // 128-byte line. Lane 4 g + t loads columns 8 t .. 8 t + 7 of a step: of rows g and g + 8, and of
  // token g. Those 16 bytes are the operands of two mma.m16n8k16, in an order of K that is not the
  // manual's, but the same in A and B.
  using Config = MatmulGemvConfig;
  constexpr int kAhead = Config::kAhead;
  constexpr int kCols = 32;  // of a step
  constexpr int kTurn = 2;
  const uint32_t lane = threadIdx.x % 32;
  const int32_t warp = static_cast<int32_t>(threadIdx.x / 32);
  const int32_t warps = static_cast<int32_t>(blockDim.x / 32);
  const int32_t tile = static_cast<int32_t>(blockIdx.x);
  const int32_t t = static_cast<int32_t>(lane % 4), g = static_cast<int32_t>(lane / 4);

  // Rows and tokens that do not exist read existing ones; their results are dropped.
  const int32_t rows[2] = {tile_row(p.w, tile, g), tile_row(p.w, tile, g + 8)};
  const T* w[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = rows[half] < 0 ? p.w.rows - 1 : rows[half];
    w[half] = static_cast<const T*>(p.w.data) + row * p.w.cols + 8 * t;
  }
  const T* x = static_cast<const T*>(p.x.data) + min(g, p.rows - 1) * p.x.stride + 8 * t;

  const int32_t steps = p.w.cols / kCols;
  const auto step_of = [&](int32_t i) { return (warp + i / kTurn * warps) * kTurn + i % kTurn; };
  // The last turn may have one step.
  const int32_t turns = (steps + kTurn - 1) / kTurn;
  const int32_t my_turns = (turns - warp + warps - 1) / warps;
  const bool has_short_turn = steps % kTurn != 0 && (turns - 1) % warps == warp;
  const int32_t mine = my_turns * kTurn - (has_short_turn ? 1 : 0);

  uint4 ring[kAhead][2];
  const auto load = [&](int slot, int32_t i) {
    const int64_t col = int64_t{step_of(i)} * kCols;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      ring[slot][half] = load_stream(reinterpret_cast<const uint4*>(w[half] + col));
    }
  };
#pragma unroll
  for (int slot = 0; slot < kAhead; ++slot) {
    if (slot < mine) load(slot, slot);
  }
  float acc[4] = {0, 0, 0, 0};
  for (int32_t first = 0; first < mine; first += kAhead) {
#pragma unroll
    for (int slot = 0; slot < kAhead; ++slot) {
      const int32_t i = first + slot;
      if (i >= mine) break;
      const uint4 input =
          load_cached(reinterpret_cast<const uint4*>(x + int64_t{step_of(i)} * kCols));
      const uint4 lower = ring[slot][0], upper = ring[slot][1];
      const uint32_t a0[4] = {lower.x, upper.x, lower.y, upper.y};
      const uint32_t b0[2] = {input.x, input.y};
      mma_16816<T>(acc, a0, b0);
      const uint32_t a1[4] = {lower.z, upper.z, lower.w, upper.w};
      const uint32_t b1[2] = {input.z, input.w};
      mma_16816<T>(acc, a1, b1);
      if (i + kAhead < mine) load(slot, i + kAhead);
    }
  }

  const Shared<float> partials = dynamic_shared<float>();
  store_partial(partials, warp, lane, acc);
  block_sync();  // every warp's sums are there for finish_tile
  finish_tile(p, tile, partials);
}

}  // namespace longhaul::device
