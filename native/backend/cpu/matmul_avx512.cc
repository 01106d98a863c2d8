// AVX-512 (VNNI) kernels: 16 rows are the 16 lanes of a register, an activation dword (4 columns
// of one token) is broadcast to all of them, VPDPBUSD does 64 products.
//
// Budget on a core with one 512-bit product a cycle, per 32 columns x 16 rows x 1 token: 8 VPDPBUSD
// for the quants, 2 (with minimum 3) multiplications for the scales. So 80 % (73 %) of the integer
// peak is the ceiling of the large kernel, which keeps 2 groups x 6 tokens in registers: 12 integer
// and 12 float accumulators.
//
// Only intrinsics, built-ins and functions of this file: nothing inline from the standard library
// may be compiled here, because the linker could keep this copy for machines without AVX-512.
#include "backend/cpu/matmul_kernels.h"
#include "backend/cpu/vector_math_avx512.h"

namespace longhaul::cpu {
namespace {

using Byte = uint8_t;
constexpr int kRound = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }

inline __m512i broadcast4(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}

inline __m512 half_row(const Byte* p) {  // 16 adjacent f16
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

inline __m512 byte_row(const Byte* p) {  // 16 adjacent u8
  return _mm512_cvtepi32_ps(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

inline __m512 signed_byte_row(const Byte* p) {  // 16 adjacent s8
  return _mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

// The 8 slices of a block.
template <int kBits>
inline void unpack_block(const Byte* low, const Byte* high, __m512i* w) {
  if constexpr (kBits == 8) {
#pragma GCC unroll 8
    for (int s = 0; s < 8; ++s) w[s] = load(low + 64 * s);
    return;
  }
  const __m512i nibble = _mm512_set1_epi8(15);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i both = load(low + 64 * j);
    w[2 * j] = _mm512_and_si512(both, nibble);
    w[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
  }
  // 0xEA: (a & b) | c. Shifts of 16-bit lanes carry bits across bytes; the mask drops them.
  if constexpr (kBits == 5) {
    const __m512i bits = load(high), mask = _mm512_set1_epi8(0x10);
    w[0] = _mm512_ternarylogic_epi32(_mm512_slli_epi16(bits, 4), mask, w[0], 0xEA);
    w[1] = _mm512_ternarylogic_epi32(_mm512_slli_epi16(bits, 3), mask, w[1], 0xEA);
    w[2] = _mm512_ternarylogic_epi32(_mm512_slli_epi16(bits, 2), mask, w[2], 0xEA);
    w[3] = _mm512_ternarylogic_epi32(_mm512_slli_epi16(bits, 1), mask, w[3], 0xEA);
    w[4] = _mm512_ternarylogic_epi32(bits, mask, w[4], 0xEA);
    w[5] = _mm512_ternarylogic_epi32(_mm512_srli_epi16(bits, 1), mask, w[5], 0xEA);
    w[6] = _mm512_ternarylogic_epi32(_mm512_srli_epi16(bits, 2), mask, w[6], 0xEA);
    w[7] = _mm512_ternarylogic_epi32(_mm512_srli_epi16(bits, 3), mask, w[7], 0xEA);
  }
  if constexpr (kBits == 6) {
    const __m512i mask = _mm512_set1_epi8(0x30);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m512i bits = load(high + 64 * i);
      __m512i* v = w + 4 * i;
      v[0] = _mm512_ternarylogic_epi32(_mm512_slli_epi16(bits, 4), mask, v[0], 0xEA);
      v[1] = _mm512_ternarylogic_epi32(_mm512_slli_epi16(bits, 2), mask, v[1], 0xEA);
      v[2] = _mm512_ternarylogic_epi32(bits, mask, v[2], 0xEA);
      v[3] = _mm512_ternarylogic_epi32(_mm512_srli_epi16(bits, 2), mask, v[3], 0xEA);
    }
  }
}

// f16 scales of a super-block, loaded once per chunk; unused for types without.
struct SuperScales {
  __m512 d, m;
};

template <ScaleMode kMode, bool kSuper>
inline SuperScales super_scales(const Byte* scales, int64_t chunk) {
  SuperScales super = {};
  if constexpr (kSuper) {
    const Byte* s = scales + chunk * (kMode == ScaleMode::kMin ? 320 : 288);
    super.d = half_row(s);
    // -dmin, so that the minimum is added.
    if constexpr (kMode == ScaleMode::kMin) {
      super.m = _mm512_xor_ps(half_row(s + 32), _mm512_set1_ps(-0.0f));
    }
  }
  return super;
}

// Scales of block b of a chunk: one, or two for kHalves; and the minimum.
struct BlockScales {
  __m512 d[2], m;
};

template <ScaleMode kMode, bool kSuper>
inline BlockScales block_scales(const Byte* scales, int64_t chunk, int b,
                                const SuperScales& super) {
  BlockScales out = {};
  if constexpr (kMode == ScaleMode::kHalves) {
    const Byte* s = scales + chunk * 288 + 32 + 32 * b;
    out.d[0] = _mm512_mul_ps(super.d, signed_byte_row(s));
    out.d[1] = _mm512_mul_ps(super.d, signed_byte_row(s + 16));
  } else if constexpr (kSuper) {
    const Byte* s = scales + chunk * 320 + 64 + 16 * b;
    out.d[0] = _mm512_mul_ps(super.d, byte_row(s));
    out.m = _mm512_mul_ps(super.m, byte_row(s + 128));
  } else if constexpr (kMode == ScaleMode::kMin) {
    const Byte* s = scales + (chunk * kChunkBlocks + b) * 64;
    out.d[0] = half_row(s);
    out.m = half_row(s + 32);
  } else {
    out.d[0] = half_row(scales + (chunk * kChunkBlocks + b) * 32);
  }
  return out;
}

// Start values of the integer sums, -offset * sum(q): per half block, or per block in starts[0..7].
template <ScaleMode kMode>
inline void start_values(const ActivationChunk& row, int offset, int32_t* starts) {
  const __m512i sums = load(row.half_sums);
  if constexpr (kMode == ScaleMode::kHalves) {
    _mm512_store_si512(starts, _mm512_mullo_epi32(sums, _mm512_set1_epi32(-offset)));
  } else {
    const __m512i pairs = _mm512_add_epi32(sums, _mm512_srli_epi64(sums, 32));
    const __m256i blocks = _mm512_cvtepi64_epi32(pairs);
    _mm256_store_si256(reinterpret_cast<__m256i*>(starts),
                       _mm256_mullo_epi32(blocks, _mm256_set1_epi32(-offset)));
  }
}

// ---- prefetching ----

// Hardware prefetchers stop at 4 KB borders and follow a group's planes late: ask for what is
// needed this far ahead, into the second-level cache (measured: nearer or into the first level is
// slower).
constexpr int kPrefetchBytes = 8192;

// GCC takes a function that only prefetches for one without effects and drops calls to it, so both
// of these must be inlined.
template <int kBytes>
__attribute__((always_inline)) inline void prefetch_lines(const Byte* p) {
#pragma GCC unroll 8
  for (int at = 0; at < kBytes; at += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(p) + at, _MM_HINT_T1);
  }
}

// All planes of one block of a group. Scales of a super-block are asked for in eighths.
template <int kBits, ScaleMode kMode, bool kSuper>
__attribute__((always_inline)) inline void prefetch_block(const Byte* group,
                                                          const GroupLayout& layout,
                                                          int64_t block) {
  constexpr bool kMin = kMode == ScaleMode::kMin;
  constexpr int kLowBytes = kBits == 8 ? 512 : 256;
  constexpr int kHighBytes = kBits == 5 ? 64 : kBits == 6 ? 128 : 0;
  constexpr int kScaleBytes = kSuper ? (kMin ? 40 : 36) : (kMin ? 64 : 32);
  prefetch_lines<kLowBytes>(group + block * kLowBytes);
  if constexpr (kHighBytes > 0) {
    prefetch_lines<kHighBytes>(group + layout.high + block * kHighBytes);
  }
  prefetch_lines<kScaleBytes>(group + layout.scales + block * kScaleBytes);
}

// ---- expansion ----

// kSigned: quants as they are, s8; else as stored, with the format's offset.
template <int kBits, ScaleMode kMode, bool kSuper, bool kSigned>
void expand_as(const PackFormat& format, const std::byte* group, const GroupLayout& layout,
               int64_t chunk, int blocks, int half, ExpandedChunk* out) {
  const Byte* base = reinterpret_cast<const Byte*>(group);
  const Byte* low = base + chunk * kChunkBlocks * format.low_block_bytes;
  const Byte* high = base + layout.high + chunk * kChunkBlocks * format.high_block_bytes;
  const Byte* scales = base + layout.scales;
  const SuperScales super = super_scales<kMode, kSuper>(scales, chunk);
  const int64_t group_blocks = layout.high / format.low_block_bytes;
  for (int b = 0; b < blocks; ++b) {
    const int64_t ahead = (chunk + 1) * kChunkBlocks + b;
    // Behind this strip's two groups lies the next strip.
    const bool next = ahead >= group_blocks;
    prefetch_block<kBits, kMode, kSuper>(next ? base + 2 * layout.bytes : base, layout,
                                         next ? ahead - group_blocks : ahead);
    __m512i w[8];
    unpack_block<kBits>(low + b * format.low_block_bytes, high + b * format.high_block_bytes, w);
    // A type with minimums has no offset.
    if constexpr (kSigned && kMode != ScaleMode::kMin) {
      const __m512i offset = _mm512_set1_epi8(static_cast<char>(format.offset));
#pragma GCC unroll 8
      for (int s = 0; s < 8; ++s) w[s] = _mm512_sub_epi8(w[s], offset);
    }
#pragma GCC unroll 8
    for (int s = 0; s < 8; ++s) _mm512_store_si512(out->quants[8 * b + s][half], w[s]);
    const BlockScales scale = block_scales<kMode, kSuper>(scales, chunk, b, super);
    const int column = half * kGroupRows;
    if constexpr (kMode == ScaleMode::kHalves) {
      _mm512_store_ps(out->scales[2 * b] + column, scale.d[0]);
      _mm512_store_ps(out->scales[2 * b + 1] + column, scale.d[1]);
    } else {
      _mm512_store_ps(out->scales[b] + column, scale.d[0]);
      if constexpr (kMode == ScaleMode::kMin) _mm512_store_ps(out->mins[b] + column, scale.m);
    }
  }
}

template <bool kSigned>
void expand(DType dtype, const std::byte* group, const GroupLayout& layout, int64_t chunk,
            int blocks, int half, ExpandedChunk* out) {
  const PackFormat& f = kPackFormats[static_cast<int>(dtype)];
  constexpr ScaleMode kPlain = ScaleMode::kPlain, kMin = ScaleMode::kMin;
  switch (dtype) {
    case DType::kQ8_0:
      return expand_as<8, kPlain, false, kSigned>(f, group, layout, chunk, blocks, half, out);
    case DType::kQ4_0:
      return expand_as<4, kPlain, false, kSigned>(f, group, layout, chunk, blocks, half, out);
    case DType::kQ4_1:
      return expand_as<4, kMin, false, kSigned>(f, group, layout, chunk, blocks, half, out);
    case DType::kQ5_0:
      return expand_as<5, kPlain, false, kSigned>(f, group, layout, chunk, blocks, half, out);
    case DType::kQ5_1:
      return expand_as<5, kMin, false, kSigned>(f, group, layout, chunk, blocks, half, out);
    case DType::kQ4_K:
      return expand_as<4, kMin, true, kSigned>(f, group, layout, chunk, blocks, half, out);
    case DType::kQ5_K:
      return expand_as<5, kMin, true, kSigned>(f, group, layout, chunk, blocks, half, out);
    case DType::kQ6_K:
      return expand_as<6, ScaleMode::kHalves, true, kSigned>(f, group, layout, chunk, blocks, half,
                                                             out);
    default:
      return;
  }
}

// ---- many tokens ----

// The float step of one integer sum: acc = fma(float(sum), scale * d, acc).
inline __m512 add_scaled(__m512i sum, __m512 scale, __m512 d, __m512 acc) {
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(scale, d), acc);
}

template <int kTokens, ScaleMode kMode>
void multiply_tokens(const ExpandedChunk& weights, int blocks, int offset,
                     const ActivationChunk* rows, float* acc) {
  constexpr int kParts = kMode == ScaleMode::kHalves ? 2 : 1;
  constexpr int kSlices = 8 / kParts;
  alignas(64) int32_t starts[kTokens][16];
  __m512 f0[kTokens], f1[kTokens];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    start_values<kMode>(rows[t], offset, starts[t]);
    f0[t] = _mm512_load_ps(acc + t * kStripRows);
    f1[t] = _mm512_load_ps(acc + t * kStripRows + kGroupRows);
  }
  for (int part = 0; part < blocks * kParts; ++part) {
    __m512i c0[kTokens], c1[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) c0[t] = c1[t] = _mm512_set1_epi32(starts[t][part]);
    const Byte* quants = weights.quants[part * kSlices][0];
#pragma GCC unroll 8
    for (int slice = 0; slice < kSlices; ++slice) {
      const __m512i w0 = load(quants + 128 * slice), w1 = load(quants + 128 * slice + 64);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const __m512i q = broadcast4(rows[t].quants + 4 * (part * kSlices + slice));
        c0[t] = _mm512_dpbusd_epi32(c0[t], w0, q);
        c1[t] = _mm512_dpbusd_epi32(c1[t], w1, q);
      }
    }
    const int block = part / kParts;
    const __m512 s0 = _mm512_load_ps(weights.scales[part]);
    const __m512 s1 = _mm512_load_ps(weights.scales[part] + kGroupRows);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const __m512 d = _mm512_set1_ps(rows[t].d[block]);
      f0[t] = add_scaled(c0[t], s0, d, f0[t]);
      f1[t] = add_scaled(c1[t], s1, d, f1[t]);
    }
    if constexpr (kMode == ScaleMode::kMin) {
      const __m512 m0 = _mm512_load_ps(weights.mins[block]);
      const __m512 m1 = _mm512_load_ps(weights.mins[block] + kGroupRows);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const __m512 s = _mm512_set1_ps(rows[t].s[block]);
        f0[t] = _mm512_fmadd_ps(m0, s, f0[t]);
        f1[t] = _mm512_fmadd_ps(m1, s, f1[t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    _mm512_store_ps(acc + t * kStripRows, f0[t]);
    _mm512_store_ps(acc + t * kStripRows + kGroupRows, f1[t]);
  }
}

constexpr int kTokensMax = 6;  // 2 x 6 integer and float accumulators: 24 of 32 registers

template <ScaleMode kMode>
void multiply_as(const ExpandedChunk& weights, int blocks, int offset, const ActivationChunk* rows,
                 int tokens, float* acc) {
  // Equal shares, so that no leftover of one or two tokens runs at a fraction of the speed.
  int shares = (tokens + kTokensMax - 1) / kTokensMax;
  for (; shares > 0; --shares) {
    const int n = (tokens + shares - 1) / shares;
    switch (n) {
      case 1:
        multiply_tokens<1, kMode>(weights, blocks, offset, rows, acc);
        break;
      case 2:
        multiply_tokens<2, kMode>(weights, blocks, offset, rows, acc);
        break;
      case 3:
        multiply_tokens<3, kMode>(weights, blocks, offset, rows, acc);
        break;
      case 4:
        multiply_tokens<4, kMode>(weights, blocks, offset, rows, acc);
        break;
      case 5:
        multiply_tokens<5, kMode>(weights, blocks, offset, rows, acc);
        break;
      default:
        multiply_tokens<6, kMode>(weights, blocks, offset, rows, acc);
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
      return multiply_as<ScaleMode::kPlain>(weights, blocks, offset, rows, tokens, acc);
    case ScaleMode::kMin:
      return multiply_as<ScaleMode::kMin>(weights, blocks, offset, rows, tokens, acc);
    case ScaleMode::kHalves:
      return multiply_as<ScaleMode::kHalves>(weights, blocks, offset, rows, tokens, acc);
  }
}

// ---- few tokens: unpacked in registers ----

// Up to so many tokens this is no slower for any type than expanding first (measured; plain 4 and
// 8 bit types gain up to twice as many).
constexpr int kPackedTokensMax = 16;

template <int kBits, ScaleMode kMode, bool kSuper, int kTokens>
void packed_group(const PackFormat& format, const Byte* base, const GroupLayout& layout,
                  int64_t blocks, const ActivationChunk* rows, int64_t chunk_stride, float* acc) {
  constexpr int kLowBytes = kBits == 8 ? 512 : 256;
  constexpr int kHighBytes = kBits == 5 ? 64 : kBits == 6 ? 128 : 0;
  const Byte* low = base;
  const Byte* high = base + layout.high;
  const Byte* scales = base + layout.scales;
  const int64_t ahead = kPrefetchBytes / kLowBytes < blocks ? kPrefetchBytes / kLowBytes : blocks;
  __m512 f[kTokens];
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) f[t] = _mm512_setzero_ps();
  for (int64_t chunk = 0; chunk * kChunkBlocks < blocks; ++chunk, rows += chunk_stride) {
    alignas(64) int32_t starts[kTokens][16];
    const SuperScales super = super_scales<kMode, kSuper>(scales, chunk);
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) start_values<kMode>(rows[t], format.offset, starts[t]);
    const int64_t left = blocks - chunk * kChunkBlocks;
    const int here = left < kChunkBlocks ? static_cast<int>(left) : kChunkBlocks;
    for (int b = 0; b < here; ++b, low += kLowBytes, high += kHighBytes) {
      // Past this group's last block come the first ones of the next group, which lies behind it.
      const int64_t block = chunk * kChunkBlocks + b + ahead;
      const bool next = block >= blocks;
      prefetch_block<kBits, kMode, kSuper>(next ? base + layout.bytes : base, layout,
                                           next ? block - blocks : block);
      __m512i w[8];
      unpack_block<kBits>(low, high, w);
      const BlockScales scale = block_scales<kMode, kSuper>(scales, chunk, b, super);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        const int8_t* q = rows[t].quants + kBlockCols * b;
        // Two chains, which are also the two halves of kHalves.
        __m512i c0, c1;
        if constexpr (kMode == ScaleMode::kHalves) {
          c0 = _mm512_set1_epi32(starts[t][2 * b]);
          c1 = _mm512_set1_epi32(starts[t][2 * b + 1]);
        } else {
          c0 = _mm512_set1_epi32(starts[t][b]);
          c1 = _mm512_setzero_si512();
        }
#pragma GCC unroll 4
        for (int s = 0; s < 4; ++s) {
          c0 = _mm512_dpbusd_epi32(c0, w[s], broadcast4(q + 4 * s));
          c1 = _mm512_dpbusd_epi32(c1, w[s + 4], broadcast4(q + 4 * s + 16));
        }
        const __m512 d = _mm512_set1_ps(rows[t].d[b]);
        if constexpr (kMode == ScaleMode::kHalves) {
          f[t] = add_scaled(c0, scale.d[0], d, f[t]);
          f[t] = add_scaled(c1, scale.d[1], d, f[t]);
        } else {
          f[t] = add_scaled(_mm512_add_epi32(c0, c1), scale.d[0], d, f[t]);
        }
        if constexpr (kMode == ScaleMode::kMin) {
          f[t] = _mm512_fmadd_ps(scale.m, _mm512_set1_ps(rows[t].s[b]), f[t]);
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) _mm512_store_ps(acc + t * kStripRows, f[t]);
}

template <int kBits, ScaleMode kMode, bool kSuper>
void packed_as(const Strip& strip, const GroupLayout& layout, int64_t cols,
               const ActivationChunk* rows, int tokens, int64_t stride, float* acc) {
  const PackFormat& f = kPackFormats[static_cast<int>(strip.dtype)];
  const int64_t blocks = cols / kBlockCols;
  for (int half = 0; half < 2; ++half) {
    if (strip.num_rows[half] == 0) continue;
    const Byte* base = reinterpret_cast<const Byte*>(strip.groups[half]);
    // Several passes over one group find it in the first-level cache.
    const ActivationChunk* r = rows;
    float* out = acc + half * kGroupRows;
    int left = tokens;
    for (int shares = (tokens + 3) / 4; shares > 0; --shares) {
      const int n = (left + shares - 1) / shares;
      switch (n) {
        case 1:
          packed_group<kBits, kMode, kSuper, 1>(f, base, layout, blocks, r, stride, out);
          break;
        case 2:
          packed_group<kBits, kMode, kSuper, 2>(f, base, layout, blocks, r, stride, out);
          break;
        case 3:
          packed_group<kBits, kMode, kSuper, 3>(f, base, layout, blocks, r, stride, out);
          break;
        default:
          packed_group<kBits, kMode, kSuper, 4>(f, base, layout, blocks, r, stride, out);
          break;
      }
      r += n;
      out += n * kStripRows;
      left -= n;
    }
  }
}

void multiply_packed(const Strip& strip, const GroupLayout& layout, int64_t cols,
                     const ActivationChunk* rows, int tokens, int64_t chunk_stride, float* acc) {
  constexpr ScaleMode kPlain = ScaleMode::kPlain, kMin = ScaleMode::kMin;
  switch (strip.dtype) {
    case DType::kQ8_0:
      return packed_as<8, kPlain, false>(strip, layout, cols, rows, tokens, chunk_stride, acc);
    case DType::kQ4_0:
      return packed_as<4, kPlain, false>(strip, layout, cols, rows, tokens, chunk_stride, acc);
    case DType::kQ4_1:
      return packed_as<4, kMin, false>(strip, layout, cols, rows, tokens, chunk_stride, acc);
    case DType::kQ5_0:
      return packed_as<5, kPlain, false>(strip, layout, cols, rows, tokens, chunk_stride, acc);
    case DType::kQ5_1:
      return packed_as<5, kMin, false>(strip, layout, cols, rows, tokens, chunk_stride, acc);
    case DType::kQ4_K:
      return packed_as<4, kMin, true>(strip, layout, cols, rows, tokens, chunk_stride, acc);
    case DType::kQ5_K:
      return packed_as<5, kMin, true>(strip, layout, cols, rows, tokens, chunk_stride, acc);
    case DType::kQ6_K:
      return packed_as<6, ScaleMode::kHalves, true>(strip, layout, cols, rows, tokens, chunk_stride,
                                                    acc);
    default:
      return;
  }
}

// ---- float weights ----

// Weights of columns 2 * pair and 2 * pair + 1.
template <DType kType>
inline void float_pair(const Byte* group, int64_t pair, __m512* even, __m512* odd) {
  if constexpr (kType == DType::kF32) {
    const float* w = reinterpret_cast<const float*>(group) + pair * 32;
    *even = _mm512_loadu_ps(w);
    *odd = _mm512_loadu_ps(w + 16);
  } else if constexpr (kType == DType::kF16) {
    *even = half_row(group + pair * 64);
    *odd = half_row(group + pair * 64 + 32);
  } else {
    const __m512i both = load(group + pair * 64);
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(-65536)));
  }
}

template <DType kType, int kTokens>
void floats_tokens(const Byte* group0, const Byte* group1, int64_t pairs, const float* rows,
                   int64_t row_stride, float* acc) {
  __m512 even0[kTokens], odd0[kTokens], even1[kTokens], odd1[kTokens];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    even0[t] = odd0[t] = even1[t] = odd1[t] = _mm512_setzero_ps();
  }
  constexpr int kPairBytes = kType == DType::kF32 ? 128 : 64;
  for (int64_t pair = 0; pair < pairs; ++pair) {
    _mm_prefetch(reinterpret_cast<const char*>(group0) + pair * kPairBytes + kPrefetchBytes,
                 _MM_HINT_T1);
    _mm_prefetch(reinterpret_cast<const char*>(group1) + pair * kPairBytes + kPrefetchBytes,
                 _MM_HINT_T1);
    __m512 w0, v0, w1, v1;
    float_pair<kType>(group0, pair, &w0, &v0);
    float_pair<kType>(group1, pair, &w1, &v1);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const float* x = rows + t * row_stride + 2 * pair;
      const __m512 x0 = _mm512_set1_ps(x[0]), x1 = _mm512_set1_ps(x[1]);
      even0[t] = _mm512_fmadd_ps(w0, x0, even0[t]);
      even1[t] = _mm512_fmadd_ps(w1, x0, even1[t]);
      odd0[t] = _mm512_fmadd_ps(v0, x1, odd0[t]);
      odd1[t] = _mm512_fmadd_ps(v1, x1, odd1[t]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    _mm512_store_ps(acc + t * kStripRows, _mm512_add_ps(even0[t], odd0[t]));
    _mm512_store_ps(acc + t * kStripRows + kGroupRows, _mm512_add_ps(even1[t], odd1[t]));
  }
}

template <DType kType>
void floats_as(const Strip& strip, int64_t cols, const float* rows, int64_t stride, int tokens,
               float* acc) {
  const Byte* g0 = reinterpret_cast<const Byte*>(strip.groups[0]);
  const Byte* g1 = reinterpret_cast<const Byte*>(strip.groups[1]);
  const int64_t pairs = (cols + 1) / 2;
  for (int shares = (tokens + kTokensMax - 1) / kTokensMax; shares > 0; --shares) {
    const int n = (tokens + shares - 1) / shares;
    switch (n) {
      case 1:
        floats_tokens<kType, 1>(g0, g1, pairs, rows, stride, acc);
        break;
      case 2:
        floats_tokens<kType, 2>(g0, g1, pairs, rows, stride, acc);
        break;
      case 3:
        floats_tokens<kType, 3>(g0, g1, pairs, rows, stride, acc);
        break;
      case 4:
        floats_tokens<kType, 4>(g0, g1, pairs, rows, stride, acc);
        break;
      case 5:
        floats_tokens<kType, 5>(g0, g1, pairs, rows, stride, acc);
        break;
      default:
        floats_tokens<kType, 6>(g0, g1, pairs, rows, stride, acc);
        break;
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

inline __mmask16 tail_mask(int count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffff : (1u << count) - 1);
}

float inverse_rms(const float* x, int cols, float eps) {
  __m512 lanes = _mm512_setzero_ps();
  for (int k = 0; k < cols; k += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(tail_mask(cols - k), x + k);
    lanes = _mm512_fmadd_ps(v, v, lanes);
  }
  const __m256 eight =
      _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  const __m128 one = _mm_add_ss(two, _mm_shuffle_ps(two, two, 1));
  return 1.0f / __builtin_sqrtf(_mm_cvtss_f32(one) / static_cast<float>(cols) + eps);
}

struct RowValues {
  const float* x;
  const float* norm;  // may be null
  __m512 scale;
  __m512 at(int k, __mmask16 mask) const {
    const __m512 v = _mm512_maskz_loadu_ps(mask, x + k);
    if (norm == nullptr) return v;
    return _mm512_mul_ps(_mm512_mul_ps(v, scale), _mm512_maskz_loadu_ps(mask, norm + k));
  }
};

void quantize_block(const RowValues& row, int k, int block, ActivationChunk* out) {
  const __m512 a = row.at(k, 0xffff), b = row.at(k + 16, 0xffff);
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  const uint32_t max_bits = _mm512_reduce_max_epu32(
      _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a), magnitude),
                       _mm512_and_si512(_mm512_castps_si512(b), magnitude)));
  float max;
  __builtin_memcpy(&max, &max_bits, 4);
  __m128i* quants = reinterpret_cast<__m128i*>(out->quants + kBlockCols * block);
  if (max_bits >= 0x7f800000u || max < kQuantTiny) {
    const float d = max_bits >= 0x7f800000u ? __builtin_nanf("") : 0.0f;
    _mm_store_si128(quants, _mm_setzero_si128());
    _mm_store_si128(quants + 1, _mm_setzero_si128());
    out->d[block] = out->s[block] = d;
    out->half_sums[2 * block] = out->half_sums[2 * block + 1] = 0;
    return;
  }
  const __m512 inverse = _mm512_set1_ps(127.0f / max);
  const __m512i qa = _mm512_cvt_roundps_epi32(_mm512_mul_ps(a, inverse), kRound);
  const __m512i qb = _mm512_cvt_roundps_epi32(_mm512_mul_ps(b, inverse), kRound);
  const __m256i q = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm512_cvtepi32_epi8(qa)),
                                            _mm512_cvtepi32_epi8(qb), 1);
  _mm256_store_si256(reinterpret_cast<__m256i*>(quants), q);
  // Sums of q + 128 over 8 bytes each, then over 16.
  const __m256i eights =
      _mm256_sad_epu8(_mm256_xor_si256(q, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
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
  const RowValues row = {x, norm, _mm512_set1_ps(scale)};
  if (floats != nullptr) {
    for (int k = 0; k < cols; k += 16) {
      const __mmask16 mask = tail_mask(cols - k);
      _mm512_mask_storeu_ps(floats + k, mask, row.at(k, mask));
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
  const __mmask16 masks[2] = {tail_mask(strip.num_rows[0]), tail_mask(strip.num_rows[1])};
  const __m512 cap = _mm512_set1_ps(out.softcap);
  for (int t = 0; t < tokens; ++t) {
    const float* a = acc + t * kStripRows;
    float* y = out.y + t * out.y_stride;
    if (out.kind == OutputKind::kSiluMul || out.kind == OutputKind::kGeluMul) {
      const __m512 gate = _mm512_load_ps(a), up = _mm512_load_ps(a + kGroupRows);
      const __m512 active =
          out.kind == OutputKind::kSiluMul ? silu_avx512(gate) : gelu_avx512(gate);
      _mm512_mask_storeu_ps(y + strip.first_row[0], masks[0], _mm512_mul_ps(active, up));
      continue;
    }
    for (int half = 0; half < 2; ++half) {
      __m512 v = _mm512_load_ps(a + half * kGroupRows);
      float* column = y + strip.first_row[half];
      if (out.kind == OutputKind::kAdd) {
        v = _mm512_add_ps(_mm512_maskz_loadu_ps(masks[half], column), v);
      } else if (out.kind == OutputKind::kSoftcap) {
        v = _mm512_mul_ps(cap, tanh_avx512(_mm512_div_ps(v, cap)));
      }
      _mm512_mask_storeu_ps(column, masks[half], v);
    }
  }
}

}  // namespace

const MatmulKernels& avx512_matmul_kernels() {
  static constexpr MatmulKernels kKernels = {
      prepare, expand<false>, multiply, multiply_packed, multiply_floats, finish, kPackedTokensMax};
  return kKernels;
}

void expand_signed_avx512(DType dtype, const std::byte* group, const GroupLayout& layout,
                          int64_t chunk, int blocks, int half, ExpandedChunk* out) {
  expand<true>(dtype, group, layout, chunk, blocks, half, out);
}

}  // namespace longhaul::cpu
