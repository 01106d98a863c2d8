// DeviceMatrixLayout: which pieces a weight matrix has on the device and how large they are,
// decided before a byte is read or copied. A piece is one WeightMatrix (kernels/weight_layout.h):
// neighboring parts of one format are one piece, a change of format begins another.
//
// Dtypes keep their format, but for F32, which becomes bf16.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "status.h"
#include "tensor.h"
#include "weight_layout.h"

namespace longhaul::cuda {

struct DevicePiece {
  device::WeightFormat format = device::WeightFormat::kBF16;
  bool paired = false;
  int32_t rows = 0;  // paired: of both halves together
  int32_t cols = 0;
  int32_t first_row = 0;   // of the stacked matrix: where in a row of y the piece's results go
  int32_t first_part = 0;  // parts [first_part, first_part + num_parts), stacked
  int32_t num_parts = 0;
  // The unit of packing: a tile of 16 rows, or one row of a dense format. Units lie one after
  // another; unit u's bytes are [offset + u * unit_bytes, .. + unit_bytes).
  int64_t num_units = 0;
  int64_t unit_bytes = 0;
  int64_t offset = 0;  // in the matrix's memory, a multiple of 256
};

struct DeviceMatrixLayout {
  std::vector<DevicePiece> pieces;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t bytes = 0;  // of all pieces, a multiple of 256
};

// Parts of equal cols are stacked by rows. With `paired`, two parts of equal shape and format are
// one paired piece; parts that differ are two ordinary ones (pieces[0].paired tells).
// kModelFormat: shapes that a dtype or a kernel cannot hold.
Result<DeviceMatrixLayout> plan_device_matrix(std::span<const TensorView> parts, bool paired);

// The piece as kernels see it; `data` is the start of the matrix's device memory.
device::WeightMatrix piece_matrix(const DevicePiece& piece, const void* data);

}  // namespace longhaul::cuda
