// One row of logits as the sampling kernels see it: its chunks, edits, distances and weights.
#pragma once

#include "device.cuh"
#include "float_bits.cuh"
#include "sample_block.cuh"
#include "sample_layout.h"

namespace longhaul::device {

constexpr float kMinusInfinity = -INFINITY;

// Orders floats as unsigned integers. -0 counts as 0, and NaN as infinity: a row that holds one has
// no token either way.
__device__ __forceinline__ uint32_t order_key(float x) {
  const uint32_t bits = float_bits(x == x ? x + 0.0f : INFINITY);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float key_float(uint32_t key) {
  return bits_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

__device__ __forceinline__ int32_t distance_bin(float distance) {
  const float bin = fminf(distance, 100.0f) * SampleConfig::kBinsPerUnit;
  const int32_t whole = static_cast<int32_t>(bin);
  return whole < SampleConfig::kBins - 1 ? whole : SampleConfig::kBins - 1;
}

// exp(-distance) in weight units.
__device__ __forceinline__ uint64_t weight_of(float distance) {
  return static_cast<uint64_t>(expf(-distance) * SampleConfig::kWeightUnit);
}

// The integer that is a share of a weight, rounded up, at least 1.
__device__ __forceinline__ uint64_t share_of(float share, uint64_t weight) {
  const double wanted = static_cast<double>(share) * static_cast<double>(weight);
  const uint64_t whole = static_cast<uint64_t>(wanted);
  const uint64_t least = static_cast<double>(whole) < wanted ? whole + 1 : whole;
  return least > 0 ? least : 1;
}

// What a row's tokens are ordered by: more likely is less, equal ones go by id.
__device__ __forceinline__ uint64_t item_of(uint32_t key, int32_t id) {
  return uint64_t{key} << 32 | static_cast<uint32_t>(id);
}
__device__ __forceinline__ int32_t item_id(uint64_t item) { return static_cast<int32_t>(item); }
__device__ __forceinline__ float item_distance(uint64_t item) {
  return bits_float(static_cast<uint32_t>(item >> 32));
}

// A chunk's logits in registers: thread t holds elements 1024 j + 4 t + i of it in x[4 j + i],
// those beyond the vocabulary as -infinity.
struct ChunkLogits {
  float x[SampleConfig::kElements];
};
__device__ __forceinline__ int32_t element_id(int32_t chunk, int element) {
  return chunk * SampleConfig::kChunk + element / 4 * (4 * SampleConfig::kThreads) +
         4 * thread_index() + element % 4;
}

struct SampleRow {
  const SampleLaunch& launch;
  const SampleParams& params;
  const SampleRowInput& input;
  int32_t row;
  const float* logits;      // [vocab_size]
  std::byte* scratch;
  SampleState* state;
  SampleShared shared;

  __device__ __forceinline__ explicit SampleRow(const SampleLaunch& from)
      : launch(from),
        params(from.params),
        input(from.params.rows[blockIdx.y]),
        row(static_cast<int32_t>(blockIdx.y)),
        logits(from.params.logits + input.logits_row * from.params.logits_stride),
        scratch(static_cast<std::byte*>(from.params.scratch) + row * from.row_bytes),
        state(reinterpret_cast<SampleState*>(scratch)),
        shared{dynamic_shared<std::byte>()} {}

  template <typename T>
  __device__ __forceinline__ T* at(int64_t offset) const {
    return reinterpret_cast<T*>(scratch + offset);
  }
  __device__ __forceinline__ SampleChunk* chunks() const {
    return at<SampleChunk>(SampleLayout::kChunks);
  }

  __device__ __forceinline__ bool is_lookup() const { return input.known_token >= 0; }
  __device__ __forceinline__ bool is_greedy() const { return input.temperature < 1e-5f; }
  __device__ __forceinline__ bool wants_logprob() const {
    return input.wants_logprob != 0 || input.num_top > 0;
  }
  __device__ __forceinline__ bool has_edits() const {
    return !is_lookup() &&
           (input.num_biases > 0 || input.num_bans > 0 || input.num_prompt > 0 ||
            input.num_output > 0);
  }

  // A logit's distance is (max - logit) * scale; what is farther than the limit is no candidate.
  __device__ __forceinline__ float scale() const { return 1.0f / input.temperature; }
  __device__ __forceinline__ float distance_limit() const {
    const float wanted = input.min_p > 0 ? -logf(input.min_p) : SampleConfig::kDistanceMax;
    return fmaxf(0.0f, fminf(wanted, SampleConfig::kDistanceMax));
  }

  __device__ __forceinline__ ChunkLogits load_chunk(int32_t chunk) const {
    ChunkLogits logits_of;
#pragma unroll
    for (int j = 0; j < SampleConfig::kVectors; ++j) {
      const int32_t id = element_id(chunk, 4 * j);
      float4 v{kMinusInfinity, kMinusInfinity, kMinusInfinity, kMinusInfinity};
      if (launch.vectors && id + 3 < params.vocab_size) {
        v = load_cached(reinterpret_cast<const float4*>(logits + id));
      } else {
        if (id < params.vocab_size) v.x = load_cached(logits + id);
        if (id + 1 < params.vocab_size) v.y = load_cached(logits + id + 1);
        if (id + 2 < params.vocab_size) v.z = load_cached(logits + id + 2);
        if (id + 3 < params.vocab_size) v.w = load_cached(logits + id + 3);
      }
      logits_of.x[4 * j] = v.x;
      logits_of.x[4 * j + 1] = v.y;
      logits_of.x[4 * j + 2] = v.z;
      logits_of.x[4 * j + 3] = v.w;
    }
    return logits_of;
  }

  // Bias, bans, penalties, in the order and with the roundings of the CPU's sampler. Every block
  // goes through the whole lists and keeps to its own chunk: they are short beside a row, and
  // nothing needs to be undone.
  __device__ __forceinline__ void apply_edits(int32_t chunk, ChunkLogits& chunk_logits) const {
    const Shared<float> staged = shared.staged();
    const Shared<uint32_t> generated = shared.generated(), banned = shared.banned();
    const int32_t first = chunk * SampleConfig::kChunk;
    const auto inside = [&](int32_t id) {
      return id >= first && id < first + SampleConfig::kChunk && id < params.vocab_size;
    };
    const auto repeat = [&](float x) {
      return x > 0 ? x / input.repetition_penalty : x * input.repetition_penalty;
    };
    block_sync();  // staged logits of the previous use have been read
#pragma unroll
    for (int j = 0; j < SampleConfig::kVectors; ++j) {
      const float* x = chunk_logits.x + 4 * j;
      shared_cast<float4>(staged)[j * SampleConfig::kThreads + thread_index()] =
          float4{x[0], x[1], x[2], x[3]};
    }
    if (thread_index() < SampleConfig::kChunk / 32) {
      generated[thread_index()] = 0;
      banned[thread_index()] = 0;
    }
    block_sync();  // the chunk is staged before any thread edits an element
    for (int32_t i = thread_index(); i < input.num_biases; i += SampleConfig::kThreads) {
      const TokenBias bias = params.biases[input.bias_begin + i];
      if (inside(bias.token_id)) staged[bias.token_id - first] += bias.bias;
    }
    for (int32_t i = thread_index(); i < input.num_output; i += SampleConfig::kThreads) {
      const int32_t id = params.counts[input.output_begin + i].token_id;
      if (inside(id)) shared_atomic_or(generated + (id - first) / 32, 1u << (id - first) % 32);
    }
    for (int32_t i = thread_index(); i < input.num_bans; i += SampleConfig::kThreads) {
      const int32_t id = params.ids[input.ban_begin + i];
      if (inside(id)) shared_atomic_or(banned + (id - first) / 32, 1u << (id - first) % 32);
    }
    block_sync();  // biases are added and marks complete before penalties are taken
    if (input.repetition_penalty != 1.0f) {
      for (int32_t i = thread_index(); i < input.num_prompt; i += SampleConfig::kThreads) {
        const int32_t id = params.ids[input.prompt_begin + i];
        if (!inside(id)) continue;
        const uint32_t marks = generated[(id - first) / 32];
        if (marks >> (id - first) % 32 & 1u) continue;
        const float x = staged[id - first];
        staged[id - first] = repeat(x);
      }
    }
    for (int32_t i = thread_index(); i < input.num_output; i += SampleConfig::kThreads) {
      const TokenCount token = params.counts[input.output_begin + i];
      if (!inside(token.token_id)) continue;
      float x = staged[token.token_id - first];
      if (input.repetition_penalty != 1.0f) x = repeat(x);
      // In double the product is exact, so that it is rounded before it is subtracted, not fused.
      x -= static_cast<float>(static_cast<double>(token.count) *
                              static_cast<double>(input.frequency_penalty));
      x -= input.presence_penalty;
      staged[token.token_id - first] = x;
    }
    block_sync();  // all edits are done
#pragma unroll
    for (int i = 0; i < SampleConfig::kElements; ++i) {
      chunk_logits.x[i] = edited_logit(element_id(0, i));
    }
  }

  // Of an element of the chunk edited last. Bans come after everything else here: penalties leave
  // -infinity as it is.
  __device__ __forceinline__ float edited_logit(int32_t element) const {
    const uint32_t marks = shared.banned()[element / 32];
    return marks >> element % 32 & 1u ? kMinusInfinity : shared.staged()[element];
  }

  __device__ __forceinline__ ChunkLogits load_edited(int32_t chunk) const {
    ChunkLogits chunk_logits = load_chunk(chunk);
    if (has_edits()) apply_edits(chunk, chunk_logits);
    return chunk_logits;
  }

  // The row's token is known. By one thread.
  __device__ __forceinline__ void choose(int32_t token) const {
    state->token = token;
    params.results[row].token_id = token;
    if (!is_lookup() && input.slot >= 0) params.last_tokens[input.slot] = token;
  }
};

}  // namespace longhaul::device
