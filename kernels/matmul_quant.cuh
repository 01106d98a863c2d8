// Products of 9 and more rows with quantized weights (matmul_quant.h).
//
// A block computes 64 weight rows by 16, 32 or 64 tokens; 256 columns of K at a time go through a
// ring of stages in shared memory that asynchronous copies fill: records of the four tiles as they
// lie in memory, rows of x, their scales. A warp multiplies one step (64 columns) of a stage for 32
// rows; four warps share K, so that a fragment of x that is read from shared memory serves two
// tiles and a stage holds whole superblocks of the K types. Few blocks: K is split between blocks
// too, and the last one to finish adds the parts in their order.
//
// Cost, H100: a step of a tile (1024 weights) against 8 tokens is 2 mma, 8 sums of 3 operations
// (conversion, scale product, fma) and 2 to 3 shared loads; expanding it some 30 more, its share of
// the copies 20 to 55. In all 140 warp instructions for 16 tokens, 205 for 32, 340 for 64 (types
// with a minimum 10 % more): 35, 51, 85 cycles of the four schedulers, where 576 bytes of Q4_0 at
// 3.0 TB/s take 45 and Q8_0's 1088 bytes 85. So memory is the limit up to 16 (Q8_0: 48) tokens, and
// the sums beyond; the tensor cores are a sixth busy.
// x is read once a block of 64 rows, from L2: 64 tokens x 4096 = 0.26 MB beside 0.15 MB of Q4_0.
// One pass over 28672 x 4096, Q4_0, 66 MB, at 80 % of the issue rate: 16 tokens 24 us, 32 tokens
// 31 us, 64 tokens 52 us, 128 tokens 104 us (290 T operations a second). 4096 x 4096, split in two:
// 16 tokens 5 us, 64 tokens 10 us.
// Registers 67 to 128 (16 to 64 tokens), three stages of shared memory of 14 to 38 KB: two blocks a
// multiprocessor (16 warps) in every case on sm_90a, on sm_80 one of 64 tokens; 37 KB of weights
// and more in flight, where 20 KB are needed.
#pragma once

#include "device.cuh"
#include "matmul_epilogue.cuh"
#include "matmul_quant.h"
#include "weight_fragment.cuh"

namespace longhaul::device {

struct MatmulQuantConfig {
  static constexpr int kTiles = 4;  // of 16 weight rows: 64 rows a block
  static constexpr int kRows = kTiles * kTileRows;
  static constexpr int kWarpTiles = 2;  // a warp's: a fragment of x serves two
  static constexpr int kSteps = 4;      // of 64 columns a stage: the superblock of K types
  static constexpr int kCols = kSteps * kStepCols;
  static constexpr int kThreads = 32 * kSteps * kTiles / kWarpTiles;  // 8 warps: 2 x 4 steps
  static constexpr int kStages = 3;  // two in flight while one is multiplied
  // Bytes from token to token of x: 32 of padding, so that the four tokens by 32 bytes that half a
  // warp reads at once lie in 32 banks.
  static constexpr int kXStride = kCols + 32;
  // Floats from token to token of the sums that the warps of a block add up: 64 rows and 4, so that
  // the 8 rows by 4 tokens which a warp writes at once lie in 32 banks.
  static constexpr int kSumStride = kRows + 4;
};

// Where things are in shared memory, in bytes. kTokens: 16, 32, 64.
template <WeightFormat kFormat, int kTokens>
struct QuantStage {
  using Config = MatmulQuantConfig;
  using Format = FormatOf<kFormat>;
  static constexpr int kRecords = Config::kSteps * Format::kRecordBytes;  // of a tile
  static constexpr int kTile = kRecords + Format::kSuperBytes;
  static constexpr int kX = Config::kTiles * kTile;
  static constexpr int kScales = kX + kTokens * Config::kXStride;
  // Floats from one block's scales to the next's: 4 of padding keep the copies' banks apart.
  static constexpr int kScaleStride = kTokens + 4;
  static constexpr int kScaleBytes =
      2 * Config::kSteps * kScaleStride * static_cast<int>(sizeof(float));
  static constexpr int kSums = kScales + kScaleBytes;
  static constexpr int kBytes = kSums + (Format::kHasMin ? kScaleBytes : 0);
  static constexpr int kReduceBytes =
      Config::kSteps * kTokens * Config::kSumStride * static_cast<int>(sizeof(float));
  static constexpr int kRing = Config::kStages * kBytes;
  // The sums lie where the stages were; one word more says whether this block is the last.
  static constexpr int kFlag = kRing > kReduceBytes ? kRing : kReduceBytes;
  static constexpr int kShared = kFlag + 16;
};

// What a block works on, and which tile this thread copies: two warps a tile, 16 bytes a thread.
struct QuantBlock {
  static constexpr uint32_t kTileThreads = MatmulQuantConfig::kThreads / MatmulQuantConfig::kTiles;
  const std::byte* tile;  // the thread's first chunk of its records
  int32_t row_block;
  int32_t first_token;
};

// Starts the copies of stage `stage` of K into `to`. Tokens that do not exist become zeros; steps
// behind the end of K are left alone, no warp reads them.
template <WeightFormat kFormat, int kTokens>
__device__ __forceinline__ void load_stage(const MatmulParams& p, const QuantBlock& block,
                                           int32_t stage, int32_t steps, Shared<std::byte> to) {
  using Config = MatmulQuantConfig;
  using Format = FormatOf<kFormat>;
  using Stage = QuantStage<kFormat, kTokens>;
  const uint32_t thread = threadIdx.x;
  const int32_t first_step = stage * Config::kSteps;
  const int32_t here = min(Config::kSteps, steps - first_step);

  {  // Records: one run of bytes a tile, and the superblock's scales.
    constexpr uint32_t kThreads = QuantBlock::kTileThreads;
    const int32_t at = static_cast<int32_t>(thread % kThreads * 16);
    const std::byte* records = block.tile + int64_t{stage} * Stage::kRecords;
    const Shared<std::byte> tile_to =
        to + (static_cast<int32_t>(thread / kThreads) * Stage::kTile + at);
#pragma unroll
    for (int c = 0; c < Stage::kRecords; c += 16 * QuantBlock::kTileThreads) {
      if (c + at < here * Format::kRecordBytes) copy_async<16>(tile_to + c, records + c);
    }
    if (Format::kSuper && at < Format::kSuperBytes) {
      const std::byte* super = block.tile + (int64_t{steps} * Format::kRecordBytes +
                                             int64_t{stage} * Format::kSuperBytes);
      copy_async<16>(tile_to + Stage::kRecords, super);
    }
  }
  // Rows of x, 8 threads a row, and the scales (and sums) of its 8 blocks, transposed to
  // [block][token].
  constexpr int kTokensAtOnce = Config::kThreads / 8;
  const int32_t token = static_cast<int32_t>(thread / 8), piece = static_cast<int32_t>(thread % 8);
  const int32_t x_stride = static_cast<int32_t>(p.x.stride);
  int32_t row = block.first_token + token;  // rows * stride < 2^31: the launcher checks
  const Shared<std::byte> x_to = to + (Stage::kX + token * Config::kXStride + piece * 16);
  const Shared<std::byte> scales_to =
      to + (Stage::kScales + (piece * Stage::kScaleStride + token) * 4);
  // Not unrolled: the addresses of the next rows would take registers from the sums.
#pragma unroll 1
  for (int32_t c = 0; c + token < kTokens; c += kTokensAtOnce, row += kTokensAtOnce) {
    const bool exists = row < p.rows;
    const int8_t* x = static_cast<const int8_t*>(p.x.data) +
                      (row * x_stride + first_step * kStepCols + piece * 16);
    if (piece / 4 < here) copy_async<16>(x_to + c * Config::kXStride, x, exists);
    if (piece / 4 + 2 < here) {
      copy_async<16>(x_to + (c * Config::kXStride + 2 * kStepCols), x + 2 * kStepCols, exists);
    }
    if (piece / 2 < here) {
      const int32_t at = row * (x_stride / 32) + 2 * first_step + piece;
      copy_async<4>(scales_to + c * 4, p.x.scales + at, exists);
      if constexpr (Format::kHasMin) {
        copy_async<4>(scales_to + (Stage::kScaleBytes + c * 4), p.x.sums + at, exists);
      }
    }
  }
}

// acc += the products of one block of one step of a stage: two tiles by all tokens.
template <WeightFormat kFormat, int kTokens>
__device__ __forceinline__ void multiply_block(
    float (&acc)[MatmulQuantConfig::kWarpTiles][kTokens / 8][4], Shared<const std::byte> stage,
    int32_t first_tile, int32_t step, uint32_t block, uint32_t lane) {
  using Config = MatmulQuantConfig;
  using Format = FormatOf<kFormat>;
  using Stage = QuantStage<kFormat, kTokens>;
  uint32_t a[Config::kWarpTiles][4];
  BlockScales<kFormat> scales[Config::kWarpTiles];
#pragma unroll
  for (int i = 0; i < Config::kWarpTiles; ++i) {
    const Shared<const std::byte> tile = stage + (first_tile + i) * Stage::kTile;
    WeightStep<kFormat> weights;
    WeightSuper<kFormat> super;
    load_block<kFormat, FromShared>(weights, tile + step * Format::kRecordBytes, block, lane);
    if constexpr (Format::kSuper)
      load_super<kFormat, FromShared>(super, tile + Stage::kRecords, lane);
    expand<kFormat, 0>(a[i], weights);
    block_scales<kFormat, 0>(scales[i], weights, super);
  }
  const uint32_t g = lane / 4, t = lane % 4;
  const Shared<const std::byte> x =
      stage + (Stage::kX + g * Config::kXStride + step * kStepCols + 32 * block + 8 * t);
  const Shared<const std::byte> x_scales =
      stage + (Stage::kScales + ((2 * step + block) * Stage::kScaleStride + 2 * t) * 4);
#pragma unroll
  for (int n = 0; n < kTokens / 8; ++n) {
    const uint2 b = FromShared::load<uint2>(x + n * 8 * Config::kXStride);
    const float2 scale = FromShared::load<float2>(x_scales + n * 32);
#pragma unroll
    for (int i = 0; i < Config::kWarpTiles; ++i) {
      accumulate<kFormat, 2>(acc[i][n], a[i], scales[i], b, scale);
    }
  }
}

// Formats with a minimum: acc += the minimums of one block times the sums of x. By itself, so that
// neither minimums nor sums take registers from multiply_block.
template <WeightFormat kFormat, int kTokens>
__device__ __forceinline__ void add_minimums(
    float (&acc)[MatmulQuantConfig::kWarpTiles][kTokens / 8][4], Shared<const std::byte> stage,
    int32_t first_tile, int32_t step, uint32_t block, uint32_t lane) {
  using Config = MatmulQuantConfig;
  using Format = FormatOf<kFormat>;
  using Stage = QuantStage<kFormat, kTokens>;
  BlockScales<kFormat> scales[Config::kWarpTiles];
#pragma unroll
  for (int i = 0; i < Config::kWarpTiles; ++i) {
    const Shared<const std::byte> tile = stage + (first_tile + i) * Stage::kTile;
    WeightStep<kFormat> weights;
    WeightSuper<kFormat> super;
    load_block<kFormat, FromShared>(weights, tile + step * Format::kRecordBytes, block, lane);
    if constexpr (Format::kSuper)
      load_super<kFormat, FromShared>(super, tile + Stage::kRecords, lane);
    block_scales<kFormat, 0>(scales[i], weights, super);
  }
  const Shared<const std::byte> x_sums =
      stage + (Stage::kSums + ((2 * step + block) * Stage::kScaleStride + 2 * (lane % 4)) * 4);
#pragma unroll
  for (int n = 0; n < kTokens / 8; ++n) {
    const float2 sum = FromShared::load<float2>(x_sums + n * 32);
#pragma unroll
    for (int i = 0; i < Config::kWarpTiles; ++i) {
      accumulate_min<kFormat, 2>(acc[i][n], scales[i], sum);
    }
  }
}

// Calls total(row of the block, token of the block) for the results this thread writes to y.
template <int kTokens, typename Total>
__device__ __forceinline__ void finish_block(const MatmulParams& p, const QuantBlock& block,
                                             const Total& total) {
  using Config = MatmulQuantConfig;
  const int32_t first_tile = block.row_block * Config::kTiles;
  const int32_t tokens = min(kTokens, p.rows - block.first_token);
  const bool gated = is_gated(p.epilogue);
  const int32_t width = gated ? Config::kRows / 2 : Config::kRows;
  for (int32_t e = static_cast<int32_t>(threadIdx.x); e < width * tokens; e += Config::kThreads) {
    const int32_t token = e / width, r = e % width;
    const int64_t y_row = block.first_token + token;
    if (gated) {
      const int32_t tile = r / 8, g = r % 8;
      const int32_t row = (first_tile + tile) * 8 + g;
      if (row >= p.w.rows / 2) continue;
      const float gate = total(tile * kTileRows + g, token);
      p.y[y_row * p.y_stride + row] =
          gate_of(p.epilogue, gate) * total(tile * kTileRows + g + 8, token);
    } else {
      const int32_t row = tile_row(p.w, first_tile + r / kTileRows, r % kTileRows);
      if (row >= 0) finish(p, y_row, row, total(r, token));
    }
  }
}

template <WeightFormat kFormat, int kTokens>
__global__ void __launch_bounds__(MatmulQuantConfig::kThreads, 2)
    matmul_quant_kernel(const __grid_constant__ MatmulParams p) {
  // Block (x, y): row block x / token_blocks, token block x % token_blocks (neighbors read the same
  // weights), part y of gridDim.y of K. Warp w: step w / 2 of each stage, tiles 2 (w % 2) and the
  // next. Lanes as in mma.m16n8k32.
  using Config = MatmulQuantConfig;
  using Format = FormatOf<kFormat>;
  using Stage = QuantStage<kFormat, kTokens>;
  const uint32_t lane = threadIdx.x % 32;
  const int32_t my_step = static_cast<int32_t>(threadIdx.x / 64);
  const int32_t my_tile = static_cast<int32_t>(threadIdx.x / 32 % 2) * Config::kWarpTiles;

  const int32_t steps = (p.w.cols + kStepCols - 1) / kStepCols;
  const int32_t stages = (steps + Config::kSteps - 1) / Config::kSteps;
  const int64_t tile_bytes =
      int64_t{steps} * Format::kRecordBytes + int64_t{steps / kSuperSteps} * Format::kSuperBytes;
  const int32_t rows_a_tile = p.w.paired ? kTileRows / 2 : kTileRows;
  const int32_t tiles = ((p.w.paired ? p.w.rows / 2 : p.w.rows) + rows_a_tile - 1) / rows_a_tile;
  const int32_t token_blocks = (p.rows + kTokens - 1) / kTokens;
  const int32_t parts = static_cast<int32_t>(gridDim.y), part = static_cast<int32_t>(blockIdx.y);
  const int32_t first_stage = stages * part / parts, end_stage = stages * (part + 1) / parts;
  QuantBlock block;
  block.row_block = static_cast<int32_t>(blockIdx.x) / token_blocks;
  block.first_token = static_cast<int32_t>(blockIdx.x) % token_blocks * kTokens;
  // Instead of a tile that does not exist, the last one: its results are dropped.
  const int32_t copied = min(block.row_block * Config::kTiles +
                                 static_cast<int32_t>(threadIdx.x / QuantBlock::kTileThreads),
                             tiles - 1);
  block.tile = static_cast<const std::byte*>(p.w.data) + copied * tile_bytes +
               threadIdx.x % QuantBlock::kTileThreads * 16;

  const Shared<std::byte> shared = dynamic_shared<std::byte>();
  const auto load = [&](int32_t stage) {
    if (stage < end_stage) {
      load_stage<kFormat, kTokens>(p, block, stage, steps,
                                   shared + stage % Config::kStages * Stage::kBytes);
    }
    copy_async_commit();  // a group a stage, empty ones too: the wait counts groups
  };
#pragma unroll
  for (int i = 0; i < Config::kStages - 1; ++i) load(first_stage + i);

  float acc[Config::kWarpTiles][kTokens / 8][4] = {};
  for (int32_t stage = first_stage; stage < end_stage; ++stage) {
    copy_async_wait<Config::kStages - 2>();
    block_sync();  // everyone's copies of this stage are there; the stage before it has been read
    load(stage + Config::kStages - 1);
    const int32_t at = stage % Config::kStages * Stage::kBytes;
    if (stage * Config::kSteps + my_step < steps) {
      // Not unrolled: one block's fragments are what the registers hold beside the sums.
#pragma unroll 1
      for (uint32_t b = 0; b < 2; ++b) {
        multiply_block<kFormat, kTokens>(acc, shared + at, my_tile, my_step, b, lane);
      }
      if constexpr (Format::kHasMin) {
#pragma unroll 1
        for (uint32_t b = 0; b < 2; ++b) {
          add_minimums<kFormat, kTokens>(acc, shared + at, my_tile, my_step, b, lane);
        }
      }
    }
  }

  // The four warps of a tile leave their sums [step][token][row] where the stages were.
  block_sync();  // all stages have been read; groups still open are those past the end, empty
  const Shared<float> sums = shared_cast<float>(shared);
#pragma unroll
  for (int i = 0; i < Config::kWarpTiles; ++i) {
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int32_t row = (my_tile + i) * kTileRows + j / 2 * 8 + static_cast<int32_t>(lane / 4);
        const int32_t token = 8 * n + 2 * static_cast<int32_t>(lane % 4) + j % 2;
        sums[(my_step * kTokens + token) * Config::kSumStride + row] =
            acc[i][n][j] * Format::kFactor;
      }
    }
  }
  block_sync();  // the sums of all warps are there
  const auto total = [&](int32_t row, int32_t token) {
    float sum = sums[token * Config::kSumStride + row];
#pragma unroll
    for (int step = 1; step < Config::kSteps; ++step) {
      sum += sums[(step * kTokens + token) * Config::kSumStride + row];
    }
    return sum;
  };
  if (parts == 1) {
    finish_block<kTokens>(p, block, total);
    return;
  }

  // K is split: leave this part's sums in memory; the last part to come adds all of them in order.
  constexpr int kPart = Config::kRows * kTokens;
  const int64_t part_stride = int64_t{gridDim.x} * kPart;
  float* partials = p.partials + blockIdx.x * int64_t{kPart};
  for (int32_t e = static_cast<int32_t>(threadIdx.x); e < kPart; e += Config::kThreads) {
    partials[part * part_stride + e] = total(e % Config::kRows, e / Config::kRows);
  }
  global_fence();  // this thread's sums before the count below
  block_sync();    // all threads' sums and fences
  const Shared<int32_t> is_last = shared_cast<int32_t>(shared + Stage::kFlag);
  if (threadIdx.x == 0) {
    const bool last = global_atomic_add(p.counters + blockIdx.x, int32_t{1}) == parts - 1;
    if (last) p.counters[blockIdx.x] = 0;  // for the next product
    *is_last = last ? 1 : 0;
  }
  block_sync();  // the word that thread 0 wrote
  const int32_t last = *is_last;
  if (last == 0) return;
  global_fence();  // the count before other blocks' sums
  finish_block<kTokens>(p, block, [&](int32_t row, int32_t token) {
    const float* from = partials + token * Config::kRows + row;
    float sum = from[0];
    for (int32_t i = 1; i < parts; ++i) sum += from[i * part_stride];
    return sum;
  });
}

}  // namespace longhaul::device
