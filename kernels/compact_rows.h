// compact_rows: row keep[i] of a matrix becomes its row i, in place.
#pragma once

#include <cstdint>

#include "launch.h"

namespace longhaul::device {

struct CompactRowsParams {
  float* x = nullptr;              // [.., cols]
  int64_t stride = 0;              // elements
  int32_t cols = 0;
  const int32_t* keep = nullptr;   // device, [rows] strictly ascending, so keep[i] >= i
  int32_t rows = 0;                // rows kept
};
int launch_compact_rows(const CompactRowsParams& params, Stream stream);

}  // namespace longhaul::device
