// Shapes of rows for rms_norm, add_norm and convert_rows.
#pragma once

#include <cstdint>

namespace lh_test {

struct RowShape {
  int32_t rows;
  int32_t cols;
  int32_t spare;  // columns between rows, in fours
};
constexpr RowShape kRowShapes[] = {
    {0, 64, 0},    // no work
    {1, 4, 0},     // one vector
    {3, 32, 1},    // one q8 block, half a step
    {2, 36, 3},    // not a multiple of a block
    {5, 64, 0},
    {2, 96, 1},    // a step and a half
    {3, 100, 2},
    {17, 576, 0},  // a small model
    {2, 1056, 1},
    {1, 4096, 0},
    {2, 4100, 1},
    {1, 16416, 1},  // more vectors than a block holds in registers
};

}  // namespace lh_test
