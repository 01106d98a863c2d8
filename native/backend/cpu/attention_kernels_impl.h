// Body of the attention_<isa>.cc files: attention_kernels.h over Lanes. See attention_lanes.h for
// why everything is in an unnamed namespace.
//
// Work of a slice goes in three phases: scores of all keys (keys in lanes, R query rows share each
// widened unit of K), softmax of each row, values (channels in lanes, R rows share each unit of V).
// For 3 rows of head_dim 64 in AVX-512 a 64-byte unit costs 2 operations to widen and 6 FMAs.
#pragma once

#include "backend/cpu/attention_q8_impl.h"
#include "backend/cpu/attention_slice.h"

namespace longhaul::cpu {
namespace {

constexpr int kUnit = kUnitBytes / 2;  // numbers of 16 bit

// Scores of R rows for T vectors of keys, beginning `lane` tokens into a tile.
template <int R, int T, bool kF16>
static inline void score_vectors(const float* q, const uint16_t* tile, int lane, int half_dim,
                                 ptrdiff_t ahead, float* scores) {
  using L = Lanes;
  L::F even[R][T], odd[R][T];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) even[r][t] = odd[r][t] = L::zero();
  }
  const ptrdiff_t tile_elements = ptrdiff_t{half_dim} * kUnit;
  for (int i = 0; i < half_dim; ++i) {
    const uint16_t* unit = tile + i * kUnit;
    L::F k_even[T], k_odd[T];
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      const int token = lane + t * L::kWidth;
      const uint16_t* at = unit + token / kTile * tile_elements;
      if (token % kTile == 0) ask_for(at, ahead);
      L::template load_pair<kF16>(at, token % kTile, k_even[t], k_odd[t]);
    }
    const float* q_pair = q + i * (2 * R);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const L::F q_even = L::broadcast(q_pair[2 * r]), q_odd = L::broadcast(q_pair[2 * r + 1]);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        even[r][t] = L::fma(q_even, k_even[t], even[r][t]);
        odd[r][t] = L::fma(q_odd, k_odd[t], odd[r][t]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      L::store(scores + r * kSliceKeys + t * L::kWidth, L::add(even[r][t], odd[r][t]));
    }
  }
}

// Scores of the tiles that hold the keys [first, last). Tokens of those tiles outside the range
// may be unused slots: their scores are never read.
template <int R, bool kF16>
static void score_slice(const AttentionSliceArgs& args, const ReadOrder& order, int first,
                        int last) {
  constexpr int T = R * 4 <= Lanes::kAccumulators ? 2 : 1;
  constexpr int kStep = T * Lanes::kWidth;
  const int block_size = args.block_size;
  const int half_dim = args.head_dim / 2;
  const int last_block = (last - 1) / block_size;
  for (int b = first / block_size; b <= last_block; ++b) {
    const auto* keys = reinterpret_cast<const uint16_t*>(args.blocks[b]);
    const ptrdiff_t ahead = order.ahead(b - first / block_size);
    const int begin = max_of(first - b * block_size, 0) / 32 * 32;
    const int end = min_of(last - b * block_size, block_size);
    for (int t = begin; t < end; t += kStep) {
      const uint16_t* tile = keys + ptrdiff_t{t / kTile} * half_dim * kUnit;
      score_vectors<R, T, kF16>(args.q, tile, t % kTile, half_dim, ahead,
                                args.scores + b * block_size + t);
    }
  }
}

// Turns the scores [first, last) of one row into weights, in place; returns m and l.
static inline void softmax_row(float* scores, int first, int last, float* m_out, float* l_out) {
  using L = Lanes;
  const float m = max_score(scores, first, last);
  constexpr int kSums = LaneSums::kSums;
  LaneSums sums;
  const L::F shift = L::broadcast(m);
  for (int tile = first / kTile * kTile; tile < last; tile += kTile) {
#pragma GCC unroll 4
    for (int i = 0; i < kSums; ++i) {
      const int t = tile + i * L::kWidth;
      if (t + L::kWidth <= first || t >= last) continue;
      L::F p = exp2_lanes(L::sub(L::load(scores + t), shift));
      if (t < first || t + L::kWidth > last) p = L::keep(p, L::zero(), first - t, last - t);
      L::store(scores + t, p);
      sums.sums[i] = L::add(sums.sums[i], p);
    }
  }
  *m_out = m;
  *l_out = sums.total();
}

// o[r][c] += p[r][t] v[t][c] for the tokens [first, last) of one block and D vectors of channels.
// p points at the block's first token in row 0; rows are kSliceKeys apart.
template <int R, int D, bool kF16>
static inline void add_values(const float* p, const uint16_t* values, int channel, int half_block,
                              int first, int last, ptrdiff_t ahead, float* const* o) {
  using L = Lanes;
  L::F sum[R][D];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) sum[r][d] = L::load(o[r] + channel + d * L::kWidth);
  }
  const ptrdiff_t group = ptrdiff_t{half_block} * kUnit;  // elements of 16 channels
  // A first token in the second half of its pair, or a last one in the first half, stands alone.
  for (int t = first; t < last;) {
    const bool use_even = t % 2 == 0, use_odd = t % 2 == 1 || t + 1 < last;
    const uint16_t* unit = values + ptrdiff_t{t / 2} * kUnit;
    const float* p_pair = p + t / 2 * 2;
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) {
      const int c = channel + d * L::kWidth;
      const uint16_t* at = unit + c / kTile * group;
      if (c % kTile == 0) ask_for(at, ahead);
      L::F even, odd;
      L::template load_pair<kF16>(at, c % kTile, even, odd);
      if (use_even) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          sum[r][d] = L::fma(L::broadcast(p_pair[r * kSliceKeys]), even, sum[r][d]);
        }
      }
      if (use_odd) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          sum[r][d] = L::fma(L::broadcast(p_pair[r * kSliceKeys + 1]), odd, sum[r][d]);
        }
      }
    }
    t = t / 2 * 2 + 2;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) L::store(o[r] + channel + d * L::kWidth, sum[r][d]);
  }
}

// All channels of the tokens [first, last) of the slice, for R rows from `row` on. Every token in
// the range must be visible to all of them: a hidden one must not even be multiplied by zero, as
// its slot may hold anything.
template <int R, bool kF16>
static void add_slice_values(const AttentionSliceArgs& args, const ReadOrder& order, int row,
                             int first, int last) {
  constexpr int kAcc = Lanes::kAccumulators;
  constexpr int D = R * 8 <= kAcc ? 8 : R * 4 <= kAcc ? 4 : R * 2 <= kAcc ? 2 : 1;
  const int block_size = args.block_size, half_block = block_size / 2;
  const int vectors = args.head_dim / Lanes::kWidth;
  const int last_block = (last - 1) / block_size;
  int piece = order.first_value + first / block_size - order.first_block;
  for (int b = first / block_size; b <= last_block; ++b, ++piece) {
    const auto* values =
        reinterpret_cast<const uint16_t*>(args.blocks[b] + args.values_offset);
    const ptrdiff_t ahead = order.ahead(piece);
    const float* p = args.scores + row * kSliceKeys + b * block_size;
    const int begin = max_of(first - b * block_size, 0);
    const int end = min_of(last - b * block_size, block_size);
    float* const* o = args.partials + row;
    int v = 0;
    for (; v + D <= vectors; v += D) {
      add_values<R, D, kF16>(p, values, v * Lanes::kWidth, half_block, begin, end, ahead, o);
    }
    if constexpr (D > 4) {
      for (; v + 4 <= vectors; v += 4) {
        add_values<R, 4, kF16>(p, values, v * Lanes::kWidth, half_block, begin, end, ahead, o);
      }
    }
    for (; v < vectors; ++v) {
      add_values<R, 1, kF16>(p, values, v * Lanes::kWidth, half_block, begin, end, ahead, o);
    }
  }
}

template <int R, bool kF16>
static void run_slice(const AttentionSliceArgs& args) {
  const Spans spans = spans_of(args);
  if (spans.any_first >= spans.any_last) return;
  const ReadOrder order = read_order(args, spans.any_first, spans.any_last);
  score_slice<R, kF16>(args, order, spans.any_first, spans.any_last);
  for (int r = 0; r < R; ++r) {
    if (args.first[r] >= args.last[r]) continue;
    float* partial = args.partials[r];
    float* scores = args.scores + r * kSliceKeys;
    if (args.softcap > 0.0f) cap_row(scores, args.first[r], args.last[r], args.softcap);
    softmax_row(scores, args.first[r], args.last[r],
                &partial[args.head_dim], &partial[args.head_dim + 1]);
    for (int c = 0; c < args.head_dim; ++c) partial[c] = 0.0f;
  }
  // Where rows see different keys (the diagonal, the window's far edge: at most a few tokens) each
  // row goes alone; the long middle is shared.
  if (spans.all_first >= spans.all_last) {
    for (int r = 0; r < R; ++r) {
      if (args.first[r] < args.last[r]) {
        add_slice_values<1, kF16>(args, order, r, args.first[r], args.last[r]);
      }
    }
    return;
  }
  for (int r = 0; r < R; ++r) {
    if (args.first[r] < spans.all_first) {
      add_slice_values<1, kF16>(args, order, r, args.first[r], spans.all_first);
    }
  }
  add_slice_values<R, kF16>(args, order, 0, spans.all_first, spans.all_last);
  for (int r = 0; r < R; ++r) {
    if (spans.all_last < args.last[r]) {
      add_slice_values<1, kF16>(args, order, r, spans.all_last, args.last[r]);
    }
  }
}

template <int R>
static void run_rows(const AttentionSliceArgs& args) {
  if constexpr (R > 0) {
    if (args.num_rows == R) {
      args.dtype == KvDType::kF16 ? run_slice<R, true>(args) : run_slice<R, false>(args);
    } else {
      run_rows<R - 1>(args);
    }
  }
}

constexpr int kQueryRows = Lanes::kAccumulators / 2;
static_assert(kQueryRows <= kQueryRowsMax);

static void run_slice_of_any_rows(const AttentionSliceArgs& args) { run_rows<kQueryRows>(args); }

static void merge_partials(float* into, const float* later, int32_t head_dim) {
  using L = Lanes;
  const float m_a = into[head_dim], m_b = later[head_dim];
  const float m = m_a > m_b ? m_a : m_b;
  float factors[2 * L::kWidth];
  L::store(factors, exp2_lanes(L::broadcast(m_a - m)));
  L::store(factors + L::kWidth, exp2_lanes(L::broadcast(m_b - m)));
  const L::F f = L::broadcast(factors[0]), g = L::broadcast(factors[L::kWidth]);
  for (int c = 0; c < head_dim; c += L::kWidth) {
    L::store(into + c, L::fma(L::load(later + c), g, L::mul(L::load(into + c), f)));
  }
  into[head_dim] = m;
  into[head_dim + 1] = __builtin_fmaf(later[head_dim + 1], factors[L::kWidth],
                                      into[head_dim + 1] * factors[0]);
}

static void finish_partial(const float* partial, float* out, int32_t head_dim) {
  using L = Lanes;
  const L::F inverse = L::broadcast(1.0f / partial[head_dim + 1]);
  for (int c = 0; c < head_dim; c += L::kWidth) {
    L::store(out + c, L::mul(L::load(partial + c), inverse));
  }
}

constexpr AttentionKernels kAttentionKernels = {
    kQueryRows,    kQueryRows,     run_slice_of_any_rows, run_slice8_of_any_rows,
    pack_queries8, merge_partials, finish_partial};

}  // namespace
}  // namespace longhaul::cpu
