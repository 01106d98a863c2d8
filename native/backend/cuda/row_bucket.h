// How many rows a step is computed with: its own, rounded up to one of few counts, so that graphs
// and choices of algorithm for products can be kept by count. The rows beyond a step's own hold
// token 0, store no K and V, appear in no attention item, and nothing reads what they become.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace longhaul::cuda {

// 0, 1, 2, 4, 8, then steps of 8 to 32, 16 to 64, 32 to 512, and a sixteenth of the power of two below:
// at most 1 in 16 rows of a large step is padding.
constexpr int32_t row_bucket(int32_t rows) {
  if (rows <= 0) return 0;
  const auto floor = static_cast<int32_t>(std::bit_floor(static_cast<uint32_t>(rows)));
  if (rows <= 8) return floor == rows ? rows : 2 * floor;
  const int32_t step = rows <= 32 ? 8 : rows <= 64 ? 16 : std::max(32, floor / 16);
  return (rows + step - 1) / step * step;
}

// body(bucket) for each bucket a step of up to `rows_max` rows can have, ascending.
template <typename Body>
void for_each_bucket(int32_t rows_max, const Body& body) {
  for (int32_t bucket = 1; bucket <= row_bucket(rows_max); bucket = row_bucket(bucket + 1)) {
    body(bucket);
  }
}

}  // namespace longhaul::cuda
