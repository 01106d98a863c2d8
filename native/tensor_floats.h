// Elements of F32, F16 and BF16 tensors as floats: norm weights and biases, which every backend keeps
// in f32.
#pragma once

#include <vector>

#include "status.h"
#include "tensor.h"

namespace longhaul {

// kModelFormat, naming the tensor, for other types.
Result<std::vector<float>> tensor_floats(const TensorView& tensor);

}  // namespace longhaul
