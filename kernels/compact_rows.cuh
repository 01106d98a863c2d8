// Moving kept rows up (compact_rows.h).
//
// Cost: rows moved are read and written once. Few columns are few threads (4096 columns: 128 blocks
// of one warp), each with eight rows in flight: 2048 rows of 4096 take 256 rounds of about 1 us.
// That is ten times what memory could do, for a step that lost a sequence; it needs no second
// buffer. 64 registers: the eight rows' addresses.
#pragma once

#include "compact_rows.h"
#include "device.cuh"

namespace longhaul::device {

struct CompactRowsConfig {
  static constexpr int kThreads = 32;  // small blocks: columns are spread over many multiprocessors
  static constexpr int kRows = 8;      // loads in flight a thread
};

__global__ void __launch_bounds__(CompactRowsConfig::kThreads)
    compact_rows_kernel(const __grid_constant__ CompactRowsParams p) {
  // A thread owns one column and goes down the rows. It reads rows keep[i .. i + 8), all at or
  // below row i, before it writes rows i .. i + 7: nothing is read after it was written.
  constexpr int kRows = CompactRowsConfig::kRows;
  const int32_t col = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  if (col >= p.cols) return;
  for (int32_t i = 0; i < p.rows; i += kRows) {
    float held[kRows];
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      if (i + j < p.rows) held[j] = p.x[p.keep[i + j] * p.stride + col];
    }
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      if (i + j < p.rows) p.x[(i + j) * p.stride + col] = held[j];
    }
  }
}

}  // namespace longhaul::device
