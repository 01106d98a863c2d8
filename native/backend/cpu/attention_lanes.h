// Lanes: a vector of floats with the few operations attention needs, once for each instruction
// set. Kernels are templates over it, so that every path runs the same operations in the same
// order and gives the same bits.
//
// Included only by the attention_<isa>.cc files, each compiled with its own flags. Everything is
// in an unnamed namespace: a function compiled for AVX-512 must never be the copy that another
// file is linked to. For the same reason nothing here calls inline functions of other headers.
#pragma once

#include <cstdint>

#if !defined(__AVX2__)
#include "backend/cpu/kv_store_convert.h"
#include "backend/cpu/vector_math.h"
#else
#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__)
// GCC 12 warns of its own _mm512_undefined_ps() inside the intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#endif

namespace longhaul::cpu {
namespace {

// exp2 on [-0.5, 0.5] as a polynomial with constant term exactly 1 (so that exp2(0) = 1); largest
// relative error 2e-9 before rounding. Own minimax fit.
constexpr float kExp2C1 = 0x1.62e430p-1f;
constexpr float kExp2C2 = 0x1.ebfbdcp-3f;
constexpr float kExp2C3 = 0x1.c6aee8p-5f;
constexpr float kExp2C4 = 0x1.3b2d4cp-7f;
constexpr float kExp2C5 = 0x1.5f3e54p-10f;
constexpr float kExp2C6 = 0x1.41fbbap-13f;
// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even; the low bits of
// the sum are that integer.
constexpr float kExp2Round = 0x1.8p23f;
// Below this exp2 returns exactly 0, so no subnormals arise.
constexpr float kExp2Min = -126.0f;
constexpr float kLog2e = 0x1.715476p0f;

#if defined(__AVX512F__)

struct Lanes {
  using F = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kAccumulators = 24;  // of 32 registers; the rest hold operands

  static F zero() { return _mm512_setzero_ps(); }
  static F broadcast(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  // a > b ? a : b, also where a or b is NaN.
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  // a < b ? 0 : x.
  static F zero_below(F a, F b, F x) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ), x);
  }
  // Lanes first <= i < last of x, the others of `other`.
  static F keep(F x, F other, int first, int last) {
    const unsigned below_last = last >= 16 ? 0xffffu : (1u << (last < 0 ? 0 : last)) - 1u;
    const unsigned below_first = first >= 16 ? 0xffffu : (1u << (first < 0 ? 0 : first)) - 1u;
    return _mm512_mask_mov_ps(other, static_cast<__mmask16>(below_last & ~below_first), x);
  }
  // x * 2^n for n = the integer that `rounded` (x + kExp2Round) holds in its low bits.
  static F scale_exponent(F x, F rounded) {
    const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(rounded), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), n));
  }
  static F copy_sign(F magnitude, F sign) {
    const __m512 mask = _mm512_set1_ps(-0.0f);
    return _mm512_or_ps(_mm512_andnot_ps(mask, magnitude), _mm512_and_ps(mask, sign));
  }
  template <bool kF16>
  static void load_pair(const uint16_t* unit, int, F& even, F& odd) {
    if constexpr (kF16) {
      even = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(unit)));
      odd = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(unit + 16)));
    } else {
      const __m512i x = _mm512_loadu_si512(unit);
      even = _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
      odd = _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(-65536)));
    }
  }
};

#elif defined(__AVX2__)

struct Lanes {
  using F = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kAccumulators = 12;  // of 16 registers

  static F zero() { return _mm256_setzero_ps(); }
  static F broadcast(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F zero_below(F a, F b, F x) {
    return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_NLT_UQ), x);
  }
  static F keep(F x, F other, int first, int last) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i inside = _mm256_andnot_si256(
        _mm256_cmpgt_epi32(_mm256_set1_epi32(first), lane),
        _mm256_cmpgt_epi32(_mm256_set1_epi32(last), lane));
    return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(inside));
  }
  static F scale_exponent(F x, F rounded) {
    const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(rounded), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), n));
  }
  static F copy_sign(F magnitude, F sign) {
    const __m256 mask = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(mask, magnitude), _mm256_and_ps(mask, sign));
  }
  template <bool kF16>
  static void load_pair(const uint16_t* unit, int lane, F& even, F& odd) {
    if constexpr (kF16) {
      even = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(unit + lane)));
      odd = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(unit + 16 + lane)));
    } else {
      const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(unit + 2 * lane));
      even = _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
      odd = _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(-65536)));
    }
  }
};

#else

struct Lanes {
  static constexpr int kWidth = 4;
  static constexpr int kAccumulators = 8;
  struct F {
    float v[kWidth];
  };

  template <typename Operation>
  static F each(const Operation& operation) {
    F result;
    for (int i = 0; i < kWidth; ++i) result.v[i] = operation(i);
    return result;
  }
  static uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
  static float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

  static F zero() { return broadcast(0.0f); }
  static F broadcast(float x) { return each([&](int) { return x; }); }
  static F load(const float* p) { return each([&](int i) { return p[i]; }); }
  static void store(float* p, const F& x) {
    for (int i = 0; i < kWidth; ++i) p[i] = x.v[i];
  }
  static F add(const F& a, const F& b) { return each([&](int i) { return a.v[i] + b.v[i]; }); }
  static F sub(const F& a, const F& b) { return each([&](int i) { return a.v[i] - b.v[i]; }); }
  static F mul(const F& a, const F& b) { return each([&](int i) { return a.v[i] * b.v[i]; }); }
  static F div(const F& a, const F& b) { return each([&](int i) { return a.v[i] / b.v[i]; }); }
  static F fma(const F& a, const F& b, const F& c) {
    return each([&](int i) { return fused(a.v[i], b.v[i], c.v[i]); });
  }
  static F max(const F& a, const F& b) {
    return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static F zero_below(const F& a, const F& b, const F& x) {
    return each([&](int i) { return a.v[i] < b.v[i] ? 0.0f : x.v[i]; });
  }
  static F keep(const F& x, const F& other, int first, int last) {
    return each([&](int i) { return i >= first && i < last ? x.v[i] : other.v[i]; });
  }
  static F scale_exponent(const F& x, const F& rounded) {
    return each([&](int i) { return float_of(bits_of(x.v[i]) + (bits_of(rounded.v[i]) << 23)); });
  }
  static F copy_sign(const F& magnitude, const F& sign) {
    return each([&](int i) {
      return float_of((bits_of(magnitude.v[i]) & 0x7fffffffu) | (bits_of(sign.v[i]) & 0x80000000u));
    });
  }
  template <bool kF16>
  static void load_pair(const uint16_t* unit, int lane, F& even, F& odd) {
    if constexpr (kF16) {
      even = each([&](int i) { return half_to_float(unit[lane + i]); });
      odd = each([&](int i) { return half_to_float(unit[16 + lane + i]); });
    } else {
      even = each([&](int i) { return float_of(uint32_t{unit[2 * (lane + i)]} << 16); });
      odd = each([&](int i) { return float_of(uint32_t{unit[2 * (lane + i) + 1]} << 16); });
    }
  }
};

#endif

// 2^x for x <= 0 (0 below -126), within 1 ulp; NaN stays NaN.
static inline Lanes::F exp2_lanes(Lanes::F x) {
  using L = Lanes;
  const L::F magic = L::broadcast(kExp2Round);
  const L::F rounded = L::add(x, magic);
  const L::F r = L::sub(x, L::sub(rounded, magic));
  L::F y = L::broadcast(kExp2C6);
  y = L::fma(y, r, L::broadcast(kExp2C5));
  y = L::fma(y, r, L::broadcast(kExp2C4));
  y = L::fma(y, r, L::broadcast(kExp2C3));
  y = L::fma(y, r, L::broadcast(kExp2C2));
  y = L::fma(y, r, L::broadcast(kExp2C1));
  y = L::fma(y, r, L::broadcast(1.0f));
  return L::zero_below(x, L::broadcast(kExp2Min), L::scale_exponent(y, rounded));
}

// tanh(x) = sign(x) (1 - e) / (1 + e), e = exp(-2 |x|); absolute error below 2e-7.
static inline Lanes::F tanh_lanes(Lanes::F x) {
  using L = Lanes;
  const L::F one = L::broadcast(1.0f);
  const L::F e = exp2_lanes(L::mul(L::copy_sign(x, L::broadcast(-0.0f)), L::broadcast(2 * kLog2e)));
  return L::copy_sign(L::div(L::sub(one, e), L::add(one, e)), x);
}

}  // namespace
}  // namespace longhaul::cpu
