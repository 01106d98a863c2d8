// From the qkv product to attention's inputs (qkv_finish.h).
//
// Cost: every number is read once and written once: for 8B (32 + 8 + 8 heads of 128) 24 KB read a
// row, 16 KB of q and 4 KB (f16) or 2 KB (8 bits) of K and V written. Prefill of 2048 rows: 90 MB =
// 30 us at 3 TB/s. Decode of one row: 5 blocks, latency alone (load, angles, one barrier, store):
// about 3 us with the launch.
// Arithmetic is small beside that: 24 instructions for each of half_dim angles a block (shared by
// its eight warps), some 60 a lane and head for the rest; the Hadamard rotation of 128 channels
// adds seven steps, five of them four shuffles.
// Shared memory: 2 * half_dim floats of angles, head_dim floats a warp: 4.5 KiB for head_dim 128.
// sm_90a: 32 to 36 registers at head_dim <= 128, 46 up to 256, 64 up to 512: 56, 40 or 32 warps a
// multiprocessor with 512 bytes and more in flight each.
#pragma once

#include <type_traits>

#include "device.cuh"
#include "float_bits.cuh"
#include "qkv_finish.h"
#include "rope_angle.cuh"

namespace longhaul::device {

struct QkvFinishConfig {
  // Heads (warps) a block: they share the row's angles, which cost about as much as the rest of one
  // head's work.
  static constexpr int kWarpsMax = 8;
  static constexpr int kHeadDimMax = 512;
  // Largest number of q8 and of e4m3.
  static constexpr float kQ8Max = 127.0f, kFp8Max = 448.0f;
  // Below this a head counts as zero, so that kQ8Max / max stays finite.
  static constexpr float kTiny = 0x1p-100f;
};

// One head in the registers of a warp: lane l holds channels 4 (l + 32 j) .. + 3 in v[j]. Lanes
// beyond the head hold zeros.
template <int kVectors>
struct Head {
  float4 v[kVectors];
};

__device__ __forceinline__ int32_t head_channel(int j) {
  return 4 * (static_cast<int32_t>(threadIdx.x) % 32 + 32 * j);
}

template <int kVectors>
__device__ __forceinline__ Head<kVectors> load_head(const float* from, const float* bias,
                                                    int32_t head_dim) {
  Head<kVectors> head;
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int32_t c = head_channel(j);
    head.v[j] = float4{0, 0, 0, 0};
    if (c >= head_dim) continue;
    head.v[j] = load_stream(reinterpret_cast<const float4*>(from + c));
    if (!bias) continue;
    const float4 b = load_cached(reinterpret_cast<const float4*>(bias + c));
    head.v[j] = float4{head.v[j].x + b.x, head.v[j].y + b.y, head.v[j].z + b.z, head.v[j].w + b.w};
  }
  return head;
}

template <int kVectors>
__device__ __forceinline__ void norm_head(Head<kVectors>& head, const float* weight, float eps,
                                          int32_t head_dim) {
  float squares = 0;
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const float4 v = head.v[j];
    squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares))));
  }
  const float inverse = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(head_dim) + eps);
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int32_t c = head_channel(j);
    if (c >= head_dim) continue;
    const float4 w = load_cached(reinterpret_cast<const float4*>(weight + c));
    float4& v = head.v[j];
    v = float4{v.x * inverse * w.x, v.y * inverse * w.y, v.z * inverse * w.z, v.w * inverse * w.w};
  }
}

// Rotates pairs (2i, 2i + 1), i < half_dim: both are in one lane.
template <int kVectors>
__device__ __forceinline__ void rotate_interleaved(Head<kVectors>& head,
                                                   Shared<const float> cosines,
                                                   Shared<const float> sines, int32_t half_dim) {
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int32_t pair = head_channel(j) / 2;
    float4& v = head.v[j];
    if (pair < half_dim) {
      const float c = cosines[pair], s = sines[pair], a = v.x, b = v.y;
      v.x = a * c - b * s;
      v.y = a * s + b * c;
    }
    if (pair + 1 < half_dim) {
      const float c = cosines[pair + 1], s = sines[pair + 1], a = v.z, b = v.w;
      v.z = a * c - b * s;
      v.w = a * s + b * c;
    }
  }
}

__device__ __forceinline__ float4 four_floats(Shared<const float> from, int32_t at) {
  return shared_cast<const float4>(from)[at / 4];
}

// Rotates pairs (i, i + half_dim), i < half_dim. The other number of a pair is in another lane:
// `staged` [head_dim] belongs to the warp, which stages one head and no more.
template <int kVectors>
__device__ __forceinline__ void rotate_halves(Head<kVectors>& head, Shared<const float> cosines,
                                              Shared<const float> sines, int32_t half_dim,
                                              int32_t head_dim, Shared<float> staged) {
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int32_t c = head_channel(j);
    if (c < head_dim) shared_cast<float4>(staged)[c / 4] = head.v[j];
  }
  warp_sync();  // all channels are staged before a lane reads its partners
  const bool aligned = half_dim % 4 == 0;  // then four channels are in one half, so are partners
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int32_t first = head_channel(j);
    if (first >= 2 * half_dim) continue;
    float4& v = head.v[j];
    if (aligned) {
      const bool lower = first < half_dim;
      const int32_t pair = lower ? first : first - half_dim;
      const float4 c = four_floats(cosines, pair), s = four_floats(sines, pair);
      const float4 other = four_floats(staged, lower ? first + half_dim : pair);
      const float sign = lower ? -1.0f : 1.0f;
      v = float4{v.x * c.x + sign * (other.x * s.x), v.y * c.y + sign * (other.y * s.y),
                 v.z * c.z + sign * (other.z * s.z), v.w * c.w + sign * (other.w * s.w)};
    } else {
      float x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int32_t channel = first + i;
        if (channel >= 2 * half_dim) continue;
        const bool lower = channel < half_dim;
        const int32_t pair = lower ? channel : channel - half_dim;
        const float other = staged[lower ? channel + half_dim : pair];
        const float product = other * sines[pair];
        x[i] = x[i] * cosines[pair] + (lower ? -product : product);
      }
      v = float4{x[0], x[1], x[2], x[3]};
    }
  }
}

__device__ __forceinline__ float4 sum_or_difference(const float4& v, const float4& other,
                                                    bool upper) {
  const float sign = upper ? -1.0f : 1.0f;
  return float4{other.x + sign * v.x, other.y + sign * v.y, other.z + sign * v.z,
                other.w + sign * v.w};
}

// Each run of `size` channels times the Hadamard matrix; size is a power of two from 16 on.
// Neighbors size / 2 apart are added first, as native/backend/cpu does, so that sums round alike.
template <int kVectors>
__device__ __forceinline__ void rotate_hadamard(Head<kVectors>& head, int32_t size) {
#pragma unroll
  for (int apart = kVectors / 2; apart > 0; apart /= 2) {  // in vectors of 128 channels
    if (apart * 256 > size) continue;
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      if (j & apart) continue;
      const float4 low = head.v[j], high = head.v[j + apart];
      head.v[j] = sum_or_difference(high, low, false);
      head.v[j + apart] = sum_or_difference(high, low, true);
    }
  }
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32;
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) {  // in lanes of 4 channels
    if (apart * 8 > size) continue;
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      const float4 v = head.v[j];
      const float4 other{warp_shuffle_xor(v.x, apart), warp_shuffle_xor(v.y, apart),
                         warp_shuffle_xor(v.z, apart), warp_shuffle_xor(v.w, apart)};
      head.v[j] = sum_or_difference(v, other, (lane & apart) != 0);
    }
  }
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const float4 v = head.v[j];
    const float4 two{v.x + v.z, v.y + v.w, v.x - v.z, v.y - v.w};
    head.v[j] = float4{two.x + two.y, two.x - two.y, two.z + two.w, two.z - two.w};
  }
}

// max|x| over the head, as bits: ordered like numbers, infinities and NaN above all.
template <int kVectors>
__device__ __forceinline__ uint32_t largest_magnitude(const Head<kVectors>& head) {
  uint32_t largest = 0;
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const float4 v = head.v[j];
    const float x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t magnitude = float_bits(x[i]) & 0x7fffffffu;
      largest = largest < magnitude ? magnitude : largest;
    }
  }
  return warp_max(largest);
}

// The head as 8-bit numbers at `to`; returns their scale, NaN (and numbers 0) if one is not finite.
template <CacheType kType, int kVectors>
__device__ __forceinline__ float store_bytes(const Head<kVectors>& head, int32_t head_dim,
                                             std::byte* to) {
  constexpr float kMax =
      kType == CacheType::kQ8 ? QkvFinishConfig::kQ8Max : QkvFinishConfig::kFp8Max;
  const uint32_t bits = largest_magnitude(head);
  const bool finite = bits < 0x7f800000u;
  const float max = bits_float(bits);
  const bool zero = !finite || max < QkvFinishConfig::kTiny;
  const float inverse = zero ? 0.0f : kMax / max;
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int32_t c = head_channel(j);
    if (c >= head_dim) continue;
    const float4 v = head.v[j];
    const auto byte_of = [&](float x) -> uint32_t {
      if (zero) return 0;
      if constexpr (kType == CacheType::kQ8) {
        return static_cast<uint32_t>(static_cast<int32_t>(rintf(x * inverse))) & 0xffu;
      } else {
        return from_float<fp8>(x * inverse).bits;
      }
    };
    *reinterpret_cast<uint32_t*>(to + c) =
        byte_of(v.x) | byte_of(v.y) << 8 | byte_of(v.z) << 16 | byte_of(v.w) << 24;
  }
  if (!finite) return bits_float(0x7fc00000u);
  return zero ? 0.0f : max * (1.0f / kMax);
}

template <typename T, int kVectors>
__device__ __forceinline__ void store_half(const Head<kVectors>& head, int32_t head_dim, T* to) {
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int32_t c = head_channel(j);
    if (c >= head_dim) continue;
    const float4 v = head.v[j];
    *reinterpret_cast<uint2*>(to + c) = uint2{pack2<T>(v.x, v.y), pack2<T>(v.z, v.w)};
  }
}

// One token's K and V of one head into their block.
template <CacheType kType, int kVectors>
__device__ __forceinline__ void store_token(const CacheLayer& cache, int64_t slot, int32_t kv_head,
                                            const Head<kVectors>& k, const Head<kVectors>& v) {
  const int64_t block = slot / cache.block_size;
  const int32_t token = static_cast<int32_t>(slot - block * cache.block_size);
  std::byte* keys = cache.blocks + block * cache.block_bytes + kv_head * cache.head_bytes;
  std::byte* values = keys + cache.num_kv_heads * cache.head_bytes;
  const int32_t head_dim = cache.head_dim, at = token * head_dim;
  if constexpr (kType == CacheType::kF16 || kType == CacheType::kBF16) {
    using T = std::conditional_t<kType == CacheType::kF16, f16, bf16>;
    store_half(k, head_dim, reinterpret_cast<T*>(keys) + at);
    store_half(v, head_dim, reinterpret_cast<T*>(values) + at);
  } else {
    float k_scale = store_bytes<kType>(k, head_dim, keys + at);
    float v_scale = store_bytes<kType>(v, head_dim, values + at);
    // Whatever is wrong shows in the scores; a NaN among the values would meet weights of zero.
    if (v_scale != v_scale) {
      k_scale = v_scale;
      v_scale = 0.0f;
    }
    if (threadIdx.x % 32 == 0) {
      const int32_t numbers = cache.block_size * head_dim;
      reinterpret_cast<float*>(keys + numbers)[token] = k_scale;
      reinterpret_cast<float*>(values + numbers)[token] = v_scale;
    }
  }
}

// kVectors * 128 channels are room for a head.
template <CacheType kType, int kVectors>
__global__ void __launch_bounds__(QkvFinishConfig::kWarpsMax * 32)
    qkv_finish_kernel(const __grid_constant__ QkvFinishParams p) {
  // Blocks i * parts .. + parts - 1 own row i, each as many units as it has warps, a warp a unit:
  // one query head, or K and V of one kv head. A lane owns four channels of each 128.
  const int32_t head_dim = p.cache.head_dim, num_kv_heads = p.cache.num_kv_heads;
  const int32_t num_warps = static_cast<int32_t>(blockDim.x) / 32;
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / 32;
  const int32_t units = p.num_heads + num_kv_heads;
  const int32_t parts = (units + num_warps - 1) / num_warps;
  const int64_t row = static_cast<int32_t>(blockIdx.x) / parts;
  const int32_t unit = static_cast<int32_t>(blockIdx.x) % parts * num_warps + warp;
  const bool is_query = unit < p.num_heads, is_cached = !is_query && unit < units;
  const int32_t padded_half = (p.half_dim + 3) / 4 * 4;
  const Shared<float> cosines = dynamic_shared<float>();
  const Shared<float> sines = cosines + padded_half;
  const Shared<float> staged = sines + padded_half + warp * head_dim;

  // Loads first: they are under way while the angles are computed.
  Head<kVectors> head{}, value{};
  const int64_t slot = is_cached ? p.slot_mapping[row] : -1;
  if (is_query || slot >= 0) {
    const int32_t at = unit * head_dim;
    head = load_head<kVectors>(p.qkv + row * p.qkv_stride + at, p.bias ? p.bias + at : nullptr,
                               head_dim);
  }
  if (slot >= 0) {
    const int32_t at = (unit + num_kv_heads) * head_dim;
    value = load_head<kVectors>(p.qkv + row * p.qkv_stride + at, p.bias ? p.bias + at : nullptr,
                                head_dim);
  }
  const int32_t position = p.positions[row];
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < p.half_dim;
       i += static_cast<int32_t>(blockDim.x)) {
    const float2 rotation = cos_sin(position, load_cached(p.inv_freq + i));
    cosines[i] = rotation.x * p.attention_factor;
    sines[i] = rotation.y * p.attention_factor;
  }
  block_sync();  // the row's angles are complete before any warp rotates
  if (!is_query && slot < 0) return;

  const float* norm = is_query ? p.q_norm : p.k_norm;
  if (norm) norm_head(head, norm, p.eps, head_dim);
  if (p.interleaved) {
    rotate_interleaved(head, cosines, sines, p.half_dim);
  } else {
    rotate_halves(head, cosines, sines, p.half_dim, head_dim, staged);
  }
  if constexpr (kType == CacheType::kQ8) rotate_hadamard(head, head_dim & -head_dim);

  if (is_query) {
    float* q = p.q + row * p.q_stride + unit * head_dim;
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      const int32_t c = head_channel(j);
      if (c < head_dim) *reinterpret_cast<float4*>(q + c) = head.v[j];
    }
  } else {
    store_token<kType>(p.cache, slot, unit - p.num_heads, head, value);
  }
}

}  // namespace longhaul::device
