// attention_combine: output rows from partials.
//
// Cost: reads (head_dim + 2) * 4 bytes a partial once. A decode step of one sequence over 32K keys on
// an H100 leaves about 50 partials for each of 32 heads (0.9 MB) : nothing beside K and V, so what
// counts is latency. A row with many partials is shared by the four warps of a block, each with four
// independent loads under way; rows with few take a warp each. Expected 3 to 5 us, launch included.
#pragma once

#include "attention_tile.cuh"

namespace longhaul::device {

template <int kVectors_>
struct CombineConfig {
  static constexpr int kVectors = kVectors_;   // float4s a lane: head_dim up to 128 kVectors
  static constexpr int kWarps = kAttentionMergeRows;
  static constexpr int kThreads = kWarps * 32;
  // A warp's sum: m, l (and room to keep rows of float4s aligned), then o.
  static constexpr int kSumFloats = 4 + 128 * kVectors;
  static constexpr int kSharedBytes = kWarps * kSumFloats * 4;
};

__device__ __forceinline__ AttentionMerge load_merge(const AttentionMerge* from) {
  static_assert(sizeof(AttentionMerge) == 3 * sizeof(int4));
  const int4* words = reinterpret_cast<const int4*>(from);
  const int4 a = load_stream(words), b = load_stream(words + 1), c = load_stream(words + 2);
  AttentionMerge merge;
  merge.first_row = a.x;
  merge.packed_begin = a.y;
  merge.packed_count = a.z;
  merge.kv_head = a.w;
  merge.first[0] = b.x;
  merge.first[1] = b.y;
  merge.count[0] = b.z;
  merge.count[1] = b.w;
  merge.stride[0] = c.x;
  merge.stride[1] = c.y;
  return merge;
}

// A row's sum so far; all lanes of a warp agree on m and l, lane i holds channels 4 i + 128 v.
template <typename Config>
struct RowSum {
  float m = -INFINITY, l = 0;
  float4 o[Config::kVectors] = {};

  __device__ __forceinline__ void scale(float factor) {
    l *= factor;
#pragma unroll
    for (int v = 0; v < Config::kVectors; ++v) {
      o[v].x *= factor;
      o[v].y *= factor;
      o[v].z *= factor;
      o[v].w *= factor;
    }
  }
  __device__ __forceinline__ void add(int v, float weight, float4 x) {
    o[v].x += weight * x.x;
    o[v].y += weight * x.y;
    o[v].z += weight * x.z;
    o[v].w += weight * x.w;
  }

  // Partials begin, begin + step, ... of the row's `count`; 32 at a time, a lane each for m and l.
  __device__ __forceinline__ void add_partials(const AttentionParams& p, const AttentionMerge& merge,
                                               int32_t row, int32_t begin, int32_t step) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int32_t count = merge.count[0] + merge.count[1];
    for (int32_t base = begin; base < count; base += 32 * step) {
      const int32_t mine = base + lane * step;
      int32_t partial = 0;
      float2 ml{-INFINITY, 0};
      if (mine < count) {
        const bool is_other = mine >= merge.count[0];
        const int32_t k = is_other ? mine - merge.count[0] : mine;
        partial = (is_other ? merge.first[1] + k * merge.stride[1]
                            : merge.first[0] + k * merge.stride[0]) + row;
        ml = load_stream(reinterpret_cast<const float2*>(p.partial_ml + int64_t{partial} * 2));
      }
      const float max = fmaxf(m, warp_max(ml.x));
      const float base_of_all = softmax_base(max);
      scale(exp2_fast(m - base_of_all));
      m = max;
      const float weight = exp2_fast(ml.x - base_of_all);
      l += warp_sum(weight * ml.y);
      const int32_t left = (count - base + step - 1) / step;
      const int32_t num = left < 32 ? left : 32;
      // Four rows of partials at once: their loads do not wait for each other.
      for (int32_t i = 0; i < num; i += 4) {
        float4 x[4][Config::kVectors];
        float weights[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          weights[k] = warp_shuffle(weight, i + k);   // lanes beyond `num` have weight 0
          const int32_t from = warp_shuffle(partial, i + k);
#pragma unroll
          for (int v = 0; v < Config::kVectors; ++v) {
            const int32_t channel = 128 * v + 4 * lane;
            x[k][v] = float4{0, 0, 0, 0};
            if (i + k < num && channel < p.cache.head_dim) {
              x[k][v] = load_stream(reinterpret_cast<const float4*>(
                  p.partial_o + int64_t{from} * p.cache.head_dim + channel));
            }
          }
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
          for (int v = 0; v < Config::kVectors; ++v) add(v, weights[k], x[k][v]);
        }
      }
    }
  }

  __device__ __forceinline__ void store(const AttentionParams& p, const AttentionMerge& merge,
                                        int32_t row) const {
    const float inverse = l == 0.0f ? 0.0f : reciprocal_fast(l);   // no key at all: zeros
#pragma unroll
    for (int v = 0; v < Config::kVectors; ++v) {
      const int32_t channel = 128 * v + 4 * static_cast<int32_t>(threadIdx.x % 32);
      if (channel >= p.cache.head_dim) continue;
      store_output(p.out,
                   output_index(p, merge.first_row, merge.kv_head, merge.packed_begin + row, channel),
                   float4{o[v].x * inverse, o[v].y * inverse, o[v].z * inverse, o[v].w * inverse});
    }
  }
};

// The four warps' sums of one row, in ascending order of warps, stored by the first.
template <typename Config>
__device__ __forceinline__ void store_shared_row(const RowSum<Config>& sum, const AttentionParams& p,
                                                 const AttentionMerge& merge) {
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const Shared<float> shared = dynamic_shared<float>();
  const Shared<float> mine = shared + warp * Config::kSumFloats;
  if (lane == 0) shared_cast<float2>(mine)[0] = float2{sum.m, sum.l};
#pragma unroll
  for (int v = 0; v < Config::kVectors; ++v) {
    shared_cast<float4>(mine + 4)[32 * v + lane] = sum.o[v];
  }
  // All four sums are written before the first warp reads them.
  block_sync();
  if (warp == 0) {
    RowSum<Config> row;
#pragma unroll
    for (int w = 0; w < Config::kWarps; ++w) {
      const float2 ml = shared_cast<float2>(shared + w * Config::kSumFloats)[0];
      row.m = fmaxf(row.m, ml.x);
    }
    const float base = softmax_base(row.m);
#pragma unroll
    for (int w = 0; w < Config::kWarps; ++w) {
      const Shared<float> from = shared + w * Config::kSumFloats;
      const float2 ml = shared_cast<float2>(from)[0];
      const float weight = exp2_fast(ml.x - base);
      row.l += weight * ml.y;
#pragma unroll
      for (int v = 0; v < Config::kVectors; ++v) {
        const float4 x = shared_cast<float4>(from + 4)[32 * v + lane];
        row.add(v, weight, x);
      }
    }
    row.store(p, merge, 0);
  }
  // The sums are read before the next merge overwrites them.
  block_sync();
}

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, kCombineBlocks)
    attention_combine_kernel(const __grid_constant__ AttentionParams p) {
  // Block: merges blockIdx.x, blockIdx.x + gridDim.x, ... Warp: a row, or a quarter of the only row's
  // partials. Lane: four channels of every 128.
  const int32_t warp = static_cast<int32_t>(threadIdx.x / 32);
  const int32_t num_merges = load_cached(p.lists.num_merges);
  for (int32_t i = static_cast<int32_t>(blockIdx.x); i < num_merges;
       i += static_cast<int32_t>(gridDim.x)) {
    const AttentionMerge merge = load_merge(p.lists.merges + i);
    RowSum<Config> sum;
    if (merge.packed_count == 1) {
      sum.add_partials(p, merge, 0, warp, Config::kWarps);
      store_shared_row(sum, p, merge);
    } else if (warp < merge.packed_count) {
      sum.add_partials(p, merge, warp, 0, 1);
      sum.store(p, merge, warp);
    }
  }
}

}  // namespace longhaul::device
