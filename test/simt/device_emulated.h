// The primitives of device.cuh over fibers. What they check is told in simt.h; the `site` arguments
// take the caller's line and are never given by hand. Compile with -Wno-unknown-pragmas: CUDA's
// `#pragma unroll` is none of the host compiler's.
#pragma once

#include <math.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "element_types.h"
#include "simt/fragments.h"
#include "simt/global.h"
#include "simt/machine.h"
#include "simt/numbers.h"
#include "simt/shared.h"
#include "simt/simt.h"
#include "simt/vector_types.h"
#include "simt/warp.h"

#define threadIdx (::longhaul::simt::current->index)
#define blockIdx (::longhaul::simt::current->block->index())
#define blockDim (::longhaul::simt::current->block->block_dim())
#define gridDim (::longhaul::simt::current->block->launch().grid)

namespace longhaul::device {

using simt::Shared;
using simt::Site;

// Whether sm_90's bulk copies are there. Compile with 0 to run what older devices would.
#ifndef LONGHAUL_SIMT_BULK_COPY
#define LONGHAUL_SIMT_BULK_COPY 1
#endif
inline constexpr bool kHasBulkCopy = LONGHAUL_SIMT_BULK_COPY != 0;

// ---- shared memory

template <typename T>
inline Shared<T> dynamic_shared() {
  return Shared<T>(simt::current->block->shared());
}
template <typename U, typename T>
inline Shared<U> shared_cast(Shared<T> pointer) {
  return Shared<U>(pointer.address());
}

template <typename T>
inline T shared_atomic_add(Shared<T> pointer, std::type_identity_t<T> value,
                           Site site = Site::current()) {
  return simt::shared_atomic(pointer, site, [value](T old) { return static_cast<T>(old + value); });
}
template <typename T>
inline T shared_atomic_max(Shared<T> pointer, std::type_identity_t<T> value,
                           Site site = Site::current()) {
  return simt::shared_atomic(pointer, site, [value](T old) { return old < value ? value : old; });
}
template <typename T>
inline T shared_atomic_or(Shared<T> pointer, std::type_identity_t<T> value,
                          Site site = Site::current()) {
  return simt::shared_atomic(pointer, site, [value](T old) { return static_cast<T>(old | value); });
}

// ---- global memory

template <typename T>
inline T load_stream(const T* pointer, Site site = Site::current()) {
  return simt::global_load(pointer, site);
}
template <typename T>
inline T load_cached(const T* pointer, Site site = Site::current()) {
  return simt::global_load(pointer, site);
}
template <typename T>
inline void store_stream(T* pointer, const std::type_identity_t<T>& value,
                         Site site = Site::current()) {
  simt::global_store(pointer, value, site);
}
template <typename T>
inline T global_atomic_add(T* pointer, std::type_identity_t<T> value, Site site = Site::current()) {
  return simt::global_atomic_add(pointer, value, site);
}
inline void global_fence() {}

// ---- synchronization

inline void block_sync(Site site = Site::current()) {
  simt::current->block->block_sync(*simt::current, site);
}
inline void warp_sync(Site site = Site::current()) { simt::warp_sync(site); }
inline void barrier_sync(int id, int threads, Site site = Site::current()) {
  simt::current->block->barrier_sync(*simt::current, static_cast<uint32_t>(id),
                                     static_cast<uint32_t>(threads), site);
}
inline void barrier_arrive(int id, int threads, Site site = Site::current()) {
  simt::current->block->barrier_arrive(*simt::current, static_cast<uint32_t>(id),
                                       static_cast<uint32_t>(threads), site);
}

// ---- warp

inline constexpr uint32_t kAllLanes = 0xffffffffu;

template <typename T>
inline T warp_shuffle(T value, int lane, Site site = Site::current()) {
  return simt::shuffle(value, "warp_shuffle", lane & 31, site);
}
template <typename T>
inline T warp_shuffle_xor(T value, int mask, Site site = Site::current()) {
  const int self = static_cast<int>(simt::current->lane);
  const int from = self ^ mask;
  return simt::shuffle(value, "warp_shuffle_xor", from > 31 ? self : from, site);
}
template <typename T>
inline T warp_shuffle_down(T value, int distance, Site site = Site::current()) {
  const int self = static_cast<int>(simt::current->lane);
  return simt::shuffle(value, "warp_shuffle_down", self + distance > 31 ? self : self + distance,
                       site);
}
template <typename T>
inline T warp_shuffle_up(T value, int distance, Site site = Site::current()) {
  const int self = static_cast<int>(simt::current->lane);
  return simt::shuffle(value, "warp_shuffle_up", self < distance ? self : self - distance, site);
}
inline uint32_t warp_ballot(bool predicate, Site site = Site::current()) {
  return simt::ballot(predicate, "warp_ballot", site);
}
inline bool warp_any(bool predicate, Site site = Site::current()) {
  return simt::ballot(predicate, "warp_any", site) != 0;
}
inline bool warp_all(bool predicate, Site site = Site::current()) {
  return simt::ballot(predicate, "warp_all", site) == kAllLanes;
}
template <typename T>
inline T warp_sum(T value, Site site = Site::current()) {
  return simt::butterfly(value, "warp_sum", [](T a, T b) { return static_cast<T>(a + b); }, site);
}
template <typename T>
inline T warp_max(T value, Site site = Site::current()) {
  return simt::butterfly(value, "warp_max", [](T a, T b) { return a < b ? b : a; }, site);
}

// ---- asynchronous copies

template <int Bytes>
inline void copy_async(Shared<std::byte> to, const void* from, bool valid = true,
                       Site site = Site::current()) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  simt::Thread& self = *simt::current;
  self.copies.issue(self, {to.address(), from, Bytes, valid, 0, site});
}
inline void copy_async_commit() { simt::current->copies.commit(); }
template <int N>
inline void copy_async_wait(Site site = Site::current()) {
  static_assert(N >= 0);
  simt::current->copies.wait(*simt::current, N, site);
}

// ---- bulk copies and mbarriers

inline void mbarrier_init(Shared<uint64_t> bar, uint32_t arrivals, Site site = Site::current()) {
  simt::Thread& self = *simt::current;
  self.block->mbarriers().init(self, bar.address(), arrivals, site);
}
inline void fence_mbarrier_init() { simt::current->block->mbarriers().fence_init(*simt::current); }
inline void mbarrier_arrive_expect(Shared<uint64_t> bar, uint32_t bytes,
                                   Site site = Site::current()) {
  simt::Thread& self = *simt::current;
  simt::Mbarriers& table = self.block->mbarriers();
  table.arrive(self, table.find(self, bar.address(), site), bytes, site);
}
inline void mbarrier_arrive(Shared<uint64_t> bar, Site site = Site::current()) {
  mbarrier_arrive_expect(bar, 0, site);
}
inline void mbarrier_wait(Shared<uint64_t> bar, uint32_t parity, Site site = Site::current()) {
  simt::Thread& self = *simt::current;
  simt::Mbarriers& table = self.block->mbarriers();
  table.wait(self, table.find(self, bar.address(), site), parity, site);
}
inline void bulk_copy_async(Shared<std::byte> to, const void* from, uint32_t bytes,
                            Shared<uint64_t> bar, Site site = Site::current()) {
  simt::Thread& self = *simt::current;
  const uint32_t mbarrier = self.block->mbarriers().find(self, bar.address(), site);
  self.block->bulk_copies().issue(self, {to.address(), from, bytes, mbarrier, self.id, site});
}
inline void fence_async_proxy(Site site = Site::current()) { simt::fence_async_proxy(site); }

// ---- matrix fragments

inline void load_matrix_x4(uint32_t (&r)[4], Shared<const std::byte> row,
                           Site site = Site::current()) {
  simt::load_matrix_lanes<4>(r, row, "load_matrix_x4", false, site);
}
inline void load_matrix_x4_trans(uint32_t (&r)[4], Shared<const std::byte> row,
                                 Site site = Site::current()) {
  simt::load_matrix_lanes<4>(r, row, "load_matrix_x4_trans", true, site);
}
inline void load_matrix_x2(uint32_t (&r)[2], Shared<const std::byte> row,
                           Site site = Site::current()) {
  simt::load_matrix_lanes<2>(r, row, "load_matrix_x2", false, site);
}
inline void load_matrix_x2_trans(uint32_t (&r)[2], Shared<const std::byte> row,
                                 Site site = Site::current()) {
  simt::load_matrix_lanes<2>(r, row, "load_matrix_x2_trans", true, site);
}
template <typename T>
inline void mma_16816(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                      Site site = Site::current()) {
  static_assert(std::is_same_v<T, f16> || std::is_same_v<T, bf16>);
  simt::MmaLane operands{a, b, c};
  simt::mma(operands, "mma_16816",
            std::is_same_v<T, f16> ? simt::mma_16816_f16 : simt::mma_16816_bf16, site);
}
inline void mma_16832_s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         Site site = Site::current()) {
  simt::MmaLane operands{a, b, c};
  simt::mma(operands, "mma_16832_s8", simt::mma_16832_s8, site);
}

// ---- numbers

template <typename T>
inline T computed_here(T value) {
  static_assert(sizeof(T) == 4);
  return value;
}
inline float to_float(f16 value) { return simt::f16_to_f32(value.bits); }
inline float to_float(bf16 value) { return simt::bf16_to_f32(value.bits); }
inline float to_float(fp8 value) { return simt::fp8_to_f32(value.bits); }
template <typename T>
inline T from_float(float value) {
  if constexpr (std::is_same_v<T, f16>) {
    return f16{simt::f32_to_f16(value)};
  } else if constexpr (std::is_same_v<T, bf16>) {
    return bf16{simt::f32_to_bf16(value)};
  } else {
    static_assert(std::is_same_v<T, fp8>);
    return fp8{simt::f32_to_fp8(value)};
  }
}
template <typename T>
inline uint32_t pack2(float lo, float hi) {
  static_assert(std::is_same_v<T, f16> || std::is_same_v<T, bf16>);
  return from_float<T>(lo).bits | static_cast<uint32_t>(from_float<T>(hi).bits) << 16;
}
template <typename T>
inline float2 unpack2(uint32_t pair) {
  static_assert(std::is_same_v<T, f16> || std::is_same_v<T, bf16>);
  return float2{to_float(T{static_cast<uint16_t>(pair)}),
                to_float(T{static_cast<uint16_t>(pair >> 16)})};
}
inline float2 unpack2_fp8(uint16_t pair) {
  return float2{simt::fp8_to_f32(static_cast<uint8_t>(pair)),
                simt::fp8_to_f32(static_cast<uint8_t>(pair >> 8))};
}
inline uint32_t widen2_fp8(uint32_t pair) {
  const float2 wide = unpack2_fp8(static_cast<uint16_t>(pair));
  return pack2<f16>(wide.x, wide.y);
}
template <typename T>
inline uint32_t add2(uint32_t a, uint32_t b) {
  // A sum of two f16 or bf16 rounds the same through f32: it has more than twice their bits.
  const float2 x = unpack2<T>(a), y = unpack2<T>(b);
  return pack2<T>(x.x + y.x, x.y + y.y);
}
inline int32_t dot4(int32_t a, int32_t b, int32_t c) {
  int8_t x[4], y[4];
  std::memcpy(x, &a, 4);
  std::memcpy(y, &b, 4);
  int32_t sum = 0;
  for (int i = 0; i < 4; ++i) sum += int32_t{x[i]} * int32_t{y[i]};
  return static_cast<int32_t>(static_cast<uint32_t>(c) + static_cast<uint32_t>(sum));
}
inline uint32_t permute_bytes(uint32_t lo, uint32_t hi, uint32_t selector) {
  return simt::permute(lo, hi, selector);
}
inline int32_t min(int32_t a, int32_t b) { return b < a ? b : a; }
inline int64_t min(int64_t a, int64_t b) { return b < a ? b : a; }
inline uint32_t min(uint32_t a, uint32_t b) { return b < a ? b : a; }
inline uint64_t min(uint64_t a, uint64_t b) { return b < a ? b : a; }
inline int32_t max(int32_t a, int32_t b) { return a < b ? b : a; }
inline int64_t max(int64_t a, int64_t b) { return a < b ? b : a; }
inline uint32_t max(uint32_t a, uint32_t b) { return a < b ? b : a; }
inline uint64_t max(uint64_t a, uint64_t b) { return a < b ? b : a; }
inline float exp2_fast(float x) { return simt::exp2_flushed(x); }
inline float reciprocal_fast(float x) { return simt::reciprocal_flushed(x); }
inline float rsqrt_fast(float x) { return 1.0f / std::sqrt(x); }

}  // namespace longhaul::device
