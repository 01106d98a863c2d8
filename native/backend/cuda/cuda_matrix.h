// CudaMatrix, CudaVector, CudaRope: what the backend keeps of a model on the device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "backend/cuda/device_matrix_layout.h"
#include "matmul.h"

namespace longhaul::cuda {

struct CudaMatrix : Matrix {
  DeviceMatrixLayout layout;
  std::byte* data = nullptr;
  MatrixUse use = MatrixUse::kProjection;

  device::WeightMatrix piece(size_t index) const {
    return piece_matrix(layout.pieces[index], data);
  }
};

struct CudaVector : Vector {
  float* data = nullptr;
};

struct CudaRope : RopeTable {
  float* inv_freq = nullptr;  // [half_dim]
  int32_t half_dim = 0;
  bool interleaved = false;
  float attention_factor = 1.0f;
};

inline const CudaMatrix& cuda_matrix(const Matrix* matrix) {
  return *static_cast<const CudaMatrix*>(matrix);
}
inline const float* floats_of(const Vector* vector) {
  return vector ? static_cast<const CudaVector*>(vector)->data : nullptr;
}

}  // namespace longhaul::cuda
