// What the slices of attention_kernels_impl.h (16-bit keys and values) and attention_q8_impl.h
// (8-bit ones) have in common: who sees what, the order of reading, the largest score.
#pragma once

#include "backend/cpu/attention_kernels.h"
#include "backend/cpu/attention_lanes.h"

namespace longhaul::cpu {
namespace {

constexpr int kTile = 16;            // tokens of a K unit, channels of a V unit
constexpr int kUnitBytes = 64;       // K and V lie in units of a cache line

static inline int min_of(int a, int b) { return a < b ? a : b; }
static inline int max_of(int a, int b) { return a > b ? a : b; }

// Tokens of the slice that some row of the call sees, and that every row sees.
struct Spans {
  int any_first, any_last;
  int all_first, all_last;  // empty when all_first >= all_last
};

static inline Spans spans_of(const AttentionSliceArgs& args) {
  Spans spans{kSliceKeys, 0, 0, kSliceKeys};
  for (int r = 0; r < args.num_rows; ++r) {
    if (args.first[r] < args.last[r]) {
      spans.any_first = min_of(spans.any_first, args.first[r]);
      spans.any_last = max_of(spans.any_last, args.last[r]);
    }
    spans.all_first = max_of(spans.all_first, args.first[r]);
    spans.all_last = min_of(spans.all_last, args.last[r]);
  }
  return spans;
}

// The order in which a call reads memory: K of its blocks, V of its blocks, K of the next slice's
// blocks. Blocks lie anywhere, so the hardware cannot guess it: while one piece is read, the one
// kAheadBytes later is asked for, unit by unit. Nearer ones have not arrived when they are needed,
// farther ones wait for each other (2 to 32 KB tried).
struct ReadOrder {
  static constexpr int kAheadBytes = 16384;
  const std::byte* pieces[3 * kSliceBlocksMax];
  int count = 0;
  int pieces_ahead = 1;
  int first_block = 0;  // of the slice, that pieces[0] belongs to
  int first_value = 0;  // index of the first piece of V

  void add(const std::byte* piece) { pieces[count++] = piece; }
  // Bytes from a unit of piece i to the one to ask for.
  ptrdiff_t ahead(int i) const {
    return i + pieces_ahead < count ? pieces[i + pieces_ahead] - pieces[i] : 0;
  }
};

static inline ReadOrder read_order(const AttentionSliceArgs& args, int first, int last) {
  ReadOrder order;
  const int begin = first / args.block_size, end = (last - 1) / args.block_size;
  order.pieces_ahead = max_of(1, static_cast<int>(ReadOrder::kAheadBytes / args.values_offset));
  order.first_block = begin;
  order.first_value = end - begin + 1;
  for (int b = begin; b <= end; ++b) order.add(args.blocks[b]);
  for (int b = begin; b <= end; ++b) order.add(args.blocks[b] + args.values_offset);
  for (int b = 0; b < kSliceBlocksMax && args.next_blocks[b]; ++b) order.add(args.next_blocks[b]);
  return order;
}

static inline void ask_for(const void* unit, ptrdiff_t ahead) {
  __builtin_prefetch(static_cast<const std::byte*>(unit) + ahead, 0, 2);
}

// Applies the softcap to the scores [first, last) of one row; neighbors in a vector may change
// too, they are never read.
static inline void cap_row(float* scores, int first, int last, float softcap) {
  using L = Lanes;
  for (int t = first / L::kWidth * L::kWidth; t < last; t += L::kWidth) {
    L::store(scores + t, L::mul(L::broadcast(softcap), tanh_lanes(L::load(scores + t))));
  }
}

// The largest of the scores [first, last) of one row.
static inline float max_score(const float* scores, int first, int last) {
  using L = Lanes;
  const float kNegativeInfinity = -__builtin_inff();
  L::F max = L::broadcast(kNegativeInfinity);
  for (int t = first / L::kWidth * L::kWidth; t < last; t += L::kWidth) {
    L::F s = L::load(scores + t);
    if (t < first || t + L::kWidth > last) {
      s = L::keep(s, L::broadcast(kNegativeInfinity), first - t, last - t);
    }
    max = L::max(s, max);
  }
  float lanes[L::kWidth];
  L::store(lanes, max);
  float m = lanes[0];
  for (int i = 1; i < L::kWidth; ++i) m = lanes[i] > m ? lanes[i] : m;
  return m;
}

// The softmax denominator: lane t % 16 adds the p_t of ascending t, whatever the vector width.
struct LaneSums {
  static constexpr int kSums = kTile / Lanes::kWidth;
  Lanes::F sums[kSums];

  LaneSums() {
    for (int i = 0; i < kSums; ++i) sums[i] = Lanes::zero();
  }
  float total() const {
    float tree[kTile];
    for (int i = 0; i < kSums; ++i) Lanes::store(tree + i * Lanes::kWidth, sums[i]);
    for (int half = kTile / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) tree[i] += tree[i + half];
    }
    return tree[0];
  }
};

}  // namespace
}  // namespace longhaul::cpu
