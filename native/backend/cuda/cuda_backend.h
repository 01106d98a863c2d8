// The CUDA backend over a device runtime, real or emulated (device_runtime.h).
#pragma once

#include <memory>

#include "backend/backend.h"
#include "backend/cuda/device_runtime.h"
#include "backend/cuda_plugin.h"
#include "status.h"

namespace longhaul::cuda {

Result<std::unique_ptr<Backend>> make_cuda_backend_on(std::unique_ptr<DeviceRuntime> runtime,
                                                      const CudaBackendOptions& options);

}  // namespace longhaul::cuda
