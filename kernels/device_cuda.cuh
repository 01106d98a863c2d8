// The primitives of device.cuh in CUDA. PTX section numbers are those of PTX ISA 9.0.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "element_types.h"

namespace longhaul::device {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
inline constexpr bool kHasBulkCopy = true;
#else
inline constexpr bool kHasBulkCopy = false;
#endif

// ---- shared memory

template <typename T>
using Shared = T*;

template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char longhaul_shared[];
  return reinterpret_cast<T*>(longhaul_shared);
}

template <typename U, typename T>
__device__ __forceinline__ U* shared_cast(T* pointer) {
  return reinterpret_cast<U*>(pointer);
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

template <typename T>
__device__ __forceinline__ T shared_atomic_add(T* pointer, T value) {
  return atomicAdd(pointer, value);
}
template <typename T>
__device__ __forceinline__ T shared_atomic_max(T* pointer, T value) {
  return atomicMax(pointer, value);
}
template <typename T>
__device__ __forceinline__ T shared_atomic_or(T* pointer, T value) {
  return atomicOr(pointer, value);
}

// ---- global memory

namespace detail {
template <int Bytes>
struct Word;
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};
template <typename To, typename From>
__device__ __forceinline__ To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}
}  // namespace detail

template <typename T>
__device__ __forceinline__ T load_stream(const T* pointer) {
  using W = typename detail::Word<sizeof(T)>::type;
  W word;
  if constexpr (sizeof(T) == 16) {
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
                 : "l"(pointer));
  } else if constexpr (sizeof(T) == 8) {
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
                 : "=r"(word.x), "=r"(word.y)
                 : "l"(pointer));
  } else {
    word = __ldcs(reinterpret_cast<const W*>(pointer));
  }
  return detail::bits_as<T>(word);
}

template <typename T>
__device__ __forceinline__ T load_cached(const T* pointer) {
  using W = typename detail::Word<sizeof(T)>::type;
  return detail::bits_as<T>(__ldg(reinterpret_cast<const W*>(pointer)));
}

template <typename T>
__device__ __forceinline__ void store_stream(T* pointer, const T& value) {
  using W = typename detail::Word<sizeof(T)>::type;
  __stcs(reinterpret_cast<W*>(pointer), detail::bits_as<W>(value));
}

template <typename T>
__device__ __forceinline__ T global_atomic_add(T* pointer, T value) {
  return atomicAdd(pointer, value);
}
__device__ __forceinline__ void global_fence() { __threadfence(); }

// ---- synchronization

__device__ __forceinline__ void block_sync() { __syncthreads(); }
__device__ __forceinline__ void warp_sync() { __syncwarp(); }
__device__ __forceinline__ void barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- warp

inline constexpr uint32_t kAllLanes = 0xffffffffu;

template <typename T>
__device__ __forceinline__ T warp_shuffle(T value, int lane) {
  return __shfl_sync(kAllLanes, value, lane);
}
template <typename T>
__device__ __forceinline__ T warp_shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(kAllLanes, value, mask);
}
template <typename T>
__device__ __forceinline__ T warp_shuffle_down(T value, int distance) {
  return __shfl_down_sync(kAllLanes, value, distance);
}
template <typename T>
__device__ __forceinline__ T warp_shuffle_up(T value, int distance) {
  return __shfl_up_sync(kAllLanes, value, distance);
}
__device__ __forceinline__ uint32_t warp_ballot(bool predicate) {
  return __ballot_sync(kAllLanes, predicate);
}
__device__ __forceinline__ bool warp_any(bool predicate) {
  return __any_sync(kAllLanes, predicate) != 0;
}
__device__ __forceinline__ bool warp_all(bool predicate) {
  return __all_sync(kAllLanes, predicate) != 0;
}
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += warp_shuffle_xor(value, mask);
  return value;
}
template <typename T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const T other = warp_shuffle_xor(value, mask);
    value = value < other ? other : value;
  }
  return value;
}

// ---- asynchronous copies (9.7.9.25.3)

template <int Bytes>
__device__ __forceinline__ void copy_async(std::byte* to, const void* from, bool valid = true) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  const int source_bytes = valid ? Bytes : 0;
  if constexpr (Bytes == 16) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(source_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from),
                 "n"(Bytes), "r"(source_bytes)
                 : "memory");
  }
}
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// ---- bulk copies and mbarriers (9.7.9.25.4, 9.7.13.15)

__device__ __forceinline__ void mbarrier_init(uint64_t* bar, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(arrivals)
               : "memory");
}
__device__ __forceinline__ void mbarrier_arrive(uint64_t* bar) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%0]; }" ::"r"(
                   shared_address(bar))
               : "memory");
}
// Below sm_90 these do not exist: call them under `if constexpr (kHasBulkCopy)` only.
__device__ __forceinline__ void fence_mbarrier_init() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
  __trap();
#endif
}
__device__ __forceinline__ void mbarrier_arrive_expect(uint64_t* bar, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("{ .reg .b64 state; mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1; }" ::"r"(
                   shared_address(bar)),
               "r"(bytes)
               : "memory");
#else
  __trap();
#endif
}
__device__ __forceinline__ void mbarrier_wait(uint64_t* bar, uint32_t parity) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again_%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again_%=;\n"
      "}" ::"r"(shared_address(bar)),
      "r"(parity)
      : "memory");
#else
  __trap();
#endif
}
__device__ __forceinline__ void bulk_copy_async(std::byte* to, const void* from, uint32_t bytes,
                                                uint64_t* bar) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(bar))
      : "memory");
#else
  __trap();
#endif
}
__device__ __forceinline__ void fence_async_proxy() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  __trap();
#endif
}

// ---- matrix fragments (9.7.14)

__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], const std::byte* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrix_x4_trans(uint32_t (&r)[4], const std::byte* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrix_x2(uint32_t (&r)[2], const std::byte* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrix_x2_trans(uint32_t (&r)[2], const std::byte* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

template <typename T>
__device__ __forceinline__ void mma_16816(float (&c)[4], const uint32_t (&a)[4],
                                          const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, f16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    static_assert(std::is_same_v<T, bf16>);
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}
__device__ __forceinline__ void mma_16832_s8(int32_t (&c)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- numbers

template <typename T>
__device__ __forceinline__ T computed_here(T value) {
  static_assert(sizeof(T) == 4);
  if constexpr (std::is_same_v<T, float>) {
    asm volatile("" : "+f"(value));
  } else {
    asm volatile("" : "+r"(value));
  }
  return value;
}
__device__ __forceinline__ float to_float(f16 value) {
  return __half2float(detail::bits_as<__half>(value.bits));
}
__device__ __forceinline__ float to_float(bf16 value) {
  return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}
__device__ __forceinline__ float to_float(fp8 value) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(value.bits, __NV_E4M3)));
}
template <typename T>
__device__ __forceinline__ T from_float(float value) {
  if constexpr (std::is_same_v<T, f16>) {
    return detail::bits_as<f16>(__float2half_rn(value));
  } else if constexpr (std::is_same_v<T, bf16>) {
    return detail::bits_as<bf16>(__float2bfloat16_rn(value));
  } else {
    static_assert(std::is_same_v<T, fp8>);
    return fp8{__nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3)};
  }
}
template <typename T>
__device__ __forceinline__ uint32_t pack2(float lo, float hi) {
  if constexpr (std::is_same_v<T, f16>) {
    return detail::bits_as<uint32_t>(__floats2half2_rn(lo, hi));
  } else {
    static_assert(std::is_same_v<T, bf16>);
    return detail::bits_as<uint32_t>(__floats2bfloat162_rn(lo, hi));
  }
}
template <typename T>
__device__ __forceinline__ float2 unpack2(uint32_t pair) {
  if constexpr (std::is_same_v<T, f16>) {
    return __half22float2(detail::bits_as<__half2>(pair));
  } else {
    static_assert(std::is_same_v<T, bf16>);
    return float2{__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
  }
}
__device__ __forceinline__ float2 unpack2_fp8(uint16_t pair) {
  return __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3)));
}
// The conversion is one instruction from 8.9 on. Before: sign, exponent and mantissa moved to where
// f16 has them, which is the number times 2^-8 (biases 7 and 15; subnormals too).
__device__ __forceinline__ uint32_t widen2_fp8(uint32_t pair) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint32_t wide;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(wide) : "h"(static_cast<unsigned short>(pair)));
  return wide;
#else
  const uint32_t bytes = __byte_perm(pair, 0, 0x1404);
  const uint32_t scaled = (bytes & 0x80008000u) | ((bytes & 0x7f007f00u) >> 1);
  return detail::bits_as<uint32_t>(
      __hmul2(detail::bits_as<__half2>(scaled), __floats2half2_rn(256.0f, 256.0f)));
#endif
}
template <typename T>
__device__ __forceinline__ uint32_t add2(uint32_t a, uint32_t b) {
  if constexpr (std::is_same_v<T, f16>) {
    return detail::bits_as<uint32_t>(
        __hadd2_rn(detail::bits_as<__half2>(a), detail::bits_as<__half2>(b)));
  } else {
    static_assert(std::is_same_v<T, bf16>);
    return detail::bits_as<uint32_t>(
        __hadd2_rn(detail::bits_as<__nv_bfloat162>(a), detail::bits_as<__nv_bfloat162>(b)));
  }
}
__device__ __forceinline__ int32_t dot4(int32_t a, int32_t b, int32_t c) { return __dp4a(a, b, c); }
__device__ __forceinline__ uint32_t permute_bytes(uint32_t lo, uint32_t hi, uint32_t selector) {
  return __byte_perm(lo, hi, selector);
}
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float rsqrt_fast(float x) { return rsqrtf(x); }

}  // namespace longhaul::device
