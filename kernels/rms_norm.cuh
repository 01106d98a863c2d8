// Norms of rows (rms_norm.h).
//
// Cost: each kernel reads and writes every operand once. rms_norm moves 4 + w bytes an element
// (w = 4, 2 or 1.25 of the output form), add_norm 12 + w. Prefill, 2048 x 4096: 50 MB to f16 =
// 17 us at 3 TB/s, add_norm 117 MB = 39 us. Decode, 1 x 4096: one block, latency alone: one round
// of loads (0.8 us), two barriers, launch: about 3 us.
// sm_90a: 46 (rms_norm), 39 to 50 (add_norm), 24 to 31 (convert_rows) registers, 256 bytes of
// shared memory: 1024 threads a multiprocessor with 32 bytes in flight each, twice the 16 KiB that
// hide 0.6 us of latency at 3.35 TB/s over 132 multiprocessors.
#pragma once

#include "block_reduce.cuh"
#include "device.cuh"
#include "rms_norm.h"
#include "row_output.cuh"

namespace longhaul::device {

struct RmsNormConfig {
  // Vectors of four columns that a thread keeps in registers between its two passes; longer rows
  // read the rest again (from L1). 4 x 1024 threads x 4 columns = 16384 columns without that.
  static constexpr int kHeld = 4;
  static constexpr int kThreadsMax = 1024;
  // Two vectors a thread: enough loads in flight for long batches, few rounds for a single row.
  static constexpr int kVectorsPerThread = 2;
  static constexpr uint32_t kSharedBytes = 2 * 32 * sizeof(float);  // partials of two sums
};

__device__ __forceinline__ float square_sum(const float4& v) {
  return fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, v.x * v.x)));
}
__device__ __forceinline__ float4 scale_columns(const float4& v, float factor,
                                                const float4& weight) {
  return float4{v.x * factor * weight.x, v.y * factor * weight.y, v.z * factor * weight.z,
                v.w * factor * weight.w};
}
__device__ __forceinline__ float inverse_rms(float squares, int32_t cols, float eps) {
  return 1.0f / sqrtf(squares / static_cast<float>(cols) + eps);
}

// The vectors of a row of n that this thread owns: the first few are held in registers, others read
// again where they are needed. Loads come first, so that all are in flight together.
struct RowVectors {
  static constexpr int kHeld = RmsNormConfig::kHeld;
  float4 held[kHeld];

  __device__ __forceinline__ void load(const float4* row, int32_t n) {
    const int32_t threads = static_cast<int32_t>(blockDim.x);
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const int32_t at = j * threads + static_cast<int32_t>(threadIdx.x);
      held[j] = at < n ? row[at] : float4{0, 0, 0, 0};
    }
  }

  // v = body(vector index, v) for every vector; `again` is the row for those that are not held.
  // Every thread of the block makes the same calls, some with an index of n and more, so that body
  // may use warp primitives.
  template <typename Body>
  __device__ __forceinline__ void for_each(const float4* again, int32_t n, int32_t padded_n,
                                           const Body& body) {
    const int32_t threads = static_cast<int32_t>(blockDim.x);
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      if (j * threads < padded_n) {
        held[j] = body(j * threads + static_cast<int32_t>(threadIdx.x), held[j]);
      }
    }
    for (int32_t first = kHeld * threads; first < padded_n; first += threads) {
      const int32_t at = first + static_cast<int32_t>(threadIdx.x);
      body(at, at < n ? again[at] : float4{0, 0, 0, 0});
    }
  }
};

template <InputForm kForm>
__global__ void __launch_bounds__(RmsNormConfig::kThreadsMax)
    rms_norm_kernel(const __grid_constant__ RmsNormParams p) {
  // One block owns one row; thread t the vectors t, t + threads, .. of four columns.
  const Shared<float> partials = dynamic_shared<float>();
  const int64_t row = blockIdx.x;
  const int64_t source = p.row_indices ? p.row_indices[row] : row;
  const float4* x = reinterpret_cast<const float4*>(p.x + source * p.x_stride);
  const float4* weight = reinterpret_cast<const float4*>(p.weight);
  const int32_t n = p.cols / 4;

  RowVectors vectors;
  vectors.load(x, n);
  float squares = 0;
  vectors.for_each(x, n, n, [&](int32_t, const float4& v) {
    squares += square_sum(v);
    return v;
  });
  const float inverse = inverse_rms(block_sum(squares, partials), p.cols, p.eps);
  vectors.for_each(x, n, output_vectors<kForm>(p.cols), [&](int32_t at, float4 v) {
    if (at < n) v = scale_columns(v, inverse, load_cached(weight + at));
    store_columns<kForm>(p.out, row, at * 4, p.cols, v);
    return v;
  });
}

// kPost: y is normalized before it is added. kNext: a norm of the new x follows.
template <InputForm kForm, bool kPost, bool kNext>
__global__ void __launch_bounds__(RmsNormConfig::kThreadsMax)
    add_norm_kernel(const __grid_constant__ AddNormParams p) {
  // One block owns one row; thread t the vectors t, t + threads, .. of four columns.
  const Shared<float> partials = dynamic_shared<float>();
  const int64_t row = blockIdx.x;
  float4* x = reinterpret_cast<float4*>(p.x + row * p.x_stride);
  const float4* y = reinterpret_cast<const float4*>(p.y + row * p.y_stride);
  const float4* post_weight = reinterpret_cast<const float4*>(p.post_weight);
  const float4* weight = reinterpret_cast<const float4*>(p.weight);
  const int32_t n = p.cols / 4;

  RowVectors vectors;  // of y, then of the new x
  vectors.load(y, n);
  float post_inverse = 1.0f;
  if constexpr (kPost) {
    float squares = 0;
    vectors.for_each(y, n, n, [&](int32_t, const float4& v) {
      squares += square_sum(v);
      return v;
    });
    post_inverse = inverse_rms(block_sum(squares, partials), p.cols, p.post_eps);
  }

  float squares = 0;
  vectors.for_each(y, n, n, [&](int32_t at, float4 v) {
    if (at >= n) return v;
    if constexpr (kPost) v = scale_columns(v, post_inverse, load_cached(post_weight + at));
    const float4 old = x[at];
    const float4 sum{old.x + v.x, old.y + v.y, old.z + v.z, old.w + v.w};
    x[at] = sum;
    squares += square_sum(sum);
    return sum;
  });
  if constexpr (kNext) {
    // The second half of the partials: warps may still be reading the first. Vectors that are not
    // held are read back by the thread that wrote them.
    const float inverse = inverse_rms(block_sum(squares, partials + 32), p.cols, p.eps);
    vectors.for_each(x, n, output_vectors<kForm>(p.cols), [&](int32_t at, float4 v) {
      if (at < n) v = scale_columns(v, inverse, load_cached(weight + at));
      store_columns<kForm>(p.out, row, at * 4, p.cols, v);
      return v;
    });
  }
}

struct ConvertRowsConfig {
  static constexpr int kThreads = 256;  // eight warps; a thread converts one vector of a row
};

template <InputForm kForm>
__global__ void __launch_bounds__(ConvertRowsConfig::kThreads)
    convert_rows_kernel(const __grid_constant__ ConvertRowsParams p) {
  // Block (i, j) owns columns from i * 4 * threads of rows j, j + gridDim.y, ..; a thread four.
  const int32_t col =
      4 * static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  const bool inside = col < p.cols;
  for (int64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
    const float* x = p.x + row * p.x_stride + col;
    const float4 v = inside ? *reinterpret_cast<const float4*>(x) : float4{0, 0, 0, 0};
    store_columns<kForm>(p.out, row, col, p.cols, v);
  }
}

}  // namespace longhaul::device
