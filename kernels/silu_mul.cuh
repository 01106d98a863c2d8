// activation(gate) * up (silu_mul.h).
//
// Cost: 8 bytes read and 4, 2 or 1.25 written an element. Prefill of 2048 x 14336 to f16: 294 MB =
// 98 us at 3 TB/s. Decode of 1 x 14336: 14 blocks, launch and one round of loads: about 3 us.
// sm_90a: 26 to 30 registers: 2048 threads a multiprocessor with 32 bytes in flight each, four
// times what hides memory latency.
#pragma once

#include "device.cuh"
#include "row_output.cuh"
#include "silu_mul.h"

namespace longhaul::device {

struct SiluMulConfig {
  static constexpr int kThreads = 256;  // eight warps; a thread makes one vector of a row
};

// x sigmoid(x)
__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

// GELU by tanh: 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
__device__ __forceinline__ float gelu_tanh(float x) {
  constexpr float kMinusTwoRoot = -1.59576912f;
  return x / (1.0f + expf(kMinusTwoRoot * fmaf(0.044715f * x, x * x, x)));
}

template <GateActivation kActivation>
__device__ __forceinline__ float activate(float x) {
  return kActivation == GateActivation::kSilu ? silu(x) : gelu_tanh(x);
}

template <InputForm kForm, GateActivation kActivation>
__global__ void __launch_bounds__(SiluMulConfig::kThreads)
    silu_mul_kernel(const __grid_constant__ SiluMulParams p) {
  // Block (i, j) owns columns from i * 4 * threads of rows j, j + gridDim.y, ..; a thread four.
  const int32_t col = 4 * static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  const bool inside = col < p.cols;
  for (int64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
    float4 gate{0, 0, 0, 0}, up{0, 0, 0, 0};
    if (inside) {
      const float* from = p.gate + row * p.stride + int64_t{col} * p.step;
      if (p.step == 1) {
        gate = load_stream(reinterpret_cast<const float4*>(from));
        up = load_stream(reinterpret_cast<const float4*>(p.up + row * p.stride + col));
      } else {
        const float4 low = load_stream(reinterpret_cast<const float4*>(from));
        const float4 high = load_stream(reinterpret_cast<const float4*>(from) + 1);
        gate = float4{low.x, low.z, high.x, high.z};
        up = float4{low.y, low.w, high.y, high.w};
      }
    }
    const float4 v{activate<kActivation>(gate.x) * up.x, activate<kActivation>(gate.y) * up.y,
                   activate<kActivation>(gate.z) * up.z, activate<kActivation>(gate.w) * up.w};
    store_columns<kForm>(p.out, row, col, p.cols, v);
  }
}

}  // namespace longhaul::device
