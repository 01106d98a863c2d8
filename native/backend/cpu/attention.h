// Attention of one layer over a step's work list: chooses kernels, spreads (item, kv head) units
// over the workers, and merges what was split. The arithmetic is in attention_kernels.h.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/attention_work.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/kv_store.h"
#include "backend/cpu/thread_pool.h"

namespace longhaul::cpu {

struct AttentionLayerParams {
  const AttentionWork* work = nullptr;
  const float* q = nullptr;         // [step rows, num_heads * head_dim], row stride q_stride
  int64_t q_stride = 0;             // elements
  float* out = nullptr;             // [step rows, num_heads * head_dim]
  int64_t out_stride = 0;
  int32_t num_heads = 0;            // multiple of the store's num_kv_heads
  float scale = 0;
  float softcap = 0;                // 0 = none
  int32_t layer_in_block = 0;
};

// Buffers of attention; they grow to the largest step and stay. Not for concurrent calls.
class AttentionScratch {
 public:
  // Partials of split rows: num_partials * num_heads * (head_dim + 2) floats.
  float* partials(int64_t floats) { return grow(partials_, floats); }
  // One buffer a worker.
  float* worker(int worker, int64_t floats) {
    return grow(workers_[static_cast<size_t>(worker)], floats);
  }
  void set_workers(int count) {
    if (workers_.size() < static_cast<size_t>(count)) workers_.resize(static_cast<size_t>(count));
  }

 private:
  static float* grow(std::vector<float>& buffer, int64_t floats) {
    if (buffer.size() < static_cast<size_t>(floats)) buffer.resize(static_cast<size_t>(floats));
    return buffer.data();
  }
  std::vector<float> partials_;
  std::vector<std::vector<float>> workers_;
};

// Every key a row of the work may see must be in the store. Rows without an item stay untouched.
void attention_layer(const AttentionLayerParams& params, const KvStore& store, Isa isa,
                     AttentionScratch& scratch, ThreadPool& pool);

}  // namespace longhaul::cpu
