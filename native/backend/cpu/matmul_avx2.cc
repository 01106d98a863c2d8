// AVX2 kernels (no VNNI): 8 rows are the 8 lanes. VPMADDUBSW multiplies unsigned weights by signed
// activations and adds neighbors in 16 bits with saturation, so 16-bit sums are widened before they
// could reach it: 2 * 15 * 127 fits 8 times in 32767, 2 * 31 * 127 four times, 2 * 63 * 127 twice.
// 8-bit weights go in as |w| with the sign moved to the activation: 2 * 128 * 127 fits once. All
// sums are exact, hence equal to the other instruction sets'.
//
// Only intrinsics, built-ins and functions of this file (see matmul_avx512.cc).
#include "backend/cpu/matmul_kernels.h"
#include "backend/cpu/vector_math_avx2.h"

namespace longhaul::cpu {
namespace {

using Byte = uint8_t;

inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

inline __m256i broadcast4(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}

inline __m256 half_row(const Byte* p) {  // 8 adjacent f16
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline __m256 byte_row(const Byte* p) {  // 8 adjacent u8
  return _mm256_cvtepi32_ps(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline __m256 signed_byte_row(const Byte* p) {  // 8 adjacent s8
  return _mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

// ---- expansion ----

// Asks for a block's planes to come to the second-level cache. Always inlined: GCC takes a function
// that only prefetches for one without effects and drops calls to it.
template <int kBits>
__attribute__((always_inline)) inline void prefetch_block(const Byte* group,
                                                          const GroupLayout& layout, int64_t block,
                                                          int scale_bytes) {
  constexpr int kLowBytes = kBits == 8 ? 512 : 256;
  constexpr int kHighBytes = kBits == 5 ? 64 : kBits == 6 ? 128 : 0;
  const char* base = reinterpret_cast<const char*>(group);
#pragma GCC unroll 8
  for (int at = 0; at < kLowBytes; at += 64) {
    _mm_prefetch(base + block * kLowBytes + at, _MM_HINT_T1);
  }
#pragma GCC unroll 2
  for (int at = 0; at < kHighBytes; at += 64) {
    _mm_prefetch(base + layout.high + block * kHighBytes + at, _MM_HINT_T1);
  }
  _mm_prefetch(base + layout.scales + block * scale_bytes, _MM_HINT_T1);
}

// Half a slice (8 rows x 4 columns, 32 bytes) at byte offset `at` of each 64-byte vector.
template <int kBits>
inline void expand_quants(const Byte* low, const Byte* high, int at, Byte (*out)[2][64], int half) {
  const __m256i nibble = _mm256_set1_epi8(15);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    __m256i even, odd;
    if constexpr (kBits == 8) {
      even = load(low + 128 * j + at);
      odd = load(low + 128 * j + 64 + at);
    } else {
      const __m256i both = load(low + 64 * j + at);
      even = _mm256_and_si256(both, nibble);
      odd = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
    }
    if constexpr (kBits == 5) {  // bit s of each byte belongs to slice s
      const __m256i bits = _mm256_srl_epi16(load(high + at), _mm_cvtsi32_si128(2 * j));
      const __m256i one = _mm256_set1_epi8(1);
      const __m256i bit0 = _mm256_and_si256(bits, one);
      const __m256i bit1 = _mm256_and_si256(_mm256_srli_epi16(bits, 1), one);
      even = _mm256_or_si256(even, _mm256_slli_epi16(bit0, 4));
      odd = _mm256_or_si256(odd, _mm256_slli_epi16(bit1, 4));
    }
    if constexpr (kBits == 6) {  // two bits a slice, four slices a vector
      const __m256i bits =
          _mm256_srl_epi16(load(high + j / 2 * 64 + at), _mm_cvtsi32_si128(j % 2 * 4));
      const __m256i three = _mm256_set1_epi8(3);
      const __m256i bit0 = _mm256_and_si256(bits, three);
      const __m256i bit1 = _mm256_and_si256(_mm256_srli_epi16(bits, 2), three);
      even = _mm256_or_si256(even, _mm256_slli_epi16(bit0, 4));
      odd = _mm256_or_si256(odd, _mm256_slli_epi16(bit1, 4));
    }
    _mm256_store_si256(reinterpret_cast<__m256i*>(out[2 * j][half] + at), even);
    _mm256_store_si256(reinterpret_cast<__m256i*>(out[2 * j + 1][half] + at), odd);
  }
}

template <ScaleMode kMode, bool kSuper>
inline void expand_scales(const Byte* scales, int64_t chunk, int b, int lane, int column,
                          ExpandedChunk* out) {
  if constexpr (kMode == ScaleMode::kHalves) {
    const Byte* s = scales + chunk * 288;
    const __m256 d = half_row(s + 2 * lane);
    for (int h = 2 * b; h < 2 * b + 2; ++h) {
      _mm256_store_ps(out->scales[h] + column,
                      _mm256_mul_ps(d, signed_byte_row(s + 32 + 16 * h + lane)));
    }
  } else if constexpr (kSuper) {
    const Byte* s = scales + chunk * 320;
    const __m256 d = half_row(s + 2 * lane);
    const __m256 m = _mm256_xor_ps(half_row(s + 32 + 2 * lane), _mm256_set1_ps(-0.0f));
    _mm256_store_ps(out->scales[b] + column, _mm256_mul_ps(d, byte_row(s + 64 + 16 * b + lane)));
    _mm256_store_ps(out->mins[b] + column, _mm256_mul_ps(m, byte_row(s + 192 + 16 * b + lane)));
  } else {
    const int64_t block = chunk * kChunkBlocks + b;
    const Byte* s = scales + block * (kMode == ScaleMode::kMin ? 64 : 32) + 2 * lane;
    _mm256_store_ps(out->scales[b] + column, half_row(s));
    if constexpr (kMode == ScaleMode::kMin) {
      _mm256_store_ps(out->mins[b] + column, half_row(s + 32));
    }
  }
}

template <int kBits, ScaleMode kMode, bool kSuper>
void expand_as(const PackFormat& format, const std::byte* group, const GroupLayout& layout,
               int64_t chunk, int blocks, int half, ExpandedChunk* out) {
  const Byte* base = reinterpret_cast<const Byte*>(group);
  const int64_t count = layout.high / format.low_block_bytes;  // blocks of the group
  for (int b = 0; b < blocks; ++b) {
    const int64_t block = chunk * kChunkBlocks + b;
    // Two chunks ahead; the groups of a strip take turns, so that past this group's end comes the
    // group after the next.
    const int64_t ahead = block + 2 * kChunkBlocks;
    const bool next = ahead >= count;
    const int64_t at = next ? (ahead - count < count ? ahead - count : 0) : ahead;
    prefetch_block<kBits>(
        next ? base + 2 * layout.bytes : base, layout, at,
        kSuper ? format.scale_block_bytes / kChunkBlocks : format.scale_block_bytes);
    for (int lane = 0; lane < kGroupRows; lane += 8) {
      expand_quants<kBits>(base + block * format.low_block_bytes,
                           base + layout.high + block * format.high_block_bytes, 4 * lane,
                           out->quants + 8 * b, half);
      expand_scales<kMode, kSuper>(base + layout.scales, chunk, b, lane, half * kGroupRows + lane,
                                   out);
    }
  }
}

void expand(DType dtype, const std::byte* group, const GroupLayout& layout, int64_t chunk,
            int blocks, int half, ExpandedChunk* out) {
  const PackFormat& f = kPackFormats[static_cast<int>(dtype)];
  constexpr ScaleMode kPlain = ScaleMode::kPlain, kMin = ScaleMode::kMin;
  switch (dtype) {
    case DType::kQ8_0:
      return expand_as<8, kPlain, false>(f, group, layout, chunk, blocks, half, out);
    case DType::kQ4_0:
      return expand_as<4, kPlain, false>(f, group, layout, chunk, blocks, half, out);
    case DType::kQ4_1:
      return expand_as<4, kMin, false>(f, group, layout, chunk, blocks, half, out);
    case DType::kQ5_0:
      return expand_as<5, kPlain, false>(f, group, layout, chunk, blocks, half, out);
    case DType::kQ5_1:
      return expand_as<5, kMin, false>(f, group, layout, chunk, blocks, half, out);
    case DType::kQ4_K:
      return expand_as<4, kMin, true>(f, group, layout, chunk, blocks, half, out);
    case DType::kQ5_K:
      return expand_as<5, kMin, true>(f, group, layout, chunk, blocks, half, out);
    case DType::kQ6_K:
      return expand_as<6, ScaleMode::kHalves, true>(f, group, layout, chunk, blocks, half, out);
    default:
      return;
  }
}

// ---- products ----

inline __m256i widen_add(__m256i sum16, __m256i sum32) {
  return _mm256_add_epi32(sum32, _mm256_madd_epi16(sum16, _mm256_set1_epi16(1)));
}

// Sums of kSlices slices for 16 rows (two registers) and kTokens tokens, added to sums; 16-bit sums
// are widened every kSafe slices. kSafe = 0: weights of 8 bits, which arrive as w + 128 and are
// multiplied as signed w.
template <int kSlices, int kSafe, int kTokens>
inline void dot_slices(const Byte* weights, const ActivationChunk* rows, int first,
                       __m256i (*sums)[2]) {
  if constexpr (kSafe == 0) {
    const __m256i flip = _mm256_set1_epi8(-128);
    for (int s = 0; s < kSlices; ++s) {
      const __m256i w0 = _mm256_xor_si256(load(weights + 128 * s), flip);
      const __m256i w1 = _mm256_xor_si256(load(weights + 128 * s + 32), flip);
      const __m256i magnitude0 = _mm256_abs_epi8(w0), magnitude1 = _mm256_abs_epi8(w1);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        const __m256i q = broadcast4(rows[t].quants + 4 * (first + s));
        sums[t][0] =
            widen_add(_mm256_maddubs_epi16(magnitude0, _mm256_sign_epi8(q, w0)), sums[t][0]);
        sums[t][1] =
            widen_add(_mm256_maddubs_epi16(magnitude1, _mm256_sign_epi8(q, w1)), sums[t][1]);
      }
    }
  } else {
    for (int begin = 0; begin < kSlices; begin += kSafe) {
      __m256i sum16[kTokens][2];
#pragma GCC unroll 8
      for (int s = begin; s < begin + kSafe; ++s) {
        const __m256i w0 = load(weights + 128 * s), w1 = load(weights + 128 * s + 32);
#pragma GCC unroll 4
        for (int t = 0; t < kTokens; ++t) {
          const __m256i q = broadcast4(rows[t].quants + 4 * (first + s));
          const __m256i p0 = _mm256_maddubs_epi16(w0, q), p1 = _mm256_maddubs_epi16(w1, q);
          sum16[t][0] = s == begin ? p0 : _mm256_add_epi16(sum16[t][0], p0);
          sum16[t][1] = s == begin ? p1 : _mm256_add_epi16(sum16[t][1], p1);
        }
      }
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        sums[t][0] = widen_add(sum16[t][0], sums[t][0]);
        sums[t][1] = widen_add(sum16[t][1], sums[t][1]);
      }
    }
  }
}

// Float sums stay in memory: they are touched once a block, and the integer sums need the
// registers.
template <ScaleMode kMode, int kSafe, int kTokens>
void multiply_tokens(const ExpandedChunk& weights, int blocks, int offset,
                     const ActivationChunk* rows, float* acc) {
  constexpr int kParts = kMode == ScaleMode::kHalves ? 2 : 1;
  constexpr int kSlices = 8 / kParts;
  for (int half = 0; half < 2; ++half) {
    const int column = half * kGroupRows;
    for (int part = 0; part < blocks * kParts; ++part) {
      const int block = part / kParts;
      __m256i sums[kTokens][2];
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        int32_t row_sum = 0;
        // Signed 8-bit weights need no correction for their offset.
        if constexpr (kSafe != 0) {
          row_sum = kParts == 2 ? rows[t].half_sums[part]
                                : rows[t].half_sums[2 * part] + rows[t].half_sums[2 * part + 1];
        }
        sums[t][0] = sums[t][1] = _mm256_set1_epi32(-offset * row_sum);
      }
      const int first = part * kSlices;
      dot_slices<kSlices, kSafe, kTokens>(weights.quants[first][half], rows, first, sums);
#pragma GCC unroll 2
      for (int lane = 0; lane < kGroupRows; lane += 8) {
        const __m256 scale = _mm256_load_ps(weights.scales[part] + column + lane);
#pragma GCC unroll 4
        for (int t = 0; t < kTokens; ++t) {
          float* f = acc + t * kStripRows + column + lane;
          const __m256 scaled = _mm256_mul_ps(scale, _mm256_set1_ps(rows[t].d[block]));
          __m256 v =
              _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[t][lane / 8]), scaled, _mm256_load_ps(f));
          if constexpr (kMode == ScaleMode::kMin) {
            const __m256 min = _mm256_load_ps(weights.mins[block] + column + lane);
            v = _mm256_fmadd_ps(min, _mm256_set1_ps(rows[t].s[block]), v);
          }
          _mm256_store_ps(f, v);
        }
      }
    }
  }
}

constexpr int kTokensMax = 3;  // 3 x 2 sums in 16 and in 32 bits: 12 of 16 registers

template <ScaleMode kMode, int kSafe>
void multiply_as(const ExpandedChunk& weights, int blocks, int offset, const ActivationChunk* rows,
                 int tokens, float* acc) {
  for (int shares = (tokens + kTokensMax - 1) / kTokensMax; shares > 0; --shares) {
    const int n = (tokens + shares - 1) / shares;
    switch (n) {
      case 1:
        multiply_tokens<kMode, kSafe, 1>(weights, blocks, offset, rows, acc);
        break;
      case 2:
        multiply_tokens<kMode, kSafe, 2>(weights, blocks, offset, rows, acc);
        break;
      default:
        multiply_tokens<kMode, kSafe, 3>(weights, blocks, offset, rows, acc);
        break;
    }
    rows += n;
    acc += n * kStripRows;
    tokens -= n;
  }
}

void multiply(const ExpandedChunk& weights, int blocks, ScaleMode mode, int offset,
              const ActivationChunk* rows, int tokens, float* acc) {
  switch (mode) {
    case ScaleMode::kPlain:
      // The offset tells the width: 8 = 4 bits, 16 = 5 bits, 128 = 8 bits.
      if (offset == 128) {
        return multiply_as<ScaleMode::kPlain, 0>(weights, blocks, offset, rows, tokens, acc);
      }
      if (offset == 8) {
        return multiply_as<ScaleMode::kPlain, 8>(weights, blocks, offset, rows, tokens, acc);
      }
      return multiply_as<ScaleMode::kPlain, 4>(weights, blocks, offset, rows, tokens, acc);
    case ScaleMode::kMin:  // 4 or 5 bits
      return multiply_as<ScaleMode::kMin, 4>(weights, blocks, offset, rows, tokens, acc);
    case ScaleMode::kHalves:  // 6 bits
      return multiply_as<ScaleMode::kHalves, 2>(weights, blocks, offset, rows, tokens, acc);
  }
}

// ---- float weights ----

// 8 rows from `lane` on, columns 2 * pair and 2 * pair + 1.
template <DType kType>
inline void float_pair(const Byte* group, int64_t pair, int lane, __m256* even, __m256* odd) {
  if constexpr (kType == DType::kF32) {
    const float* w = reinterpret_cast<const float*>(group) + pair * 32 + lane;
    *even = _mm256_loadu_ps(w);
    *odd = _mm256_loadu_ps(w + 16);
  } else if constexpr (kType == DType::kF16) {
    *even = half_row(group + pair * 64 + 2 * lane);
    *odd = half_row(group + pair * 64 + 32 + 2 * lane);
  } else {
    const __m256i both = load(group + pair * 64 + 4 * lane);
    *even = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
    *odd = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(-65536)));
  }
}

// kLanes registers of 8 rows, from `lane` on.
template <DType kType, int kTokens, int kLanes>
void floats_tokens(const Byte* group, int lane, int64_t pairs, const float* rows,
                   int64_t row_stride, float* acc) {
  __m256 even[kTokens][kLanes], odd[kTokens][kLanes];
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
    for (int l = 0; l < kLanes; ++l) even[t][l] = odd[t][l] = _mm256_setzero_ps();
  }
  for (int64_t pair = 0; pair < pairs; ++pair) {
    __m256 w[kLanes], v[kLanes];
#pragma GCC unroll 2
    for (int l = 0; l < kLanes; ++l) float_pair<kType>(group, pair, lane + 8 * l, &w[l], &v[l]);
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
      const float* x = rows + t * row_stride + 2 * pair;
      const __m256 x0 = _mm256_set1_ps(x[0]), x1 = _mm256_set1_ps(x[1]);
#pragma GCC unroll 2
      for (int l = 0; l < kLanes; ++l) {
        even[t][l] = _mm256_fmadd_ps(w[l], x0, even[t][l]);
        odd[t][l] = _mm256_fmadd_ps(v[l], x1, odd[t][l]);
      }
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
    for (int l = 0; l < kLanes; ++l) {
      _mm256_store_ps(acc + t * kStripRows + lane + 8 * l, _mm256_add_ps(even[t][l], odd[t][l]));
    }
  }
}

template <DType kType>
void floats_as(const Strip& strip, int64_t cols, const float* rows, int64_t stride, int tokens,
               float* acc) {
  const int64_t pairs = (cols + 1) / 2;
  // 4 tokens x 8 rows or 2 x 16, 8 accumulators of 16 registers. The former loads less per
  // product, the latter goes over each weight once, which counts while few tokens share it.
  const int most = tokens <= 8 ? 2 : 4;
  for (int shares = (tokens + most - 1) / most; shares > 0; --shares) {
    const int n = (tokens + shares - 1) / shares;
    for (int half = 0; half < 2; ++half) {
      if (strip.num_rows[half] == 0) continue;
      const Byte* g = reinterpret_cast<const Byte*>(strip.groups[half]);
      float* out = acc + half * kGroupRows;
      switch (n) {
        case 1:
          floats_tokens<kType, 1, 2>(g, 0, pairs, rows, stride, out);
          break;
        case 2:
          floats_tokens<kType, 2, 2>(g, 0, pairs, rows, stride, out);
          break;
        case 3:
          floats_tokens<kType, 3, 1>(g, 0, pairs, rows, stride, out);
          floats_tokens<kType, 3, 1>(g, 8, pairs, rows, stride, out);
          break;
        default:
          floats_tokens<kType, 4, 1>(g, 0, pairs, rows, stride, out);
          floats_tokens<kType, 4, 1>(g, 8, pairs, rows, stride, out);
          break;
      }
    }
    rows += n * stride;
    acc += n * kStripRows;
    tokens -= n;
  }
}

void multiply_floats(const Strip& strip, int64_t cols, const float* rows, int64_t row_stride,
                     int tokens, float* acc) {
  switch (strip.dtype) {
    case DType::kF32:
      return floats_as<DType::kF32>(strip, cols, rows, row_stride, tokens, acc);
    case DType::kF16:
      return floats_as<DType::kF16>(strip, cols, rows, row_stride, tokens, acc);
    case DType::kBF16:
      return floats_as<DType::kBF16>(strip, cols, rows, row_stride, tokens, acc);
    default:
      return;
  }
}

// ---- activations ----

// Lane i is set when i < count.
inline __m256i tail_mask(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

float inverse_rms(const float* x, int cols, float eps) {
  __m256 lanes[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int k = 0; k < cols; k += 16) {
    for (int h = 0; h < 2 && k + 8 * h < cols; ++h) {
      const __m256 v = _mm256_maskload_ps(x + k + 8 * h, tail_mask(cols - k - 8 * h));
      lanes[h] = _mm256_fmadd_ps(v, v, lanes[h]);
    }
  }
  const __m256 eight = _mm256_add_ps(lanes[0], lanes[1]);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  const __m128 one = _mm_add_ss(two, _mm_shuffle_ps(two, two, 1));
  return 1.0f / __builtin_sqrtf(_mm_cvtss_f32(one) / static_cast<float>(cols) + eps);
}

struct RowValues {
  const float* x;
  const float* norm;  // may be null
  __m256 scale;
  __m256 at(int k, __m256i mask) const {
    const __m256 v = _mm256_maskload_ps(x + k, mask);
    if (norm == nullptr) return v;
    return _mm256_mul_ps(_mm256_mul_ps(v, scale), _mm256_maskload_ps(norm + k, mask));
  }
};

inline int32_t largest_lane(__m256i v) {
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
  return _mm_cvtsi128_si32(four);
}

void quantize_block(const RowValues& row, int k, int block, ActivationChunk* out) {
  const __m256i all = _mm256_set1_epi32(-1), magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256 v[4];
  __m256i largest = _mm256_setzero_si256();
  for (int i = 0; i < 4; ++i) {
    v[i] = row.at(k + 8 * i, all);
    largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude));
  }
  const int32_t max_bits = largest_lane(largest);
  float max;
  __builtin_memcpy(&max, &max_bits, 4);
  __m256i* quants = reinterpret_cast<__m256i*>(out->quants + kBlockCols * block);
  if (max_bits >= 0x7f800000 || max < kQuantTiny) {
    const float d = max_bits >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
    _mm256_store_si256(quants, _mm256_setzero_si256());
    out->d[block] = out->s[block] = d;
    out->half_sums[2 * block] = out->half_sums[2 * block + 1] = 0;
    return;
  }
  const __m256 inverse = _mm256_set1_ps(127.0f / max);
  __m256i q[4];
  for (int i = 0; i < 4; ++i) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
  // Packing works within 128-bit halves; the permutation puts the dwords back in order.
  const __m256i bytes =
      _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
  const __m256i ordered =
      _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_store_si256(quants, ordered);
  // Sums of q + 128 over 8 bytes each, then over 16.
  const __m256i eights =
      _mm256_sad_epu8(_mm256_xor_si256(ordered, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
  const __m256i sums = _mm256_add_epi64(eights, _mm256_shuffle_epi32(eights, 0x4e));
  const int32_t sum_a = _mm_cvtsi128_si32(_mm256_castsi256_si128(sums)) - 16 * 128;
  const int32_t sum_b = _mm_cvtsi128_si32(_mm256_extracti128_si256(sums, 1)) - 16 * 128;
  const float d = max / 127.0f;
  out->d[block] = d;
  out->s[block] = d * static_cast<float>(sum_a + sum_b);
  out->half_sums[2 * block] = sum_a;
  out->half_sums[2 * block + 1] = sum_b;
}

void prepare(const float* x, int cols, const float* norm, float eps, float* floats,
             ActivationChunk* chunks, int64_t chunk_stride) {
  const float scale = norm != nullptr ? inverse_rms(x, cols, eps) : 1.0f;
  const RowValues row = {x, norm, _mm256_set1_ps(scale)};
  if (floats != nullptr) {
    for (int k = 0; k < cols; k += 8) {
      const __m256i mask = tail_mask(cols - k);
      _mm256_maskstore_ps(floats + k, mask, row.at(k, mask));
    }
    if (cols % 2 != 0) floats[cols] = 0.0f;
  }
  if (chunks == nullptr) return;
  for (int k = 0; k < cols; k += kBlockCols) {
    quantize_block(row, k, k % kChunkCols / kBlockCols, chunks + k / kChunkCols * chunk_stride);
  }
}

// ---- epilogues ----

void finish(const Strip& strip, const float* acc, int tokens, const OutputParams& out) {
  const bool gated = out.kind == OutputKind::kSiluMul || out.kind == OutputKind::kGeluMul;
  const __m256 cap = _mm256_set1_ps(out.softcap);
  for (int t = 0; t < tokens; ++t) {
    const float* a = acc + t * kStripRows;
    float* y = out.y + t * out.y_stride;
    for (int lane = 0; lane < (gated ? kGroupRows : kStripRows); lane += 8) {
      const int half = lane / kGroupRows, in_group = lane % kGroupRows;
      if (in_group >= strip.num_rows[half]) continue;
      const __m256i mask = tail_mask(strip.num_rows[half] - in_group);
      float* column = y + strip.first_row[half] + in_group;
      __m256 v = _mm256_load_ps(a + lane);
      if (gated) {
        const __m256 up = _mm256_load_ps(a + kGroupRows + lane);
        v = _mm256_mul_ps(out.kind == OutputKind::kSiluMul ? silu_avx2(v) : gelu_avx2(v), up);
      } else if (out.kind == OutputKind::kAdd) {
        v = _mm256_add_ps(_mm256_maskload_ps(column, mask), v);
      } else if (out.kind == OutputKind::kSoftcap) {
        v = _mm256_mul_ps(cap, tanh_avx2(_mm256_div_ps(v, cap)));
      }
      _mm256_maskstore_ps(column, mask, v);
    }
  }
}

}  // namespace

const MatmulKernels& avx2_matmul_kernels() {
  static constexpr MatmulKernels kKernels = {prepare, expand,          multiply,
                                             nullptr, multiply_floats, finish};
  return kKernels;
}

}  // namespace longhaul::cpu
