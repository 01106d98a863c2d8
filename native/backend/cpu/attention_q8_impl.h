// The slice of attention_kernels.h over 8-bit keys and values, part of the attention_<isa>.cc files.
//
// The phases are those of attention_kernels_impl.h. For 12 rows of head_dim 64 in AVX-512, 16 keys
// cost a row 16 dot products for scores, 16 for values and some 25 operations between them, where
// 16-bit keys and values cost 128 FMAs and 20.
#pragma once

#include "backend/cpu/attention_byte_lanes.h"
#include "backend/cpu/attention_slice.h"

namespace longhaul::cpu {
namespace {

constexpr int kFour = 4;             // channels of K, tokens of V, that a lane adds up at once
constexpr int kWeightBlocks = kSliceKeys / kWeightBlock;

static void pack_queries8(const int8_t* q8, int32_t num_rows, int32_t head_dim, int8_t* packed) {
  for (int c = 0; c < head_dim; c += kFour) {
    for (int r = 0; r < num_rows; ++r, packed += ByteLanes::kQueryBytes) {
      ByteLanes::pack_query(q8 + r * head_dim + c, packed);
    }
  }
}

// Scores of R rows for T vectors of keys, beginning `lane` tokens into a tile; `scales` are theirs.
template <int R, int T>
static inline void score_vectors8(const AttentionSliceArgs& args, const uint8_t* tile, int lane,
                                  const float* scales, ptrdiff_t ahead, float* scores) {
  using B = ByteLanes;
  B::I sum[R][T];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const B::I offset = B::broadcast(-128 * args.q8_sums[r]);
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) sum[r][t] = offset;
  }
  const int fours = args.head_dim / kFour;
  const ptrdiff_t tile_bytes = ptrdiff_t{fours} * kUnitBytes;
  const int8_t* query = args.q8;
  for (int i = 0; i < fours; ++i) {
    const uint8_t* unit = tile + i * kUnitBytes;
    B::Unit keys[T];
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      const int token = lane + t * Lanes::kWidth;
      const uint8_t* at = unit + token / kTile * tile_bytes;
      if (token % kTile == 0) ask_for(at, ahead);
      keys[t] = B::load_unsigned(at, token % kTile);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r, query += B::kQueryBytes) {
      const B::Four four = B::load_query(query);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) sum[r][t] = B::add_keys(sum[r][t], keys[t], four);
    }
  }
  using L = Lanes;
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) {
    const L::F scale = L::load(scales + t * L::kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const L::F scaled = L::mul(B::to_float(sum[r][t]), scale);
      L::store(scores + r * kSliceKeys + t * L::kWidth,
               L::mul(scaled, L::broadcast(args.q8_scales[r])));
    }
  }
}

static inline const float* scales_of(const AttentionSliceArgs& args, const std::byte* channels) {
  return reinterpret_cast<const float*>(channels + ptrdiff_t{args.block_size} * args.head_dim);
}

// Scores of the tiles that hold the keys [first, last). Tokens of those tiles outside the range
// may be unused slots: their scores are never read.
template <int R>
static void score_slice8(const AttentionSliceArgs& args, const ReadOrder& order, int first,
                         int last) {
  constexpr int T = R * 2 <= Lanes::kAccumulators ? 2 : 1;
  constexpr int kStep = T * Lanes::kWidth;
  const int block_size = args.block_size;
  const int last_block = (last - 1) / block_size;
  for (int b = first / block_size; b <= last_block; ++b) {
    const auto* keys = reinterpret_cast<const uint8_t*>(args.blocks[b]);
    const float* scales = scales_of(args, args.blocks[b]);
    const ptrdiff_t ahead = order.ahead(b - first / block_size);
    const int begin = max_of(first - b * block_size, 0) / 32 * 32;
    const int end = min_of(last - b * block_size, block_size);
    for (int t = begin; t < end; t += kStep) {
      if (t % kTile == 0) ask_for(scales + t, ahead);
      const uint8_t* tile = keys + ptrdiff_t{t / kTile} * kTile * args.head_dim;
      score_vectors8<R, T>(args, tile, t % kTile, scales + t, ahead,
                           args.scores + b * block_size + t);
    }
  }
}

// Scales of the slice's values, 32 tokens each (which no block is shorter than).
struct ValueScales {
  static constexpr int kTokens = 32;
  const float* runs[kSliceKeys / kTokens];

  ValueScales(const AttentionSliceArgs& args, const Spans& spans) {
    const int block_size = args.block_size;
    for (int b = spans.any_first / block_size; b <= (spans.any_last - 1) / block_size; ++b) {
      const float* scales = scales_of(args, args.blocks[b] + args.values_offset);
      for (int t = 0; t < block_size; t += kTokens) {
        runs[(b * block_size + t) / kTokens] = scales + t;
      }
    }
  }
  const float* of(int token) const { return runs[token / kTokens] + token % kTokens; }
};

// Turns the scores of one row into 8-bit weights of the keys [any_first, any_last), zero where the
// row does not see them, and the scales of their weight blocks; returns m and l.
static inline void weigh_row(const AttentionSliceArgs& args, const Spans& spans,
                             const ValueScales& value_scales, int row, float* block_scales) {
  using L = Lanes;
  constexpr int kSums = LaneSums::kSums;
  float* scores = args.scores + row * kSliceKeys;
  uint8_t* weights = args.weights8 + row * kSliceKeys;
  const int first = args.first[row], last = args.last[row];
  const int begin = spans.any_first / kWeightBlock, end = (spans.any_last - 1) / kWeightBlock;
  const float m = first < last ? max_score(scores, first, last) : 0.0f;
  const L::F shift = L::broadcast(m);
  LaneSums sums;
  // Whole tiles that the row sees some key of; the others weigh nothing.
  const auto seen_begin = [&](int block) {
    return max_of(first, block * kWeightBlock) / kTile * kTile;
  };
  const auto seen_end = [&](int block) {
    return min_of((last + kTile - 1) / kTile * kTile, (block + 1) * kWeightBlock);
  };
  L::F largest[kWeightBlocks];
  for (int block = begin; block <= end; ++block) {
    L::F max = L::zero();
    for (int tile = seen_begin(block); tile < seen_end(block); tile += kTile) {
      const float* scales = value_scales.of(tile);
#pragma GCC unroll 4
      for (int i = 0; i < kSums; ++i) {
        const int t = tile + i * L::kWidth;
        L::F p = exp2_lanes(L::sub(L::load(scores + t), shift));
        L::F weight = L::mul(p, L::load(scales + i * L::kWidth));
        if (t < first || t + L::kWidth > last) {
          p = L::keep(p, L::zero(), first - t, last - t);
          weight = L::keep(weight, L::zero(), first - t, last - t);
        }
        sums.sums[i] = L::add(sums.sums[i], p);
        max = L::max(weight, max);
        L::store(scores + t, weight);
      }
    }
    largest[block] = max;
  }
  // In a loop of their own, the chains of the blocks run beside each other.
  float inverses[kWeightBlocks];
  for (int block = begin; block <= end; ++block) {
    const float max = ByteLanes::largest(largest[block]);
    block_scales[block] = max * (1.0f / 255.0f);
    inverses[block] = max > kWeightTiny ? 255.0f / max : 0.0f;
  }
  for (int block = begin; block <= end; ++block) {
    const L::F inverse = L::broadcast(inverses[block]);
    const int from = seen_begin(block), to = seen_end(block);
#pragma GCC unroll 4
    for (int i = 0; i < kWeightBlock; i += L::kWidth) {
      const int t = block * kWeightBlock + i;
      const bool seen = t >= from && t < to;
      ByteLanes::store_rounded(weights + t,
                               seen ? L::mul(L::load(scores + t), inverse) : L::zero());
    }
  }
  if (first >= last) return;
  args.partials[row][args.head_dim] = m;
  args.partials[row][args.head_dim + 1] = sums.total();
}

// o[r][c] += the values of the tokens [first, last) of one weight block, for D vectors of channels.
// Multiples of four tokens; those that a row does not see weigh nothing there, and an integer
// product with whatever an unused slot holds is zero as well.
template <int R, int D>
static inline void add_values8(const AttentionSliceArgs& args, const ReadOrder& order, int channel,
                               int first, int last, const float (*block_scales)[kWeightBlocks],
                               float* const* o) {
  using B = ByteLanes;
  using L = Lanes;
  B::I sum[R][D];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) sum[r][d] = B::broadcast(0);
  }
  const int block_size = args.block_size;
  const ptrdiff_t group = ptrdiff_t{block_size} * kTile;  // bytes of 16 channels
  for (int t = first; t < last;) {
    const int b = t / block_size;
    const int end = min_of(last, (b + 1) * block_size);
    const ptrdiff_t ahead = order.ahead(order.first_value + b - order.first_block);
    const auto* unit = reinterpret_cast<const int8_t*>(args.blocks[b] + args.values_offset) +
                       ptrdiff_t{t % block_size / kFour} * kUnitBytes;
    for (; t < end; t += kFour, unit += kUnitBytes) {
      B::Unit values[D];
#pragma GCC unroll 8
      for (int d = 0; d < D; ++d) {
        const int c = channel + d * L::kWidth;
        const int8_t* at = unit + c / kTile * group;
        if (c % kTile == 0) ask_for(at, ahead);
        values[d] = B::load_signed(at, c % kTile);
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const B::Four weights = B::load_weights(args.weights8 + r * kSliceKeys + t);
#pragma GCC unroll 8
        for (int d = 0; d < D; ++d) sum[r][d] = B::add_values(sum[r][d], weights, values[d]);
      }
    }
  }
  const int block = first / kWeightBlock;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const L::F scale = L::broadcast(block_scales[r][block]);
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) {
      float* at = o[r] + channel + d * L::kWidth;
      L::store(at, L::fma(B::to_float(sum[r][d]), scale, L::load(at)));
    }
  }
}

template <int R>
static void add_slice_values8(const AttentionSliceArgs& args, const ReadOrder& order, int first,
                              int last, const float (*block_scales)[kWeightBlocks],
                              float* const* o) {
  constexpr int kAcc = Lanes::kAccumulators;
  constexpr int D = R * 4 <= kAcc ? 4 : R * 2 <= kAcc ? 2 : 1;
  const int vectors = args.head_dim / Lanes::kWidth;
  const int end = (last + kFour - 1) / kFour * kFour;
  for (int begin = first / kFour * kFour; begin < end;) {
    const int next = min_of(end, (begin / kWeightBlock + 1) * kWeightBlock);
    int v = 0;
    for (; v + D <= vectors; v += D) {
      add_values8<R, D>(args, order, v * Lanes::kWidth, begin, next, block_scales, o);
    }
    for (; v < vectors; ++v) {
      add_values8<R, 1>(args, order, v * Lanes::kWidth, begin, next, block_scales, o);
    }
    begin = next;
  }
}

template <int R>
static void run_slice8(const AttentionSliceArgs& args) {
  const Spans spans = spans_of(args);
  if (spans.any_first >= spans.any_last) return;
  const ReadOrder order = read_order(args, spans.any_first, spans.any_last);
  score_slice8<R>(args, order, spans.any_first, spans.any_last);
  const ValueScales value_scales(args, spans);
  float block_scales[R][kWeightBlocks];
  float* o[R];
  for (int r = 0; r < R; ++r) {
    if (args.softcap > 0.0f && args.first[r] < args.last[r]) {
      cap_row(args.scores + r * kSliceKeys, args.first[r], args.last[r], args.softcap);
    }
    weigh_row(args, spans, value_scales, r, block_scales[r]);
    // Rows that see nothing add nothing, to scores that are no longer needed.
    o[r] = args.first[r] < args.last[r] ? args.partials[r] : args.scores + r * kSliceKeys;
    for (int c = 0; c < args.head_dim; ++c) o[r][c] = 0.0f;
  }
  add_slice_values8<R>(args, order, spans.any_first, spans.any_last, block_scales, o);
}

template <int R>
static void run_rows8(const AttentionSliceArgs& args) {
  if constexpr (R > 0) {
    if (args.num_rows == R) {
      run_slice8<R>(args);
    } else {
      run_rows8<R - 1>(args);
    }
  }
}

static void run_slice8_of_any_rows(const AttentionSliceArgs& args) {
  run_rows8<Lanes::kAccumulators / 2>(args);
}

}  // namespace
}  // namespace longhaul::cpu
