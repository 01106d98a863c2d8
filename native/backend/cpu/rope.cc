#include "backend/cpu/rope.h"

#include <algorithm>
#include <cmath>

namespace longhaul::cpu {

CpuRopeTable::CpuRopeTable(const RopeConfig& config)
    : style_(config.style),
      half_dim_(config.dim / 2),
      inv_freq_(config.inv_freq),
      factor_(config.attention_factor) {}

void CpuRopeTable::prepare(const int32_t* positions, int32_t num_tokens, ThreadPool& pool) const {
  const auto count = static_cast<size_t>(num_tokens);
  if (positions_.size() == count && std::equal(positions_.begin(), positions_.end(), positions)) {
    return;
  }
  positions_.assign(positions, positions + count);
  const size_t floats = count * static_cast<size_t>(half_dim_);
  if (cos_.size() < floats) {
    cos_.resize(floats);
    sin_.resize(floats);
  }
  // A sine and a cosine take some 50 ns; waking workers takes microseconds.
  if (floats < 512) {
    for (int32_t row = 0; row < num_tokens; ++row) fill_row(row);
  } else {
    pool.for_static(num_tokens, [&](int64_t row, int) { fill_row(static_cast<int32_t>(row)); });
  }
}

void CpuRopeTable::fill_row(int32_t row) const {
  const double position = positions_[static_cast<size_t>(row)];
  float* cos = cos_.data() + int64_t{row} * half_dim_;
  float* sin = sin_.data() + int64_t{row} * half_dim_;
  for (int32_t i = 0; i < half_dim_; ++i) {
    const double angle = position * double{inv_freq_[static_cast<size_t>(i)]};
    cos[i] = static_cast<float>(std::cos(angle) * factor_);
    sin[i] = static_cast<float>(std::sin(angle) * factor_);
  }
}

}  // namespace longhaul::cpu
