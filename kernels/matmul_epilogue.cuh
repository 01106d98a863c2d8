// What becomes of a finished sum, and where a tile's rows go in y. Shared by the matrix products.
#pragma once

#include "device.cuh"
#include "matmul.h"

namespace longhaul::device {

__device__ __forceinline__ bool is_gated(Epilogue epilogue) {
  return epilogue == Epilogue::kSiluMul || epilogue == Epilogue::kGeluMul;
}

__device__ __forceinline__ float gate_of(Epilogue epilogue, float gate) {
  if (epilogue == Epilogue::kSiluMul) return gate / (1.0f + expf(-gate));
  const float inner =
      0.7978845608028654f * (gate + 0.044715f * gate * gate * gate);  // sqrt(2 / pi)
  return 0.5f * gate * (1.0f + tanhf(inner));
}

// Row of the matrix that is row r (0 .. 15) of tile `tile`; -1: none.
__device__ __forceinline__ int32_t tile_row(const WeightMatrix& w, int32_t tile, int32_t r) {
  if (!w.paired) {
    const int32_t row = tile * kTileRows + r;
    return row < w.rows ? row : -1;
  }
  const int32_t row = tile * (kTileRows / 2) + r % 8;
  return row < w.rows / 2 ? row + (r / 8) * (w.rows / 2) : -1;
}

// Writes y[token][row]; epilogues that are not gated.
__device__ __forceinline__ void finish(const MatmulParams& p, int64_t token, int32_t row,
                                       float sum) {
  float* y = p.y + token * p.y_stride + row;
  if (p.epilogue == Epilogue::kAdd) {
    *y += sum;
  } else if (p.epilogue == Epilogue::kSoftcap) {
    *y = p.softcap * tanhf(sum / p.softcap);
  } else {
    *y = sum;
  }
}

// Host side: what every launcher asks of its params.
inline bool valid_matmul(const MatmulParams& p) {
  const auto aligned = [](const void* pointer) {
    return (reinterpret_cast<uintptr_t>(pointer) & 15) == 0;
  };
  const bool gated = p.epilogue == Epilogue::kSiluMul || p.epilogue == Epilogue::kGeluMul;
  const bool is_q8 = p.x.form == InputForm::kQ8;
  if (p.rows < 0 || p.w.rows <= 0 || p.w.cols <= 0) return false;
  if (p.w.cols % col_multiple(p.w.format) != 0) return false;
  if (p.w.paired ? p.w.rows % 2 != 0 : gated) return false;
  if (p.x.form != input_form(p.w.format)) return false;
  if (p.x.stride % (is_q8 ? kStepCols : 8) != 0 || p.x.stride < p.w.cols) return false;
  if (!aligned(p.w.data) || !aligned(p.x.data)) return false;
  if (is_q8 && (!aligned(p.x.scales) || !aligned(p.x.sums))) return false;
  return p.epilogue != Epilogue::kSoftcap || p.softcap > 0;
}

}  // namespace longhaul::device
