// Storing f32 rows as q8, the form of ProductInput that quantized weights are multiplied with:
// blocks of 32 columns, number = scale * int8.
//
// Arithmetic (that of native/backend/cpu/matmul.h): scale = max|x| / 127, int8 = round to nearest
// even of x * (127 / max|x|), sum = scale * (sum of the int8). A block whose max|x| is below 2^-100
// counts as zero; one that holds an infinity or a NaN gets scale = sum = NaN, so that it shows in
// every result.
//
// Byte order in a block: 8 t + 4 h + i holds column 16 h + 4 t + i (t, i = 0 .. 3; h = 0, 1), so that
// lane t's share of mma.m16n8k32's B fragment is one 8-byte load.
#pragma once

#include <cmath>

#include "device.cuh"
#include "product_input.h"

namespace longhaul::device {

// Where the four bytes of columns col .. col + 3 are, in bytes from the row's start; col is a
// multiple of 4.
__device__ __forceinline__ int32_t q8_offset(int32_t col) {
  const int32_t half = col / 16 % 2, quad = col / 4 % 4;
  return col / 32 * 32 + quad * 8 + half * 4;
}

// Number of columns to hand to store_q8: the last step is filled with zeros.
__device__ __forceinline__ int32_t q8_padded_cols(int32_t cols) { return (cols + 63) / 64 * 64; }

// Quantizes and stores x, columns col .. col + 3 of row `row`. All lanes of a warp call it,
// converged; lane l has col = base + 4 l with base a multiple of 128 (a block is 8 lanes). Lanes
// with col >= q8_padded_cols(cols) store nothing; columns from `cols` on must be given as 0.
__device__ __forceinline__ void store_q8(const ProductInput& out, int64_t row, int32_t col,
                                         int32_t cols, float4 x) {
  // fmaxf drops NaNs; a NaN in any lane is carried by `bad`, as is an infinity.
  float largest = fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w)));
  // x * 0 is NaN for infinities and NaNs, 0 otherwise, and so is the sum.
  float bad = x.x * 0.0f + x.y * 0.0f + (x.z * 0.0f + x.w * 0.0f);
#pragma unroll
  for (int mask = 4; mask > 0; mask /= 2) {
    largest = fmaxf(largest, warp_shuffle_xor(largest, mask));
    bad += warp_shuffle_xor(bad, mask);
  }
  const bool is_bad = !(bad == 0.0f);
  const bool is_zero = largest < 0x1p-100f;
  const float inverse = is_bad || is_zero ? 0.0f : 127.0f / largest;
  const auto quant = [&](float value) {
    return is_bad ? 0 : static_cast<int32_t>(rintf(value * inverse));
  };
  const int32_t q0 = quant(x.x), q1 = quant(x.y), q2 = quant(x.z), q3 = quant(x.w);
  int32_t sum = q0 + q1 + q2 + q3;
#pragma unroll
  for (int mask = 4; mask > 0; mask /= 2) sum += warp_shuffle_xor(sum, mask);

  if (col >= q8_padded_cols(cols)) return;
  const uint32_t bytes = (static_cast<uint32_t>(q0) & 255u) |
                         (static_cast<uint32_t>(q1) & 255u) << 8 |
                         (static_cast<uint32_t>(q2) & 255u) << 16 | static_cast<uint32_t>(q3) << 24;
  int8_t* data = static_cast<int8_t*>(out.data) + row * out.stride + q8_offset(col);
  *reinterpret_cast<uint32_t*>(data) = bytes;
  if (col % 32 == 0) {
    const int64_t block = row * (out.stride / 32) + col / 32;
    const float scale = is_bad ? bad : is_zero ? 0.0f : largest / 127.0f;
    out.scales[block] = scale;
    out.sums[block] = scale * static_cast<float>(sum);
  }
}

}  // namespace longhaul::device
