// launch_kernel: the one way launchers start a kernel, so that what they dispatch on a GPU is what
// the emulator runs. Include from .cu files only.
#pragma once

#include <cstdint>

#include "device.cuh"
#include "launch.h"

namespace longhaul::device {

struct LaunchShape {
  dim3 grid;
  uint32_t threads = 0;       // a block, multiple of 32
  uint32_t shared_bytes = 0;  // dynamic shared memory a block
};

#ifdef LONGHAUL_SIMT

// Enqueues Kernel(params) on the emulator's stream and notes that this instantiation ran.
template <auto Kernel, typename Params>
int launch_kernel(const LaunchShape& shape, const Params& params, Stream stream) {
  return simt::launch<Kernel>(shape.grid, shape.threads, shape.shared_bytes, params, stream.handle);
}

#else

// Returns the launch's cudaError_t. More than 48 KiB of dynamic shared memory is asked for here.
template <auto Kernel, typename Params>
int launch_kernel(const LaunchShape& shape, const Params& params, Stream stream) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return 0;
  if (shape.shared_bytes > 48u * 1024u) {
    const cudaError_t error = cudaFuncSetAttribute(
        Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return static_cast<int>(error);
  }
  Kernel<<<shape.grid, shape.threads, shape.shared_bytes,
           static_cast<cudaStream_t>(stream.handle)>>>(params);
  return static_cast<int>(cudaGetLastError());
}

#endif

}  // namespace longhaul::device
