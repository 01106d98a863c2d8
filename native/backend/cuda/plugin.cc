// The entry point of both plug-ins (plugin_abi.h): which runtime it opens is decided by what it is
// linked with.
#include "backend/plugin_abi.h"

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device_runtime.h"

namespace longhaul {
namespace {

Result<std::unique_ptr<Backend>> make_backend(const CudaBackendOptions& options) {
  LH_ASSIGN_OR_RETURN(std::unique_ptr<cuda::DeviceRuntime> runtime,
                      cuda::open_device(options.device));
  return cuda::make_cuda_backend_on(std::move(runtime), options);
}

}  // namespace
}  // namespace longhaul

extern "C" __attribute__((visibility("default"))) const longhaul::BackendPlugin*
longhaul_backend_plugin() {
  static const std::string abi = longhaul::plugin_abi();
  static const longhaul::BackendPlugin plugin{abi.c_str(), longhaul::cuda::runtime_name(),
                                              longhaul::make_backend};
  return &plugin;
}
