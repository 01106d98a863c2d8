// A model of a published shape with random weights: what the step bench runs. All matrices show the
// same bytes, so that an 8B model takes one gigabyte of the host and no time to invent.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dtype.h"
#include "model/model_config.h"
#include "model/weights.h"
#include "status.h"

namespace longhaul::bench {

struct StepModel {
  ModelConfig config;
  WeightSet weights;
  // Weights that a step reads: all but an embedding that is only looked up.
  int64_t step_bytes = 0;
  int64_t step_params = 0;

 private:
  friend Result<std::unique_ptr<StepModel>> make_step_model(const ModelConfig& config, DType dtype);
  std::vector<std::byte> matrix_bytes_;
  std::unique_ptr<std::byte[]> vector_bytes_;
};

// "llama-8b", "llama-1b", "tiny".
ModelConfig step_config(const std::string& name);
Result<std::unique_ptr<StepModel>> make_step_model(const ModelConfig& config, DType dtype);

}  // namespace longhaul::bench
