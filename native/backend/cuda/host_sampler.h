// HostSampler: rows that the sampling kernel does not serve (more top tokens than it keeps, lists
// that have no room), drawn by sample_row() from logits brought to the host. The one thing that makes
// a step wait inside; requests that ask for whole distributions are rare.
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "backend/cuda/device_runtime.h"
#include "status.h"

namespace longhaul::cuda {

class HostSampler {
 public:
  HostSampler(DeviceRuntime& runtime, Stream compute) : runtime_(runtime), compute_(compute) {}
  ~HostSampler();
  HostSampler(const HostSampler&) = delete;
  HostSampler& operator=(const HostSampler&) = delete;

  Status open(int32_t vocab_size, int32_t rows_max);

  // Outputs are written when this returns; drawn tokens go to last_tokens [num_slots] on the device.
  Status sample(const float* logits, std::span<SampleRow> rows, int32_t* last_tokens);

 private:
  DeviceRuntime& runtime_;
  Stream compute_;
  int32_t vocab_size_ = 0;
  int32_t rows_max_ = 0;
  float* logits_ = nullptr;      // [rows_max, vocab_size] page-locked
  int32_t* tokens_ = nullptr;    // [rows_max] page-locked
};

}  // namespace longhaul::cuda
