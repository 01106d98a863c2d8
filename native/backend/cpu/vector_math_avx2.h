// AVX2 forms of vector_math.h: the same bits, 8 lanes. For *_avx2.cc files only.
#pragma once

#include <immintrin.h>

#include "backend/cpu/vector_math.h"

namespace longhaul::cpu {

static inline __m256 exp_avx2(__m256 x) {
  const __m256 magic = _mm256_set1_ps(kRoundMagic);
  const __m256 shifted = _mm256_fmadd_ps(x, _mm256_set1_ps(kLog2E), magic);
  const __m256 n = _mm256_sub_ps(shifted, magic);
  __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-kLn2High), x);
  r = _mm256_fmadd_ps(n, _mm256_set1_ps(-kLn2Low), r);
  __m256 q = _mm256_fmadd_ps(_mm256_set1_ps(kExpQ4), r, _mm256_set1_ps(kExpQ3));
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(kExpQ2));
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(kExpQ1));
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(kExpQ0));
  const __m256 p = _mm256_add_ps(_mm256_fmadd_ps(q, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
  const __m256 scaled = _mm256_castsi256_ps(_mm256_add_epi32(
      _mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(shifted), 23)));
  const __m256 not_low = _mm256_cmp_ps(x, _mm256_set1_ps(kExpMin), _CMP_NLT_UQ);
  const __m256 high = _mm256_cmp_ps(x, _mm256_set1_ps(kExpMax), _CMP_GT_OQ);
  const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  __m256 result = _mm256_and_ps(not_low, scaled);
  result = _mm256_blendv_ps(result, _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000)), high);
  return _mm256_blendv_ps(result, x, nan);
}

static inline __m256 tanh_avx2(__m256 u) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  const __m256 a = _mm256_andnot_ps(sign, u);
  const __m256 z = _mm256_mul_ps(u, u);
  __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(kTanhP4), z, _mm256_set1_ps(kTanhP3));
  p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(kTanhP2));
  p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(kTanhP1));
  p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(kTanhP0));
  const __m256 small = _mm256_fmadd_ps(_mm256_mul_ps(u, z), p, u);
  const __m256 one = _mm256_set1_ps(1.0f);
  const __m256 e = _mm256_add_ps(exp_avx2(_mm256_add_ps(a, a)), one);
  const __m256 large = _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.0f), e));
  const __m256 signed_large = _mm256_or_ps(_mm256_andnot_ps(sign, large), _mm256_and_ps(sign, u));
  const __m256 is_small = _mm256_cmp_ps(a, _mm256_set1_ps(kTanhSmall), _CMP_LT_OQ);
  return _mm256_blendv_ps(signed_large, small, is_small);
}

static inline __m256 silu_avx2(__m256 x) {
  const __m256 negative = _mm256_xor_ps(x, _mm256_set1_ps(-0.0f));
  return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), exp_avx2(negative)));
}

static inline __m256 gelu_avx2(__m256 x) {
  const __m256 inner =
      _mm256_fmadd_ps(_mm256_mul_ps(_mm256_set1_ps(kGeluCubic), x), _mm256_mul_ps(x, x), x);
  const __m256 e = exp_avx2(_mm256_mul_ps(inner, _mm256_set1_ps(kGeluScale)));
  return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

}  // namespace longhaul::cpu
