// What both device runtimes ask of a dense product.
#pragma once

#include "backend/cuda/device_runtime.h"
#include "status.h"

namespace longhaul::cuda {

// kDevice for sizes and strides that do not describe a product. No rows and no outputs are fine.
Status check_dense_shape(const DenseProduct& product);

// The library's workspace belongs to the runtime, so all its products are queued on one stream.
Status dense_on_two_streams();
// The first prepare_dense() opens the library and takes its workspace.
Status dense_not_prepared();

}  // namespace longhaul::cuda
