// matmul_gemv: products of 1 to 8 rows with weights of any format, at the speed of memory.
// kInvalidLaunch: more rows, a form of x that is not the weight's, an epilogue of paired matrices
// with another, misaligned pointers or strides.
#pragma once

#include "matmul.h"

namespace longhaul::device {

int launch_matmul_gemv(const MatmulParams& params, Stream stream);

}  // namespace longhaul::device
