// Writing four columns of a row in the form the next matrix product reads (product_input.h).
#pragma once

#include <type_traits>

#include "device.cuh"
#include "product_input.h"
#include "quantize_block.cuh"

namespace longhaul::device {

// Vectors of four columns that a row of `cols` takes: q8 rows are filled up to whole steps.
template <InputForm kForm>
__device__ __forceinline__ int32_t output_vectors(int32_t cols) {
  return (kForm == InputForm::kQ8 ? q8_padded_cols(cols) : cols) / 4;
}

// Stores v as columns col .. col + 3 of a row; v is zero from column `cols` on. All lanes of a warp
// call it, converged, lane l with col = base + 4 l and base a multiple of 128; columns from
// 4 * output_vectors(cols) on are not written.
template <InputForm kForm>
__device__ __forceinline__ void store_columns(const ProductInput& out, int64_t row, int32_t col,
                                              int32_t cols, const float4& v) {
  if constexpr (kForm == InputForm::kQ8) {
    store_q8(out, row, col, cols, v);
  } else {
    if (col >= cols) return;
    const int64_t at = row * out.stride + col;
    if constexpr (kForm == InputForm::kF32) {
      *reinterpret_cast<float4*>(static_cast<float*>(out.data) + at) = v;
    } else {
      using T = std::conditional_t<kForm == InputForm::kF16, f16, bf16>;
      *reinterpret_cast<uint2*>(static_cast<T*>(out.data) + at) =
          uint2{pack2<T>(v.x, v.y), pack2<T>(v.z, v.w)};
    }
  }
}

// Whether kernels that use store_columns can write rows of `cols` columns to `out`.
inline bool valid_output(const ProductInput& out, int32_t cols) {
  if (cols <= 0 || cols % 4 != 0) return false;
  return out.form == InputForm::kQ8 ? cols % 32 == 0 && out.stride % 64 == 0 : out.stride % 4 == 0;
}

}  // namespace longhaul::device
