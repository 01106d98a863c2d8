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

typedef float Float16 __attribute__((vector_size(64)));
typedef int Int16 __attribute__((vector_size(64)));

static inline Float16 load16(const float* from) {
  Float16 x;
  __builtin_memcpy(&x, from, sizeof(x));
  return x;
}
static inline void store16(float* to, Float16 x) { __builtin_memcpy(to, &x, sizeof(x)); }

// Sums and differences of neighbors kApart lanes apart.
template <int kApart>
static inline Float16 butterfly(Float16 x) {
  Int16 partner;
  Float16 sign;
  for (int i = 0; i < 16; ++i) {
    partner[i] = i ^ kApart;
    sign[i] = i & kApart ? -1.0f : 1.0f;
  }
  return __builtin_shuffle(x, partner) + x * sign;
}

static void rotate_hadamard(float* head, int32_t head_dim, int32_t size) {
  for (float* run = head; run < head + head_dim; run += size) {
    for (int32_t apart = size / 2; apart >= 16; apart /= 2) {
      for (int32_t i = 0; i < size; i += 16) {
        if (i & apart) continue;
        const Float16 a = load16(run + i), b = load16(run + i + apart);
        store16(run + i, a + b);
        store16(run + i + apart, a - b);
      }
    }
    for (int32_t i = 0; i < size; i += 16) {
      Float16 x = butterfly<8>(load16(run + i));
      x = butterfly<4>(x);
      x = butterfly<2>(x);
      store16(run + i, butterfly<1>(x));
    }
  }
}

constexpr float kQuantizeTiny = 0x1p-100f;

static float quantize(const float* x, int32_t size, int8_t* q8) {
  // As integers, magnitudes are ordered like numbers, infinities and NaN above all.
  uint32_t largest = 0;
  for (int32_t i = 0; i < size; ++i) {
    const uint32_t magnitude = __builtin_bit_cast(uint32_t, x[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  const float max = __builtin_bit_cast(float, largest);
  const bool finite = largest < 0x7f800000u;
  if (!finite || max < kQuantizeTiny) {
    for (int32_t i = 0; i < size; ++i) q8[i] = 0;
    return finite ? 0.0f : __builtin_nanf("");
  }
  const float inverse = 127.0f / max;
  // The low bits of the sum are the nearest integer (kExp2Round of attention_lanes.h).
  for (int32_t i = 0; i < size; ++i) {
    const float shifted = x[i] * inverse + 0x1.8p23f;
    q8[i] = static_cast<int8_t>(__builtin_bit_cast(uint32_t, shifted));
  }
  return max * (1.0f / 127.0f);
}

constexpr RowOps kRowOps = {rms_norm,    rms_norm_add,       add,           silu_mul,
                            gelu_mul,    rotate_interleaved, rotate_halves, store_key,
                            store_value, rotate_hadamard,    quantize};

}  // namespace
}  // namespace longhaul::cpu
