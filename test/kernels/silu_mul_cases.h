// Shapes for silu_mul.
#pragma once

#include <cstdint>

namespace lh_test {

struct GateShape {
  int32_t rows;
  int32_t cols;
};
constexpr GateShape kGateShapes[] = {
    {0, 32}, {1, 4}, {2, 36}, {3, 32}, {2, 96}, {5, 128}, {2, 1024}, {3, 1056}, {1, 2080},
};

}  // namespace lh_test
