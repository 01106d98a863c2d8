// Norms of rows and what stands between a residual stream and a matrix product:
//   rms_norm      out = rms_norm(x) * weight, in the form the next product reads
//   add_norm      x += y or x += rms_norm(y) * post_weight; then, if wanted, out as above: one pass
//   convert_rows  out = x, in the form the next product reads
// rms_norm(x) = x / sqrt(mean(x^2) + eps); sums and factors in f32.
#pragma once

#include <cstdint>

#include "launch.h"
#include "product_input.h"

namespace longhaul::device {

struct RmsNormParams {
  const float* x = nullptr;              // [.., cols]
  int64_t x_stride = 0;                  // elements
  const int32_t* row_indices = nullptr;  // [rows] output row i is made of x row row_indices[i];
                                         // null: of row i
  const float* weight = nullptr;         // [cols]
  float eps = 0;
  int32_t rows = 0;
  int32_t cols = 0;                      // kQ8: a multiple of 32
  ProductInput out;                      // [rows, cols]
};
int launch_rms_norm(const RmsNormParams& params, Stream stream);

struct AddNormParams {
  float* x = nullptr;                    // in/out [rows, cols]
  int64_t x_stride = 0;
  const float* y = nullptr;              // [rows, cols]
  int64_t y_stride = 0;
  const float* post_weight = nullptr;    // [cols]; null: y is added as it is
  const float* weight = nullptr;         // [cols] of the next norm; null: `out` is not written
  float post_eps = 0;
  float eps = 0;
  int32_t rows = 0;
  int32_t cols = 0;
  ProductInput out;                      // [rows, cols] rms_norm(new x) * weight
};
int launch_add_norm(const AddNormParams& params, Stream stream);

struct ConvertRowsParams {
  const float* x = nullptr;              // [rows, cols]
  int64_t x_stride = 0;
  int32_t rows = 0;
  int32_t cols = 0;
  ProductInput out;
};
int launch_convert_rows(const ConvertRowsParams& params, Stream stream);

}  // namespace longhaul::device
