// Opens the CUDA backend, which lives in a shared object of its own beside the addon: a machine
// without a GPU needs neither the toolkit to build nor the driver to run. Two plug-ins are built
// from the same sources: longhaul_cuda.so and, over the emulator, longhaul_cuda_emulated.so.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "status.h"

namespace longhaul {

struct CudaBackendOptions {
  std::string runtime = "cuda";   // or "cuda-emulated"
  int32_t device = 0;             // index as the driver counts (CUDA_VISIBLE_DEVICES applies)
  std::string plugin_folder;      // where the plug-in lies; empty = the folder of this code
};

// kDevice says what is missing and what to do: the plug-in was not built, is of another version,
// there is no driver, no such device. The plug-in stays open until the process ends.
Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaBackendOptions& options);

}  // namespace longhaul
