// softcap: x = cap * tanh(x / cap), in place; for products whose own epilogue does not do it.
#pragma once

#include <cstdint>

#include "launch.h"

namespace longhaul::device {

struct SoftcapParams {
  float* x = nullptr;   // [rows, cols]
  int64_t stride = 0;   // elements
  int32_t rows = 0;
  int32_t cols = 0;
  float cap = 0;        // > 0
};
int launch_softcap(const SoftcapParams& params, Stream stream);

}  // namespace longhaul::device
