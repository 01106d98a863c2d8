// The weight matrices of a model by canonical names and shapes: what is stacked into one, and how
// the backend is going to use it. The decoder makes them from this list; before that, a backend
// that must plan its memory is told it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "model/model_config.h"
#include "model/weights.h"
#include "status.h"

namespace longhaul {

struct MatrixSpec {
  struct Part {
    std::string name;
    int64_t rows = 0;
    int64_t cols = 0;
  };
  std::vector<Part> parts;  // stacked by rows
  MatrixUse use = MatrixUse::kProjection;
};

// "layers.<index>.<part>".
std::string layer_tensor(size_t index, const char* part);

MatrixSpec embedding_spec(const ModelConfig& config);
MatrixSpec lm_head_spec(const ModelConfig& config);  // of models whose head is not the embedding
MatrixSpec qkv_spec(const ModelConfig& config, size_t layer);
MatrixSpec output_spec(const ModelConfig& config, size_t layer);
MatrixSpec gate_up_spec(const ModelConfig& config, size_t layer);
MatrixSpec down_spec(const ModelConfig& config, size_t layer);

// All of them, in the order in which the decoder makes them, with the types of `weights` and without
// their bytes. kModelFormat as WeightSet::require.
Result<std::vector<MatrixNeed>> matrix_needs(const ModelConfig& config, const WeightSet& weights);

}  // namespace longhaul
