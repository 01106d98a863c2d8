// Operations on one row or one head: norms, RoPE, writing K and V into the cache. One table for
// each instruction set; all give the same bits.
//
// Plain data and declarations only, as in attention_kernels.h.
#pragma once

#include <cstdint>

namespace longhaul::cpu {

enum class Isa : int;  // isa.h

struct RowOps {
  // out = x * weight / sqrt(mean(x^2) + eps); out may be x. The squares are summed in 16 lanes
  // (element i in lane i % 16), ascending, then halves are added until one is left.
  void (*rms_norm)(const float* x, const float* weight, float eps, int32_t size, float* out);
  // y += rms_norm(x)
  void (*rms_norm_add)(const float* x, const float* weight, float eps, int32_t size, float* y);
  // y += x
  void (*add)(const float* x, int32_t size, float* y);
  // y = silu(gate) * up, or tanh-approximated GELU of gate
  void (*silu_mul)(const float* gate, const float* up, int32_t size, float* y);
  void (*gelu_mul)(const float* gate, const float* up, int32_t size, float* y);
  // Rotates the first 2 * half_dim channels of a head in place; cos and sin [half_dim]. Pairs are
  // (2i, 2i + 1), or (i, i + half_dim).
  void (*rotate_interleaved)(float* head, const float* cos, const float* sin, int32_t half_dim);
  void (*rotate_halves)(float* head, const float* cos, const float* sin, int32_t half_dim);
  // One token's K or V of one head into its block (layout: kv_store.h), nearest even. `keys` and
  // `values` point at the block's K and V of that head; `token` counts inside the block.
  void (*store_key)(const float* head, int32_t head_dim, bool f16, int32_t token, uint16_t* keys);
  void (*store_value)(const float* head, int32_t head_dim, bool f16, int32_t block_size,
                      int32_t token, uint16_t* values);
  // Each run of `size` channels times the Hadamard matrix, in place; size is a power of two from 16
  // on that divides head_dim. The sums of neighbors 8, 4, 2, 1 apart come last, in this order.
  void (*rotate_hadamard)(float* head, int32_t head_dim, int32_t size);
  // q8 = round(x * (127 / max|x|)), nearest even; returns max|x| / 127. All zero for tiny x (below
  // kQuantizeTiny, so that 127 / max stays finite); NaN, and q8 zero, when some x is not finite.
  float (*quantize)(const float* x, int32_t size, int8_t* q8);
};

const RowOps& row_ops_scalar();
const RowOps& row_ops_avx2();
const RowOps& row_ops_avx512();
const RowOps& row_ops(Isa isa);

}  // namespace longhaul::cpu
