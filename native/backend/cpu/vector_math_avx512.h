// AVX-512 forms of vector_math.h: the same bits, 16 lanes. For *_avx512.cc files only.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's unmasked AVX-512 intrinsics pass a deliberately undefined register (x = x) and then warn
// about it in whatever function they are inlined into (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "backend/cpu/vector_math.h"

namespace longhaul::cpu {

static inline __m512 exp_avx512(__m512 x) {
  const __m512 magic = _mm512_set1_ps(kRoundMagic);
  const __m512 shifted = _mm512_fmadd_ps(x, _mm512_set1_ps(kLog2E), magic);
  const __m512 n = _mm512_sub_ps(shifted, magic);
  __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-kLn2High), x);
  r = _mm512_fmadd_ps(n, _mm512_set1_ps(-kLn2Low), r);
  __m512 q = _mm512_fmadd_ps(_mm512_set1_ps(kExpQ4), r, _mm512_set1_ps(kExpQ3));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(kExpQ2));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(kExpQ1));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(kExpQ0));
  const __m512 p = _mm512_add_ps(_mm512_fmadd_ps(q, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
  const __m512 scaled = _mm512_castsi512_ps(_mm512_add_epi32(
      _mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23)));
  const __mmask16 not_low = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kExpMin), _CMP_NLT_UQ);
  const __mmask16 high = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kExpMax), _CMP_GT_OQ);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  __m512 result = _mm512_maskz_mov_ps(not_low, scaled);
  result = _mm512_mask_mov_ps(result, high, _mm512_castsi512_ps(_mm512_set1_epi32(0x7f800000)));
  return _mm512_mask_mov_ps(result, nan, x);
}

static inline __m512 tanh_avx512(__m512 u) {
  const __m512 a = _mm512_abs_ps(u);
  const __m512 z = _mm512_mul_ps(u, u);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(kTanhP4), z, _mm512_set1_ps(kTanhP3));
  p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(kTanhP2));
  p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(kTanhP1));
  p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(kTanhP0));
  const __m512 small = _mm512_fmadd_ps(_mm512_mul_ps(u, z), p, u);
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 e = _mm512_add_ps(exp_avx512(_mm512_add_ps(a, a)), one);
  const __m512 large = _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), e));
  const __m512 sign = _mm512_set1_ps(-0.0f);
  const __m512 signed_large = _mm512_or_ps(_mm512_andnot_ps(sign, large), _mm512_and_ps(sign, u));
  const __mmask16 is_small = _mm512_cmp_ps_mask(a, _mm512_set1_ps(kTanhSmall), _CMP_LT_OQ);
  return _mm512_mask_mov_ps(signed_large, is_small, small);
}

static inline __m512 silu_avx512(__m512 x) {
  const __m512 negative = _mm512_xor_ps(x, _mm512_set1_ps(-0.0f));
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), exp_avx512(negative)));
}

static inline __m512 gelu_avx512(__m512 x) {
  const __m512 inner =
      _mm512_fmadd_ps(_mm512_mul_ps(_mm512_set1_ps(kGeluCubic), x), _mm512_mul_ps(x, x), x);
  const __m512 e = exp_avx512(_mm512_mul_ps(inner, _mm512_set1_ps(kGeluScale)));
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

}  // namespace longhaul::cpu
