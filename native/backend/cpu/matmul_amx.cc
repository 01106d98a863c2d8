// AMX kernels for many tokens: a tile product makes the sums of 16 tokens x 16 rows over one block.
// Few tokens, float weights, activations and epilogues are those of AVX-512.
//
// Scales belong to blocks of 32 columns and the sums of a block are scaled in f32 (the contract in
// matmul.h), so that a tile product goes over 32 of its 64 possible columns, 16 for kHalves, and
// every sum leaves the tiles through memory. Weights are expanded with their sign: a product of two
// signed operands needs no correction for an offset.
//
// Budget per 16 tokens x 16 rows x 32 columns (8192 products) on the first cores with AMX, from
// published and measured costs of single instructions; this file as a whole has not been timed on
// such a core:
//   tile part    product 16 cycles; on other ports beside it: store 16, loads 8, zeroing
//   vector part  16 registers of sums, each convert, multiply scales, FMA: 48 operations on two
//                ports, 24 cycles; 32 with minimums, which are an FMA more
// A tile product closes one of the two vector ports for a while afterwards, so the parts alternate:
// 16 products in a row, then hundreds of vector operations. That makes 41 cycles (49 with minimums)
// and what the closed port costs at each change; 53 were measured for phases a quarter as long.
// VPDPBUSD, whose sums stay in registers, takes 88 (96). kHalves does both parts twice for the same
// columns: 82 against 112.
//
// A tail of 1 to 15 tokens runs as 16 in the tile part: with fewer rows a product would take 10
// cycles at best, and one configuration serves all. Its vector part does only what exists.
//
// Only intrinsics, built-ins and functions of this file: nothing inline from the standard library
// may be compiled here, because the linker could keep this copy for machines without AVX-512.
#if defined(__GNUC__) && !defined(__clang__)
// See vector_math_avx512.h.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "backend/cpu/amx_tiles.h"
#include "backend/cpu/matmul_kernels.h"

namespace longhaul::cpu {
namespace {

static_assert(kRowTile == kTileRows && kGroupRows * 4 == kTileRowBytes);

// Tiles 0 to 3 take sums, in turn, so that a store and the products of the next block overlap.
// Operands have one pair of tiles per width; reloading a tile that is still read costs nothing, as
// the processor renames tiles.
constexpr int kActivations = 4, kWeights = 5;          // 32 columns
constexpr int kHalfActivations = 6, kHalfWeights = 7;  // 16 columns
constexpr TileConfig kConfig = {
    1, 0, {}, {64, 64, 64, 64, 32, 64, 16, 64}, {16, 16, 16, 16, 16, 8, 16, 4}};

// Sums with one scale each, a "part": 32 columns, or 16 with kHalves. So many parts go through the
// tiles before their sums are scaled; 16 KB of sums, 10 KB of weights and 6 KB of activations share
// the first-level cache.
constexpr int kStepParts = 8;

struct alignas(64) TileSums {
  int32_t parts[kStepParts][2][kTileRows][kGroupRows];  // [part][group][token][row]
};

template <ScaleMode kMode>
struct Part {
  static constexpr bool kHalf = kMode == ScaleMode::kHalves;
  static constexpr int kPerBlock = kHalf ? 2 : 1;
  static constexpr int kCols = kBlockCols / kPerBlock;
  static constexpr int kRowsTile = kHalf ? kHalfActivations : kActivations;
  static constexpr int kWeightsTile = kHalf ? kHalfWeights : kWeights;
};

// Sums of both groups into tiles kSums and kSums + 1.
template <ScaleMode kMode, int kSums>
inline void multiply_part(const ExpandedChunk& weights, const ActivationChunk* rows, int part) {
  using P = Part<kMode>;
  const uint8_t(*slices)[64] = weights.quants[part * (P::kCols / 4)];
  load_tile<P::kRowsTile>(rows->quants + part * P::kCols, sizeof(ActivationChunk));
  load_tile<P::kWeightsTile>(slices[0], sizeof(weights.quants[0]));
  zero_tile<kSums>();
  multiply_tiles_s8<kSums, P::kRowsTile, P::kWeightsTile>();
  load_tile<P::kWeightsTile>(slices[1], sizeof(weights.quants[0]));
  zero_tile<kSums + 1>();
  multiply_tiles_s8<kSums + 1, P::kRowsTile, P::kWeightsTile>();
}

template <int kSums>
inline void store_part(TileSums& sums, int part) {
  store_tile<kSums>(sums.parts[part][0], kTileRowBytes);
  store_tile<kSums + 1>(sums.parts[part][1], kTileRowBytes);
}

// The tile part: `count` parts from `first` on, for the 16 rows at `rows`. Stores come one part
// late, behind the next products.
template <ScaleMode kMode>
__attribute__((noinline)) void multiply_parts(const ExpandedChunk& weights,
                                              const ActivationChunk* rows, int first, int count,
                                              TileSums& sums) {
#pragma GCC unroll 1  // else it is unrolled for every count, with spilled addresses
  for (int part = 0; part < count; part += 2) {
    multiply_part<kMode, 0>(weights, rows, first + part);
    if (part > 0) store_part<2>(sums, part - 1);
    if (part + 1 < count) multiply_part<kMode, 2>(weights, rows, first + part + 1);
    store_part<0>(sums, part);
  }
  if (count % 2 == 0) store_part<2>(sums, count - 1);
}

// The vector part, for kTokens tokens from `token` on and one group.
template <ScaleMode kMode, int kTokens>
__attribute__((noinline)) void scale_tokens(const ExpandedChunk& weights,
                                            const ActivationChunk* rows, int first, int count,
                                            const TileSums& sums, int token, int group,
                                            float* acc) {
  rows += token;
  acc += token * kStripRows + group * kGroupRows;
  __m512 f[kTokens];
#pragma GCC unroll 16
  for (int t = 0; t < kTokens; ++t) f[t] = _mm512_load_ps(acc + t * kStripRows);
#pragma GCC unroll 1
  for (int part = 0; part < count; ++part) {
    const int block = (first + part) / Part<kMode>::kPerBlock;
    const __m512 scale = _mm512_load_ps(weights.scales[first + part] + group * kGroupRows);
    const int32_t(*sum)[kGroupRows] = sums.parts[part][group] + token;
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
      const __m512 value = _mm512_cvtepi32_ps(_mm512_load_si512(sum[t]));
      const __m512 d = _mm512_set1_ps(rows[t].d[block]);
      f[t] = _mm512_fmadd_ps(value, _mm512_mul_ps(scale, d), f[t]);
    }
    if constexpr (kMode == ScaleMode::kMin) {
      const __m512 min = _mm512_load_ps(weights.mins[block] + group * kGroupRows);
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) {
        f[t] = _mm512_fmadd_ps(min, _mm512_set1_ps(rows[t].s[block]), f[t]);
      }
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < kTokens; ++t) _mm512_store_ps(acc + t * kStripRows, f[t]);
}

template <ScaleMode kMode>
inline void scale_parts(const ExpandedChunk& weights, const ActivationChunk* rows, int first,
                        int count, const TileSums& sums, int tokens, float* acc) {
  for (int group = 0; group < 2; ++group) {
    if (tokens == kTileRows) {
      scale_tokens<kMode, 16>(weights, rows, first, count, sums, 0, group, acc);
      continue;
    }
    int token = 0;
    if ((tokens & 8) != 0) {
      scale_tokens<kMode, 8>(weights, rows, first, count, sums, token, group, acc);
      token += 8;
    }
    if ((tokens & 4) != 0) {
      scale_tokens<kMode, 4>(weights, rows, first, count, sums, token, group, acc);
      token += 4;
    }
    if ((tokens & 2) != 0) {
      scale_tokens<kMode, 2>(weights, rows, first, count, sums, token, group, acc);
      token += 2;
    }
    if ((tokens & 1) != 0) {
      scale_tokens<kMode, 1>(weights, rows, first, count, sums, token, group, acc);
    }
  }
}

template <ScaleMode kMode>
void multiply_as(const ExpandedChunk& weights, int blocks, const ActivationChunk* rows, int tokens,
                 float* acc) {
  TileSums sums;
  const int parts = blocks * Part<kMode>::kPerBlock;
  for (int token = 0; token < tokens; token += kTileRows) {
    const int here = tokens - token < kTileRows ? tokens - token : kTileRows;
    for (int first = 0; first < parts; first += kStepParts) {
      const int count = parts - first < kStepParts ? parts - first : kStepParts;
      multiply_parts<kMode>(weights, rows, first, count, sums);
      scale_parts<kMode>(weights, rows, first, count, sums, here, acc);
    }
    rows += kTileRows;
    acc += kTileRows * kStripRows;
  }
}

// The offset is in the weights already.
void multiply(const ExpandedChunk& weights, int blocks, ScaleMode mode, int /*offset*/,
              const ActivationChunk* rows, int tokens, float* acc) {
  switch (mode) {
    case ScaleMode::kPlain:
      return multiply_as<ScaleMode::kPlain>(weights, blocks, rows, tokens, acc);
    case ScaleMode::kMin:
      return multiply_as<ScaleMode::kMin>(weights, blocks, rows, tokens, acc);
    case ScaleMode::kHalves:
      return multiply_as<ScaleMode::kHalves>(weights, blocks, rows, tokens, acc);
  }
}

// From 8 tokens on the tiles are ahead of unpacking in registers: per 16 rows x 32 columns about 13
// cycles to expand, 17 in tiles and 1.5 a token, against 5 to 6 a token and some 10 for every four.
constexpr int kAmxPackedTokensMax = 7;

void enter() { configure_tiles(kConfig); }
void leave() { release_tiles(); }

MatmulKernels with_tiles(MatmulKernels kernels) noexcept {
  kernels.expand = expand_signed_avx512;
  kernels.multiply = multiply;
  kernels.packed_tokens_max = kAmxPackedTokensMax;
  kernels.enter = enter;
  kernels.leave = leave;
  return kernels;
}

}  // namespace

const MatmulKernels& amx_matmul_kernels() {
  static const MatmulKernels kKernels = with_tiles(avx512_matmul_kernels());
  return kKernels;
}

}  // namespace longhaul::cpu
