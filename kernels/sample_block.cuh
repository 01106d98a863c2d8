// What a block of the sampling kernels does together: sums, scans, searches, arrival. All integer,
// so that results do not depend on an order. Every function is called by all threads of the block
// and begins with a barrier: whatever shared memory it uses has been read by then.
#pragma once

#include "device.cuh"
#include "sample_layout.h"

namespace longhaul::device {

struct SampleShared {
  Shared<std::byte> base;

  template <typename T>
  __device__ __forceinline__ Shared<T> at(int offset) const {
    return shared_cast<T>(base + offset);
  }
  __device__ __forceinline__ Shared<uint64_t> partials() const {
    return at<uint64_t>(SampleSharedLayout::kPartials);
  }
  __device__ __forceinline__ Shared<uint64_t> answer() const {
    return at<uint64_t>(SampleSharedLayout::kAnswer);
  }
  __device__ __forceinline__ Shared<uint32_t> generated() const {
    return at<uint32_t>(SampleSharedLayout::kGenerated);
  }
  __device__ __forceinline__ Shared<uint32_t> banned() const {
    return at<uint32_t>(SampleSharedLayout::kBanned);
  }
  __device__ __forceinline__ Shared<float> staged() const {
    return at<float>(SampleSharedLayout::kStaged);
  }
  // Sums of weights in two halves: 32-bit atomics carry from one to the other.
  __device__ __forceinline__ Shared<uint32_t> low() const {
    return at<uint32_t>(SampleSharedLayout::kLow);
  }
  __device__ __forceinline__ Shared<uint32_t> high() const {
    return at<uint32_t>(SampleSharedLayout::kHigh);
  }
  __device__ __forceinline__ Shared<uint32_t> counts() const {
    return at<uint32_t>(SampleSharedLayout::kCounts);
  }
  __device__ __forceinline__ Shared<uint32_t> top_counts() const {
    return at<uint32_t>(SampleSharedLayout::kTopCounts);
  }
  __device__ __forceinline__ Shared<uint64_t> items() const {
    return at<uint64_t>(SampleSharedLayout::kItems);
  }
  __device__ __forceinline__ Shared<uint64_t> item_weights() const {
    return at<uint64_t>(SampleSharedLayout::kItemWeights);
  }
};

__device__ __forceinline__ int32_t thread_index() { return static_cast<int32_t>(threadIdx.x); }

// The sum, or the largest, of the values of all threads; every thread gets it.
template <typename T>
__device__ __forceinline__ T block_add(T value, const SampleShared& shared) {
  const Shared<T> partials = shared_cast<T>(shared.partials());
  value = warp_sum(value);
  block_sync();  // partials of the previous use have been read
  if (thread_index() % 32 == 0) partials[thread_index() / 32] = value;
  block_sync();  // each warp's partial is written before all are read
  value = partials[0];
#pragma unroll
  for (int warp = 1; warp < SampleConfig::kWarps; ++warp) value += static_cast<T>(partials[warp]);
  return value;
}
__device__ __forceinline__ uint64_t block_largest(uint64_t value, const SampleShared& shared) {
  const Shared<uint64_t> partials = shared.partials();
  value = warp_max(value);
  block_sync();  // partials of the previous use have been read
  if (thread_index() % 32 == 0) partials[thread_index() / 32] = value;
  block_sync();  // each warp's partial is written before all are read
  value = partials[0];
#pragma unroll
  for (int warp = 1; warp < SampleConfig::kWarps; ++warp) {
    const uint64_t other = partials[warp];
    value = value < other ? other : value;
  }
  return value;
}

struct BlockScan {
  uint64_t before;  // sum of the values of lower threads
  uint64_t total;
};
__device__ __forceinline__ BlockScan block_scan(uint64_t value, const SampleShared& shared) {
  const int lane = thread_index() % 32, warp = thread_index() / 32;
  uint64_t inclusive = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const uint64_t lower = warp_shuffle_up(inclusive, distance);
    if (lane >= distance) inclusive += lower;
  }
  const Shared<uint64_t> partials = shared.partials();
  block_sync();  // partials of the previous use have been read
  if (lane == 31) partials[warp] = inclusive;
  block_sync();  // each warp's sum is written before all are read
  BlockScan scan{inclusive - value, 0};
#pragma unroll
  for (int i = 0; i < SampleConfig::kWarps; ++i) {
    const uint64_t sum = partials[i];
    if (i < warp) scan.before += sum;
    scan.total += sum;
  }
  return scan;
}

// Where a running sum over kBins entries first reaches wanted_of(total) >= 1. entry(i) is called
// once an entry.
struct Found {
  int32_t index;     // -1: the total is less
  uint64_t before;   // sum of entries before index
  uint64_t wanted;
};
template <typename Entry, typename Wanted>
__device__ __forceinline__ Found find_first(const SampleShared& shared, const Entry& entry,
                                            const Wanted& wanted_of) {
  constexpr int kOwn = SampleConfig::kBins / SampleConfig::kThreads;
  uint64_t own[kOwn], sum = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    own[i] = entry(thread_index() * kOwn + i);
    sum += own[i];
  }
  const BlockScan scan = block_scan(sum, shared);
  const uint64_t wanted = wanted_of(scan.total);
  if (scan.total < wanted) return {-1, scan.total, wanted};
  const Shared<uint64_t> answer = shared.answer();
  if (scan.before < wanted && wanted <= scan.before + sum) {
    uint64_t before = scan.before;
    int32_t index = 0;
#pragma unroll
    for (int i = 0; i < kOwn - 1; ++i) {
      if (index == i && before + own[i] < wanted) {
        before += own[i];
        index = i + 1;
      }
    }
    answer[0] = static_cast<uint64_t>(thread_index() * kOwn + index);
    answer[1] = before;
  }
  block_sync();  // the one thread that found it has written
  const uint64_t index = answer[0], before = answer[1];
  return {static_cast<int32_t>(index), before, wanted};
}

__device__ __forceinline__ uint64_t wide(uint32_t low, uint32_t high) {
  return uint64_t{high} << 32 | low;
}

// sum[i] += weight, in shared memory.
__device__ __forceinline__ void add_weight(Shared<uint32_t> low, Shared<uint32_t> high, int32_t i,
                                           uint64_t weight) {
  const uint32_t lower = static_cast<uint32_t>(weight);
  const uint32_t old = shared_atomic_add(low + i, lower);
  const uint32_t upper = static_cast<uint32_t>(weight >> 32) + (old + lower < lower ? 1u : 0u);
  if (upper != 0) shared_atomic_add(high + i, upper);
}

// The block that arrives last of the row's blocks sees all that they wrote, and goes on. (That the
// fences are needed no emulator shows whose global memory is one: PTX ISA 8, causality order.)
__device__ __forceinline__ bool arrives_last(SampleState* state, int stage, int32_t num_chunks,
                                             const SampleShared& shared) {
  const Shared<uint64_t> answer = shared.answer();
  block_sync();  // the block's writes are done, the previous answer is read
  if (thread_index() == 0) {
    global_fence();  // they are visible before the arrival is
    const uint32_t earlier = global_atomic_add(&state->arrived[stage], 1u);
    const bool last = earlier + 1 == static_cast<uint32_t>(num_chunks);
    if (last) state->arrived[stage] = 0;
    global_fence();  // what other blocks wrote is read after their arrivals
    answer[0] = last ? 1 : 0;
  }
  block_sync();  // thread 0 knows
  const uint64_t last = answer[0];
  return last != 0;
}

}  // namespace longhaul::device
