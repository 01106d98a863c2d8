// silu_mul: out = activation(gate) * up, in the form the down projection reads.
#pragma once

#include <cstdint>

#include "launch.h"
#include "product_input.h"

namespace longhaul::device {

enum class GateActivation : int32_t { kSilu, kGeluTanh };

struct SiluMulParams {
  // Element (row, i) of gate is gate[row * stride + i * step], of up likewise. step 1: two planes,
  // up = gate + cols if they are halves of one product; step 2: columns alternate, up = gate + 1.
  const float* gate = nullptr;
  const float* up = nullptr;
  int64_t stride = 0;
  int32_t step = 1;          // 1 or 2
  GateActivation activation = GateActivation::kSilu;
  int32_t rows = 0;
  int32_t cols = 0;          // of the result; kQ8: a multiple of 32
  ProductInput out;          // [rows, cols]
};
int launch_silu_mul(const SiluMulParams& params, Stream stream);

}  // namespace longhaul::device
