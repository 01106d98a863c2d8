// The emulator's dense matrix product, in place of the library's.
#pragma once

#include "backend/cuda/device_runtime.h"

namespace longhaul::simt {

// Products of the operands as stored, accumulated in f32 over columns in an order that depends on
// nothing else; y read once (accumulate) and rounded once.
void dense_product(const cuda::DenseProduct& product);

}  // namespace longhaul::simt
