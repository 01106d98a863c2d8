// matmul_quant: products of any number of rows with quantized weights on int8 tensor cores, meant
// for 9 to kQuantRowsMax. kInvalidLaunch as matmul_gemv; dense weights too.
#pragma once

#include "matmul.h"

namespace longhaul::device {

int launch_matmul_quant(const MatmulParams& params, Stream stream);

}  // namespace longhaul::device
