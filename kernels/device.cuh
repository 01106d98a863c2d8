// device.cuh: the primitives that device code is written in. Two implementations of one list:
// device_cuda.cuh (nvcc) and test/simt/device_emulated.h (LONGHAUL_SIMT: the same .cuh files
// compiled by the host compiler, a fiber a thread). Kernels use these names, the built-in
// variables threadIdx, blockIdx, blockDim, gridDim, the vector types (uint2, uint4, float2,
// float4, int4, dim3), __global__, __device__, __forceinline__, __launch_bounds__,
// __grid_constant__ and nothing else of CUDA's. All are in namespace longhaul::device.
//
// Rules that make the emulator's word worth something:
// - Shared memory is reached through Shared<T> (never a raw pointer, never a static __shared__
//   variable): dynamic_shared<T>() is its start, shared_cast<U>() another view. An element of a
//   Shared<T> is a proxy under the emulator: name its type when reading it, never `auto`.
// - Every warp primitive is executed by all 32 lanes of the warp, converged.
// - Kernels take one params struct: `const __grid_constant__ Params p`.
//
// Shared memory
//   Shared<T>                      pointer into shared memory: p[i], *p, p + n, p - q, p += n
//   Shared<T> dynamic_shared<T>()  base of the block's dynamic shared memory, 16-byte aligned
//   shared_cast<U>(Shared<T>)      reinterpretation; alignment is the caller's promise
//   shared_atomic_add(p, v), shared_atomic_max(p, v), shared_atomic_or(p, v)    int32_t/uint32_t (add: float too)
// Global memory
//   T load_stream(const T* p)      16, 8, 4 or 2 bytes, read once: no L1 allocation
//   T load_cached(const T* p)      read-only path, likely read again
//   void store_stream(T* p, v)
//   global_atomic_add(p, v)        int32_t, uint32_t, float; returns the old value
//   global_fence()                 __threadfence: earlier writes visible to the device before later ones
// Synchronization
//   block_sync(), warp_sync()
//   barrier_sync(id, threads), barrier_arrive(id, threads)   named barriers 1..15; threads a multiple of 32
// Warp (all lanes converged)
//   warp_shuffle(v, lane), warp_shuffle_xor(v, mask), warp_shuffle_down(v, d), warp_shuffle_up(v, d)
//   warp_ballot(p), warp_any(p), warp_all(p)
//   warp_sum(v), warp_max(v)       over 32 lanes, every lane gets it; order fixed (xor 16, 8, 4, 2, 1)
// Asynchronous copies, global to shared (cp.async, PTX ISA 9.7.9.25.3)
//   copy_async<Bytes>(Shared<std::byte> to, const void* from, bool valid = true)
//                                  Bytes 4, 8 or 16; both sides aligned to it; !valid writes zeros, `from` is not read
//   copy_async_commit()            closes this thread's group
//   copy_async_wait<N>()           until at most N groups of this thread are open; others' data needs a barrier after
// Asynchronous bulk copies (cp.async.bulk + mbarrier; sm_90 and later, kHasBulkCopy)
//   mbarrier_init(Shared<uint64_t> bar, uint32_t arrivals), then fence_mbarrier_init() and block_sync()
//   mbarrier_arrive_expect(bar, bytes)   one arrival that announces bytes
//   mbarrier_arrive(bar)
//   mbarrier_wait(bar, parity)           until the phase of this parity is complete
//   bulk_copy_async(Shared<std::byte> to, const void* from, uint32_t bytes, Shared<uint64_t> bar)   by one thread; multiples of 16
//   fence_async_proxy()                  ordinary shared accesses before, bulk copies after
// Matrix fragments (PTX ISA 9.7.14; lane layouts as there)
//   load_matrix_x4(uint32_t (&r)[4], Shared<const std::byte> row), load_matrix_x2
//                                  lane l gives the address of row l % 8 of matrix l / 8, 16 bytes each
//   load_matrix_x4_trans, load_matrix_x2_trans
//   mma_16816<T>(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])      T = f16, bf16; c += a b
//   mma_16832_s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])    int8, exact
// Numbers
//   float to_float(f16 | bf16 | fp8), T from_float<T>(float)     round to nearest even; fp8 saturates
//   uint32_t pack2<T>(float lo, float hi), float2 unpack2<T>(uint32_t)   T = f16, bf16
//   float2 unpack2_fp8(uint16_t)
//   uint32_t widen2_fp8(uint32_t pair)  the fp8 in bits 0..7 and 8..15 as two f16, exact; for NaN any number
//   uint32_t add2<T>(uint32_t a, uint32_t b)                      pairs of T = f16, bf16; each sum rounded to nearest
//   int32_t dot4(int32_t a, int32_t b, int32_t c)                 c + four signed 8-bit products
//   uint32_t permute_bytes(uint32_t lo, uint32_t hi, uint32_t selector)   prmt
//   float exp2_fast(float)         ex2.approx: 2 ulp, exp2_fast(-inf) = 0
//   T computed_here(T)             its argument (4 bytes); what is computed from it is not moved out of a
//                                  loop: a few instructions each time instead of registers held throughout
//   min(a, b), max(a, b)                                         int32_t, uint32_t, int64_t, uint64_t
//   float reciprocal_fast(float)   rcp.approx: 1 ulp, 0 for infinity and infinity for 0 and subnormals
//   float rsqrt_fast(float), and <cmath>'s expf, tanhf, sinf, cosf, fmaf, fabsf, fmaxf, fminf
#pragma once

#include <cstddef>
#include <cstdint>

#include "element_types.h"

#ifdef LONGHAUL_SIMT
#include "simt/device_emulated.h"
#else
#include "device_cuda.cuh"
#endif
