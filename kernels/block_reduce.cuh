// Sums over a thread block.
#pragma once

#include "device.cuh"

namespace longhaul::device {

// The sum over all threads of the block, for every thread; order fixed by the thread count alone.
// `partials` [32] must not be in use; it may be used again only after the block's next barrier.
template <typename T>
__device__ __forceinline__ T block_sum(T value, Shared<T> partials) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int num_warps = static_cast<int>(blockDim.x) / 32;
  value = warp_sum(value);
  if (lane == 0) partials[warp] = value;
  block_sync();  // every warp's partial is written before any warp adds them
  return warp_sum(lane < num_warps ? static_cast<T>(partials[lane]) : T{});
}

}  // namespace longhaul::device
