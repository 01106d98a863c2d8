// ProductInput: where an operation writes rows that a matrix product reads next, and in which form.
// The form is the weight's choice (matmul.h): half precision for dense weights and tensor cores, q8
// for integer dot products with quantized weights. Element layout of q8: quantize_block.cuh.
#pragma once

#include <cstdint>

namespace longhaul::device {

enum class InputForm : int32_t { kF32, kF16, kBF16, kQ8 };

struct ProductInput {
  InputForm form = InputForm::kF32;
  void* data = nullptr;     // f32, f16, bf16 or int8 [rows, cols]
  int64_t stride = 0;       // elements from row to row; a multiple of 4 (f16, bf16: 8), kQ8 of 64
  // kQ8 alone: one entry for each 32 columns, [rows, stride / 32].
  float* scales = nullptr;  // number = scale * int8
  float* sums = nullptr;    // scale * (sum of the block's int8), for weights with an offset
};

}  // namespace longhaul::device
