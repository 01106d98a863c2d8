// Runs grids of device code on the host: the door of the emulator for launchers and tests.
//
// Every thread is a fiber (machine.h). What a launch checks, with `checks`:
// - Barriers and warp primitives: all threads, or all lanes, at the same place; named barriers
//   filled by the right number; whatever waits for ever is a deadlock, told with who waits where.
// - Shared memory: bounds, alignment, bytes read before any write, races (happens-before by
//   barriers, warp_sync, named barriers and mbarriers; shuffles, votes and matrix primitives order
//   nothing). Poisoned with ones at the block's start.
// - copy_async lands at the wait that requires it and bulk copies as late as possible; touching
//   their destination before, refilling what may still be read, ending without a wait, a missing
//   proxy or initialization fence are faults.
// - Global memory, where the primitives touch it: alignment, bounds (memory.h).
// Without `checks`: the first of these only, copies are done at once, and device code runs several
// times as fast.
//
// What it does not see: plain dereferences of global pointers (build with the address sanitizer:
// fibers tell it of their stacks), races in global memory and between blocks, bank conflicts,
// registers. Blocks run one after another in random order, so a block that spins until another
// has done something never ends. Sums inside one mma have an order of their own (fragments.h), and
// exp2_fast, reciprocal_fast and rsqrt_fast are more accurate than a GPU's.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>

#include "simt/registry.h"
#include "simt/stream.h"
#include "simt/vector_types.h"

namespace longhaul::simt {

// Numbers of cudaError_t.
constexpr int kInvalidConfiguration = 9;  // shape no device takes
constexpr int kIllegalAddress = 700;      // out of bounds
constexpr int kDeadlock = 702;            // launch timeout on a GPU
constexpr int kMisalignedAddress = 716;
constexpr int kLaunchFailure = 719;  // races, uninitialized reads, divergence, lost copies

struct Options {
  uint64_t seed = 1;   // order of threads and blocks; 0 is in order of arrival
  bool checks = true;  // shadow memory: races, uninitialized reads, copies in flight, bounds
};
// Taken by each launch when it starts. As above unless a program chooses; in the emulated plug-in
// seed 0 and no checks. LONGHAUL_SIMT_SEED and LONGHAUL_SIMT_CHECKS (0 or 1), where
// set, win over what a program chooses.
Options options();
void set_options(const Options& options);

// What the last launch that failed in this process said: "kernel k, block (0,0,0), thread 5,
// file:line: what". Empty if none failed since the last call.
std::string take_fault();

// Runs body once a thread. Returns 0 or one of the numbers above, and returns in any case: no
// program hangs or unwinds past it. Nested launches are not possible.
int run_grid(dim3 grid, uint32_t threads, uint32_t shared_bytes, const std::function<void()>& body,
             const std::string& name = "kernel");

// What launch_kernel (kernels/launch.cuh) calls.
template <auto Kernel, typename Params>
int launch(dim3 grid, uint32_t threads, uint32_t shared_bytes, const Params& params, void* stream) {
  Instantiation& which = instantiation<Kernel>();
  return enqueue(
      stream,
      [&which, grid, threads, shared_bytes, params]() -> int {
        if (grid.x != 0 && grid.y != 0 && grid.z != 0) which.mark_executed();
        return run_grid(grid, threads, shared_bytes, [&params] { Kernel(params); }, which.name());
      },
      which.name());
}

}  // namespace longhaul::simt
