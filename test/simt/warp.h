// Warp primitives: each lane leaves its operands on its own stack and arrives; the last lane does
// the work for all 32 (one switch a lane and primitive).
#pragma once

#include <cstdint>
#include <type_traits>

#include "simt/fragments.h"
#include "simt/machine.h"
#include "simt/shared.h"

namespace longhaul::simt {

template <typename T>
inline constexpr bool kShuffles = std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8);

void warp_sync(Site site);
uint32_t ballot(bool predicate, const char* primitive, Site site);
// fence_async_proxy: this thread's shared accesses before it come before bulk copies after it.
void fence_async_proxy(Site site);
void mma(MmaLane& operands, const char* primitive, void (*work)(void* const*), Site site);
// Checks the row that this lane gives; lanes whose row no matrix uses give anything.
void load_matrix_operands(LoadMatrixLane& operands, const char* primitive, int num_matrices,
                          bool transposed, Site site);

template <typename T>
T shuffle(T value, const char* primitive, int from, Site site) {
  static_assert(kShuffles<T>, "4- or 8-byte numbers; name the type when reading a Shared element");
  struct Lane {
    T value, result;
    int from;
  } operands{value, value, from};
  Thread& self = *current;
  if (self.block->warp_arrive(self, primitive, &operands, site)) {
    void* const* const lanes = self.warp->lanes;
    for (uint32_t i = 0; i < kWarpLanes; ++i) {
      Lane& lane = *static_cast<Lane*>(lanes[i]);
      lane.result = static_cast<Lane*>(lanes[lane.from])->value;
    }
    self.block->warp_release(self);
  }
  return operands.result;
}

// Combines over all lanes by exchanging with lanes 16, 8, 4, 2, 1 away, as the device does.
template <typename T, typename Combine>
T butterfly(T value, const char* primitive, Combine combine, Site site) {
  static_assert(kShuffles<T>, "4- or 8-byte numbers; name the type when reading a Shared element");
  T operand = value;
  Thread& self = *current;
  if (self.block->warp_arrive(self, primitive, &operand, site)) {
    T now[kWarpLanes], next[kWarpLanes];
    for (uint32_t i = 0; i < kWarpLanes; ++i) now[i] = *static_cast<T*>(self.warp->lanes[i]);
    for (uint32_t mask = kWarpLanes / 2; mask > 0; mask /= 2) {
      for (uint32_t i = 0; i < kWarpLanes; ++i) next[i] = combine(now[i], now[i ^ mask]);
      for (uint32_t i = 0; i < kWarpLanes; ++i) now[i] = next[i];
    }
    for (uint32_t i = 0; i < kWarpLanes; ++i) *static_cast<T*>(self.warp->lanes[i]) = now[i];
    self.block->warp_release(self);
  }
  return operand;
}

template <int Matrices>
void load_matrix_lanes(uint32_t (&r)[Matrices], Shared<const std::byte> row, const char* primitive,
                       bool transposed, Site site) {
  LoadMatrixLane operands;
  operands.row = row.address();
  load_matrix_operands(operands, primitive, Matrices, transposed, site);
  for (int i = 0; i < Matrices; ++i) r[i] = operands.result[i];
}

}  // namespace longhaul::simt
