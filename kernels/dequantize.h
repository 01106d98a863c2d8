// dequantize: tiles of a quantized matrix as f16 rows, for dense products of many rows. Each weight
// is computed in f32 and rounded once.
#pragma once

#include <cstdint>

#include "launch.h"
#include "weight_layout.h"

namespace longhaul::device {

struct DequantizeParams {
  WeightMatrix w;          // quantized
  int32_t first_tile = 0;  // tiles [first_tile, first_tile + tiles) of num_tiles(w)
  int32_t tiles = 0;       // 0 is allowed
  // Row 16 * (tile - first_tile) + r of the output is the tile's row r; rows past w.rows are not
  // written. Of a paired matrix: gate rows from 0 on, 8 a tile, up rows from `up_row` on.
  void* out = nullptr;     // f16 [.., w.cols], 16-byte aligned
  int64_t out_stride = 0;  // elements, a multiple of 8
  int32_t up_row = 0;
};
int launch_dequantize(const DequantizeParams& params, Stream stream);

}  // namespace longhaul::device
