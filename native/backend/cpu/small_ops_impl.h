// Body of the small_ops_<isa>.cc files. Loops without a sum are plain and left to the compiler's
// vectorizer: without contraction it cannot change a bit. Unnamed namespace: see
// attention_lanes.h.
#pragma once

#include "backend/cpu/kv_store_convert.h"
#include "backend/cpu/small_ops.h"
#include "backend/cpu/vector_math.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace longhaul::cpu {
namespace {

constexpr int kLanes = 16;

static inline float inverse_rms(const float* x, float eps, int32_t size) {
  float sums[kLanes] = {};
  int32_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      sums[lane] = fused(x[i + lane], x[i + lane], sums[lane]);
    }
  }
  for (int lane = 0; i + lane < size; ++lane) {
    sums[lane] = fused(x[i + lane], x[i + lane], sums[lane]);
  }
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return 1.0f / __builtin_sqrtf(sums[0] / static_cast<float>(size) + eps);
}

static void rms_norm(const float* x, const float* weight, float eps, int32_t size, float* out) {
  const float inverse = inverse_rms(x, eps, size);
  for (int32_t i = 0; i < size; ++i) out[i] = x[i] * inverse * weight[i];
}

static void rms_norm_add(const float* x, const float* weight, float eps, int32_t size, float* y) {
  const float inverse = inverse_rms(x, eps, size);
  for (int32_t i = 0; i < size; ++i) y[i] += x[i] * inverse * weight[i];
}

static void add(const float* x, int32_t size, float* y) {
  for (int32_t i = 0; i < size; ++i) y[i] += x[i];
}

static void silu_mul(const float* gate, const float* up, int32_t size, float* y) {
  for (int32_t i = 0; i < size; ++i) y[i] = silu_scalar(gate[i]) * up[i];
}

static void gelu_mul(const float* gate, const float* up, int32_t size, float* y) {
  for (int32_t i = 0; i < size; ++i) y[i] = gelu_scalar(gate[i]) * up[i];
}

static void rotate_interleaved(float* head, const float* cos, const float* sin, int32_t half_dim) {
  for (int32_t i = 0; i < half_dim; ++i) {
    const float a = head[2 * i], b = head[2 * i + 1];
    head[2 * i] = a * cos[i] - b * sin[i];
    head[2 * i + 1] = a * sin[i] + b * cos[i];
  }
}

static void rotate_halves(float* head, const float* cos, const float* sin, int32_t half_dim) {
  float* const upper = head + half_dim;
  for (int32_t i = 0; i < half_dim; ++i) {
    const float a = head[i], b = upper[i];
    head[i] = a * cos[i] - b * sin[i];
    upper[i] = a * sin[i] + b * cos[i];
  }
}

static inline void narrow16(const float* x, bool f16, uint16_t* out) {
  if (!f16) {
    for (int i = 0; i < 16; ++i) out[i] = float_to_bf16(x[i]);
    return;
  }
#if defined(__F16C__)
  for (int i = 0; i < 16; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  }
#else
  for (int i = 0; i < 16; ++i) out[i] = float_to_half(x[i]);
#endif
}

// A token is one lane of each unit of its tile, so the writes are head_dim / 2 cache lines apart
// from those of the next token: 16 tokens fill them.
static void store_key(const float* head, int32_t head_dim, bool f16, int32_t token,
                      uint16_t* keys) {
  uint16_t* unit = keys + int64_t{token / 16} * (head_dim / 2) * 32;
  const int32_t lane = token % 16;
  const int32_t even = f16 ? lane : 2 * lane, odd = f16 ? 16 + lane : 2 * lane + 1;
  for (int32_t c = 0; c < head_dim; c += 16) {
    uint16_t narrow[16];
    narrow16(head + c, f16, narrow);
    for (int i = 0; i < 16; i += 2, unit += 32) {
      unit[even] = narrow[i];
      unit[odd] = narrow[i + 1];
    }
  }
}

static void store_value(const float* head, int32_t head_dim, bool f16, int32_t block_size,
                        int32_t token, uint16_t* values) {
  uint16_t* unit = values + int64_t{token / 2} * 32;
  for (int32_t c = 0; c < head_dim; c += 16, unit += int64_t{block_size / 2} * 32) {
    uint16_t narrow[16];
    narrow16(head + c, f16, narrow);
    if (f16) {
      for (int i = 0; i < 16; ++i) unit[token % 2 * 16 + i] = narrow[i];
    } else {
      for (int i = 0; i < 16; ++i) unit[2 * i + token % 2] = narrow[i];
    }
  }
}

constexpr RowOps kRowOps = {rms_norm,           rms_norm_add,  add,       silu_mul,    gelu_mul,
                            rotate_interleaved, rotate_halves, store_key, store_value};

}  // namespace
}  // namespace longhaul::cpu
