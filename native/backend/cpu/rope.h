// CpuRopeTable: the rotations of one RopeConfig for the positions of the current step.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/thread_pool.h"
#include "model/model_config.h"

namespace longhaul::cpu {

class CpuRopeTable : public RopeTable {
 public:
  explicit CpuRopeTable(const RopeConfig& config);

  RopeStyle style() const { return style_; }
  int32_t half_dim() const { return half_dim_; }

  // Makes cos() and sin() hold rows 0 .. num_tokens - 1 for these positions. All layers of a step
  // ask for the same positions, so only the first one computes. Angles are position * inv_freq in
  // double: the product of 31 and 24 bits is exact below 2^29 positions, and a million positions
  // keep full float accuracy.
  void prepare(const int32_t* positions, int32_t num_tokens, ThreadPool& pool) const;
  const float* cos(int32_t row) const { return cos_.data() + int64_t{row} * half_dim_; }
  const float* sin(int32_t row) const { return sin_.data() + int64_t{row} * half_dim_; }

 private:
  void fill_row(int32_t row) const;

  RopeStyle style_;
  int32_t half_dim_;
  std::vector<float> inv_freq_;
  float factor_;                            // attention_factor
  // A cache: ops see the table as const.
  mutable std::vector<int32_t> positions_;  // of the rows held
  mutable std::vector<float> cos_, sin_;    // [rows held, half_dim]
};

}  // namespace longhaul::cpu
