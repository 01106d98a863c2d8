// SampleLists: rows to sample as the kernel reads them (kernels/sample.h), with the lists that
// penalties, biases and bans bring.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "sample.h"

namespace longhaul::cuda {

class SampleLists {
 public:
  // Memory that a step of up to `num_rows` rows, `slab_rows` at a time, takes of the upload at most,
  // its logits' row numbers included.
  static int64_t step_bytes(int32_t num_rows, int32_t slab_rows);

  void begin_step();
  // Empties the lists, for the next launch of the step.
  void clear();
  // False: the kernel does not serve this row, or its lists have no room; then nothing was added.
  bool add(const SampleRow& row);

  int32_t num_rows() const { return static_cast<int32_t>(rows_.size()); }
  bool any_top() const { return any_top_; }
  int64_t bytes() const;
  void encode(std::byte* to) const;
  // Rows, lists and stages; `device` is where the encoded bytes lie.
  void fill(const std::byte* device, device::SampleParams* params) const;

 private:
  void add_biases(const SamplingParams& params);

  std::vector<device::SampleRowInput> rows_;
  std::vector<device::TokenBias> biases_;
  std::vector<device::TokenCount> counts_;
  std::vector<int32_t> ids_;
  int64_t list_bytes_left_ = 0;   // of the step
  uint32_t stages_ = 0;
  bool any_top_ = false;
};

}  // namespace longhaul::cuda
