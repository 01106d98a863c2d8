// TensorView: a named, typed, read-only view of weight bytes. They are there as long as `lease`
// lives or, without one, as long as whoever made the view says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "dtype.h"

namespace longhaul {

struct TensorView {
  std::string name;                 // canonical name (model/weights.h)
  DType dtype = DType::kF32;
  int64_t rows = 1;                 // outer dimension; 1 for vectors
  int64_t cols = 0;                 // inner dimension, contiguous
  const std::byte* data = nullptr;  // rows * row_bytes(dtype, cols) bytes, any alignment
  std::shared_ptr<const void> lease = nullptr;  // its end gives the bytes back; null = borrowed
};

}  // namespace longhaul
