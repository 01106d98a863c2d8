// qkv_finish: from the product with the stacked q, k, v weights to attention's inputs, in one pass:
// bias, RMS norm of each q and k head, RoPE, and for 8-bit keys and values the Hadamard rotation;
// q goes out as f32, K and V into the block cache.
// Order: after the qkv product and before attention of the layer, on the same stream.
#pragma once

#include <cstdint>

#include "cache_layer.h"
#include "launch.h"

namespace longhaul::device {

struct QkvFinishParams {
  const float* qkv = nullptr;              // [rows, (num_heads + 2 * num_kv_heads) * head_dim]
  int64_t qkv_stride = 0;                  // elements, a multiple of 4
  const float* bias = nullptr;             // one row of qkv; may be null
  const float* q_norm = nullptr;           // [head_dim]; may be null
  const float* k_norm = nullptr;           // [head_dim]; may be null
  float eps = 0;
  const float* inv_freq = nullptr;         // [half_dim] angle = position * inv_freq
  int32_t half_dim = 0;                    // 2 * half_dim <= head_dim channels are rotated
  bool interleaved = false;                // pairs (2i, 2i + 1), else (i, i + half_dim)
  float attention_factor = 1.0f;           // multiplies cosines and sines
  const int32_t* positions = nullptr;      // [rows]
  const int64_t* slot_mapping = nullptr;   // [rows] block_id * block_size + offset; -1: K and V of
                                           // the row are not stored
  float* q = nullptr;                      // out [rows, num_heads * head_dim]
  int64_t q_stride = 0;                    // elements, a multiple of 4
  CacheLayer cache;
  int32_t rows = 0;
  int32_t num_heads = 0;
};
// head_dim: a multiple of 16 up to 512. kQ8 rotates q and k: each run of n channels, n the largest
// power of two that divides head_dim, times the Hadamard matrix of n rows (q k grows n-fold, which
// the scale given to attention takes back).
int launch_qkv_finish(const QkvFinishParams& params, Stream stream);

}  // namespace longhaul::device
