// What the attention kernels have in common: where rows lie in shared memory, how 16- and 8-bit
// numbers become operands of the tensor cores, queries, the running softmax, output rows.
//
// Fragment layouts are those of mma.m16n8k16 (PTX ISA 9.7.14.5.8). With g = lane / 4 and
// t = lane % 4 a lane holds of an accumulator rows g and g + 8, columns 2 t and 2 t + 1; of the
// right operand rows (k) 2 t, 2 t + 1, 2 t + 8, 2 t + 9 of column g.
//
// 8-bit numbers are widened in registers: ldmatrix moves 16-byte chunks whatever they hold, and a
// lane gets four neighboring bytes of a row. For K these are four channels, so channels of a chunk
// are summed in another order than they are stored; queries are stored in that order
// (store_queries). For V, transposed, they are two channels of two keys, so the accumulator's
// columns of a chunk are its even channels, then its odd ones.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "attention_shapes.h"
#include "device.cuh"

namespace longhaul::device {

constexpr float kLog2E = 1.4426950408889634f;

// ---- numbers of K and V

template <CacheType kType>
struct CacheNumbers {
  static constexpr bool kIs8Bit = kType == CacheType::kQ8 || kType == CacheType::kFp8;
  static constexpr int kBytes = kIs8Bit ? 1 : 2;
  // What products are computed in: exact for every 8-bit number.
  using Product = std::conditional_t<kType == CacheType::kBF16, bf16, f16>;
};

// Four 8-bit numbers as two pairs: bytes (a, b) and (c, d) of `selectors`, one hexadecimal digit a
// byte, low first.
template <CacheType kType, uint32_t kFirst, uint32_t kSecond>
__device__ __forceinline__ void widen_bytes(uint32_t word, uint32_t& first, uint32_t& second) {
  if constexpr (kType == CacheType::kQ8) {
    // f16 0x64uu is 1024 + uu. Offset binary is x + 128, so 1152 less is x; every step is exact.
    constexpr uint32_t kHigh = 0x64646464u, kMinus1152 = 0xe480e480u;
    constexpr auto spread = [](uint32_t pair) {
      return 0x4040u | (pair & 0xfu) | (pair >> 4) << 8;
    };
    const uint32_t offset = word ^ 0x80808080u;
    first = add2<f16>(permute_bytes(offset, kHigh, spread(kFirst)), kMinus1152);
    second = add2<f16>(permute_bytes(offset, kHigh, spread(kSecond)), kMinus1152);
  } else {
    first = widen2_fp8(permute_bytes(word, word, kFirst));
    second = widen2_fp8(permute_bytes(word, word, kSecond));
  }
}
// Neighbors: bytes 0, 1 and 2, 3.
template <CacheType kType>
__device__ __forceinline__ void widen_neighbors(uint32_t word, uint32_t& low, uint32_t& high) {
  widen_bytes<kType, 0x10, 0x32>(word, low, high);
}
// Of two keys with two channels each: bytes 0, 2 (even channel) and 1, 3 (odd).
template <CacheType kType>
__device__ __forceinline__ void widen_columns(uint32_t word, uint32_t& even, uint32_t& odd) {
  widen_bytes<kType, 0x20, 0x31>(word, even, odd);
}

// ---- rows in shared memory (RowLayout)

template <int kRowBytes>
struct Rows {
  static constexpr RowLayout kLayout = RowLayout(kRowBytes);
  static constexpr int kChunks = kLayout.chunks;
  static constexpr int kPitch = kLayout.pitch_bytes;

  __device__ __forceinline__ static int swizzle(int row) {
    if constexpr (kChunks % 8 == 0) return row & 7;
    if constexpr (kChunks == 4) return row >> 1 & 3;
    return 0;
  }
  __device__ __forceinline__ static int offset(int row, int chunk) {
    return row * kPitch + (chunk ^ swizzle(row)) * 16;
  }
};

// A lane's place for ldmatrix of 16 rows x 2 chunks: matrices are rows 0..7, rows 8..15, then both
// for the second chunk (the left operand as it is; of a right operand of 16 keys, keys 0..7 are
// matrices 0 and 2). at(c), c even, is the offset of the chunks c and c + 1; other rows, multiples
// of 8 away, are a constant to add. Swizzled rows have four different values to keep in registers.
template <int kRowBytes>
struct LanePlace {
  int row_offset, chunk_bits;

  __device__ __forceinline__ LanePlace() : LanePlace(lane() % 16, lane() / 16) {}
  // A matrix for 8 lanes' rows, one chunk at a time: any c.
  __device__ __forceinline__ static LanePlace of_rows() { return LanePlace(lane(), 0); }
  __device__ __forceinline__ int at(int chunk) const {
    if constexpr (Rows<kRowBytes>::kChunks % 8 == 0) {
      return row_offset + (chunk % 8 * 16 ^ chunk_bits) + chunk / 8 * 128;
    }
    if constexpr (Rows<kRowBytes>::kChunks == 4) return row_offset + (chunk * 16 ^ chunk_bits);
    return row_offset + chunk_bits + chunk * 16;
  }

 private:
  __device__ __forceinline__ static int lane() {
    return computed_here(static_cast<int>(threadIdx.x)) % 32;
  }
  __device__ __forceinline__ LanePlace(int row, int chunk)
      : row_offset(row * Rows<kRowBytes>::kPitch),
        chunk_bits((chunk ^ Rows<kRowBytes>::swizzle(row)) * 16) {}
};

// ---- items

// Read again where a part of it is needed rarely, rather than kept in registers.
__device__ __forceinline__ AttentionItem load_item(const AttentionItem* from) {
  static_assert(sizeof(AttentionItem) == 3 * sizeof(int4));
  const int4* words = reinterpret_cast<const int4*>(from);
  const int4 a = load_stream(words), b = load_stream(words + 1);
  AttentionItem item;
  item.first_row = a.x;
  item.first_position = a.y;
  item.packed_begin = a.z;
  item.packed_count = a.w;
  item.kv_head = b.x;
  item.key_begin = b.y;
  item.key_end = b.z;
  item.first_partial = b.w;
  item.table_offset = load_stream(&from->table_offset);
  return item;
}

// Keys that row `row` of an item sees, [first, last] within the item's. Rows without a query repeat
// the last one's (their logits are never looked at).
struct KeyRange {
  int32_t first, last;
};
__device__ __forceinline__ KeyRange visible_keys(const AttentionParams& p, const AttentionItem& item,
                                                 int row) {
  const int32_t group = p.num_heads / p.cache.num_kv_heads;
  const int32_t packed = row < item.packed_count ? row : item.packed_count - 1;
  const int32_t position = item.first_position + (item.packed_begin + packed) / group;
  KeyRange keys{item.key_begin, item.key_end - 1};
  if (p.window > 0 && position - p.window + 1 > keys.first) keys.first = position - p.window + 1;
  if (position < keys.last) keys.last = position;
  return keys;
}
// From the last row's first to the first row's last.
__device__ __forceinline__ KeyRange keys_of_all_rows(const AttentionParams& p,
                                                     const AttentionItem& item) {
  return KeyRange{visible_keys(p, item, item.packed_count - 1).first,
                  visible_keys(p, item, 0).last};
}

// What q is multiplied by when it is loaded: logits come out in units of log2, or with a softcap in
// units of it (cap_logits).
__device__ __forceinline__ float query_scale(const AttentionParams& p) {
  const float scale = computed_here(p.scale);
  return p.softcap > 0 ? scale * reciprocal_fast(p.softcap) : scale * kLog2E;
}

// ---- queries

// Writes packed rows [packed_begin, packed_begin + kRows) of the item, multiplied by `scale`, as
// rows of Product into `to`; rows from packed_count on are zeros. By all kThreads threads; a barrier
// must follow. kPermuted: the order in which 8-bit K is read (above).
template <int kHeadDim, int kRows, int kThreads, typename Product, bool kPermuted>
__device__ __forceinline__ void store_queries(Shared<std::byte> to, const AttentionParams& p,
                                              const AttentionItem& item, float scale) {
  using Layout = Rows<2 * kHeadDim>;
  constexpr int kQuads = kHeadDim / 4;   // float4s a row
  constexpr int kTurns = (kRows * kQuads + kThreads - 1) / kThreads;
  const int32_t group = p.num_heads / p.cache.num_kv_heads;
  const int thread = computed_here(static_cast<int>(threadIdx.x));
#pragma unroll 2
  for (int i = 0; i < kTurns; ++i) {
    const int index = i * kThreads + thread;
    if (kRows * kQuads % kThreads != 0 && index >= kRows * kQuads) break;
    const int row = index / kQuads, quad = index % kQuads;
    float4 q{0, 0, 0, 0};
    if (row < item.packed_count) {
      const int32_t packed = item.packed_begin + row;
      const int64_t step_row = item.first_row + packed / group;
      const int32_t head = item.kv_head * group + packed % group;
      q = load_cached(reinterpret_cast<const float4*>(p.q + step_row * p.q_stride +
                                                      int64_t{head} * kHeadDim + quad * 4));
    }
    const uint32_t low = pack2<Product>(q.x * scale, q.y * scale);
    const uint32_t high = pack2<Product>(q.z * scale, q.w * scale);
    if constexpr (kPermuted) {
      const int chunk = quad / 4 * 2, within = quad % 4 * 4;
      shared_cast<uint32_t>(to + (Layout::offset(row, chunk) + within))[0] = low;
      shared_cast<uint32_t>(to + (Layout::offset(row, chunk + 1) + within))[0] = high;
    } else {
      shared_cast<uint2>(to + (Layout::offset(row, quad / 2) + quad % 2 * 8))[0] = uint2{low, high};
    }
  }
}

// ---- softmax

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, warp_shuffle_xor(x, 1));
  return fmaxf(x, warp_shuffle_xor(x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += warp_shuffle_xor(x, 1);
  return x + warp_shuffle_xor(x, 2);
}

// What logits are subtracted from their maximum by; rows without any key yet have none.
__device__ __forceinline__ float softmax_base(float max) {
  return max == -INFINITY ? 0.0f : max;
}

// The running softmax of one 16-row tile: accumulator, maxima and sums of rows g and g + 8. The
// sums are of this lane's columns only until finish().
template <int kHeadDim>
struct SoftmaxTile {
  float o[kHeadDim / 8][4];
  float m[2], l[2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kHeadDim / 8; ++i) {
#pragma unroll
      for (int c = 0; c < 4; ++c) o[i][c] = 0.0f;
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      m[r] = -INFINITY;
      l[r] = 0.0f;
    }
  }

  // Logits become weights 2^(s - m); o and l are brought to the new maximum where it has risen,
  // which is rare after the first tiles, and o to new units (`units` not 1, the same for all lanes).
  template <int kColumnTiles>
  __device__ __forceinline__ void update(float (&s)[kColumnTiles][4], float units = 1.0f) {
    float alpha[2];
    bool risen = units != 1.0f;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float tile_max = fmaxf(s[0][2 * r], s[0][2 * r + 1]);
#pragma unroll
      for (int j = 1; j < kColumnTiles; ++j) {
        tile_max = fmaxf(tile_max, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
      }
      const float max = fmaxf(m[r], quad_max(tile_max));
      risen = risen || max > m[r];
      const float base = softmax_base(max);
      alpha[r] = exp2_fast(m[r] - base);
      m[r] = max;
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) {
        s[j][2 * r] = exp2_fast(s[j][2 * r] - base);
        s[j][2 * r + 1] = exp2_fast(s[j][2 * r + 1] - base);
      }
    }
    if (warp_any(risen)) {
#pragma unroll
      for (int i = 0; i < kHeadDim / 8; ++i) {
#pragma unroll
        for (int c = 0; c < 4; ++c) o[i][c] *= alpha[c / 2] * units;
      }
      l[0] *= alpha[0];
      l[1] *= alpha[1];
    }
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) {
      l[0] += s[j][0] + s[j][1];
      l[1] += s[j][2] + s[j][3];
    }
  }

  // Sums over the quad; `units` of the accumulator are multiplied out.
  __device__ __forceinline__ void finish(float units) {
    l[0] = quad_sum(l[0]);
    l[1] = quad_sum(l[1]);
    if (units == 1.0f) return;
#pragma unroll
    for (int i = 0; i < kHeadDim / 8; ++i) {
#pragma unroll
      for (int c = 0; c < 4; ++c) o[i][c] *= units;
    }
  }
};

// 8-bit V is multiplied without its scales: those go into the weights, as shares of the largest
// scale seen so far, so that weights stay at or below 1 in f16 whatever the scales are. That
// largest scale is the unit of the accumulator.
struct ValueUnits {
  float scale = 0x1p-100f;   // not 0: all scales may be

  // Takes the largest scale of a tile; returns what the accumulator is to be multiplied by.
  __device__ __forceinline__ float raise(float max) {
    if (!(max > scale)) return 1.0f;
    const float units = scale * reciprocal_fast(max);
    scale = max;
    return units;
  }
  __device__ __forceinline__ float share() const { return reciprocal_fast(scale); }
};

// Logits of keys first_key + 8 j + 2 t + {0, 1} that rows first_row + g and + g + 8 of the item do
// not see become -inf.
template <int kColumnTiles>
__device__ __forceinline__ void mask_logits(float (&s)[kColumnTiles][4], const AttentionParams& p,
                                            const AttentionItem& item, int first_row,
                                            int32_t first_key) {
  const int lane = computed_here(static_cast<int>(threadIdx.x)) % 32;
  const KeyRange keys[2] = {visible_keys(p, item, first_row + lane / 4),
                            visible_keys(p, item, first_row + lane / 4 + 8)};
#pragma unroll
  for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int32_t key = first_key + 8 * j + lane % 4 * 2 + c % 2;
      if (key < keys[c / 2].first || key > keys[c / 2].last) s[j][c] = -INFINITY;
    }
  }
}
// softcap * tanh(logits), in units of log2.
template <int kColumnTiles>
__device__ __forceinline__ void cap_logits(float (&s)[kColumnTiles][4], float softcap) {
#pragma unroll
  for (int j = 0; j < kColumnTiles; ++j) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      // tanh x = 1 - 2 / (e^2x + 1): right at both ends, and near 0 within 1e-7 of the cap.
      const float power = exp2_fast(s[j][c] * (2.0f * kLog2E));
      s[j][c] = softcap * kLog2E * (1.0f - 2.0f * reciprocal_fast(1.0f + power));
    }
  }
}

// 8-bit K and V: one scale a key, f32 [8 kColumnTiles]. Multiplies the logits or weights of each
// key by its scale times `factor`.
template <int kColumnTiles, int kRowTiles>
__device__ __forceinline__ void multiply_scales(float (&s)[kRowTiles][kColumnTiles][4],
                                                Shared<const std::byte> scales, float factor) {
  const Shared<const float2> of_lane = shared_cast<const float2>(scales) + threadIdx.x % 4;
#pragma unroll
  for (int j = 0; j < kColumnTiles; ++j) {
    const float2 scale = of_lane[4 * j];
    const float2 f{scale.x * factor, scale.y * factor};
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      s[i][j][0] *= f.x;
      s[i][j][1] *= f.y;
      s[i][j][2] *= f.x;
      s[i][j][3] *= f.y;
    }
  }
}
template <int kColumnTiles>
__device__ __forceinline__ float max_scale(Shared<const std::byte> scales) {
  const Shared<const float2> of_lane = shared_cast<const float2>(scales) + threadIdx.x % 4;
  float max = 0;
#pragma unroll
  for (int j = 0; j < kColumnTiles; ++j) {
    const float2 scale = of_lane[4 * j];
    max = fmaxf(max, fmaxf(scale.x, scale.y));
  }
  return quad_max(max);
}

// Weights of 16 keys (column tiles j and j + 1) as left operand of the product with V.
template <typename Product>
__device__ __forceinline__ void pack_weights(uint32_t (&a)[4], const float (&low)[4],
                                             const float (&high)[4]) {
  a[0] = pack2<Product>(low[0], low[1]);
  a[1] = pack2<Product>(low[2], low[3]);
  a[2] = pack2<Product>(high[0], high[1]);
  a[3] = pack2<Product>(high[2], high[3]);
}

// ---- output

// Channels [channel, channel + 4) of a packed row of `out`, whatever its form.
__device__ __forceinline__ int64_t output_index(const AttentionParams& p, const int32_t first_row,
                                                int32_t kv_head, int32_t packed, int32_t channel) {
  const int32_t group = p.num_heads / p.cache.num_kv_heads;
  return (int64_t{first_row} + packed / group) * p.out.stride +
         (int64_t{kv_head} * group + packed % group) * p.cache.head_dim + channel;
}
__device__ __forceinline__ void store_output(const ProductInput& out, int64_t index, float4 v) {
  if (out.form == InputForm::kF32) {
    store_stream(reinterpret_cast<float4*>(static_cast<float*>(out.data) + index), v);
  } else {
    const uint2 packed = out.form == InputForm::kF16
                             ? uint2{pack2<f16>(v.x, v.y), pack2<f16>(v.z, v.w)}
                             : uint2{pack2<bf16>(v.x, v.y), pack2<bf16>(v.z, v.w)};
    store_stream(reinterpret_cast<uint2*>(static_cast<uint16_t*>(out.data) + index), packed);
  }
}
__device__ __forceinline__ void store_output(const ProductInput& out, int64_t index, float2 v) {
  if (out.form == InputForm::kF32) {
    store_stream(reinterpret_cast<float2*>(static_cast<float*>(out.data) + index), v);
  } else {
    const uint32_t packed =
        out.form == InputForm::kF16 ? pack2<f16>(v.x, v.y) : pack2<bf16>(v.x, v.y);
    store_stream(reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(out.data) + index), packed);
  }
}

}  // namespace longhaul::device
