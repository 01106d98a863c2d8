#include "step_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "load/random_tensor.h"

namespace longhaul::bench {

ModelConfig step_config(const std::string& name) {
  ModelConfig config;
  config.architecture = "llama";
  int32_t layers = 2;
  if (name == "llama-8b") {
    config.vocab_size = 128256;
    config.hidden_size = 4096;
    config.intermediate_size = 14336;
    config.num_heads = 32;
    config.num_kv_heads = 8;
    config.head_dim = 128;
    layers = 32;
  } else if (name == "llama-1b") {
    config.vocab_size = 128256;
    config.hidden_size = 2048;
    config.intermediate_size = 8192;
    config.num_heads = 32;
    config.num_kv_heads = 8;
    config.head_dim = 64;
    config.tied_embeddings = true;
    layers = 16;
  } else {
    config.vocab_size = 300;
    config.hidden_size = 128;
    config.intermediate_size = 256;
    config.num_heads = 4;
    config.num_kv_heads = 2;
    config.head_dim = 64;
  }
  config.max_position = 131072;
  config.softmax_scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  RopeConfig rope;
  rope.dim = config.head_dim;
  for (int32_t i = 0; i < rope.dim / 2; ++i) {
    const float exponent = -2.0f * static_cast<float>(i) / static_cast<float>(rope.dim);
    rope.inv_freq.push_back(std::pow(500000.0f, exponent));
  }
  config.ropes = {rope};
  config.layers.resize(static_cast<size_t>(layers));
  return config;
}

Result<std::unique_ptr<StepModel>> make_step_model(const ModelConfig& config, DType dtype) {
  auto model = std::make_unique<StepModel>();
  model->config = config;
  const int64_t hidden = config.hidden_size, intermediate = config.intermediate_size;
  const int64_t q = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
  const int64_t largest = std::max({hidden * config.vocab_size, intermediate * hidden, q * hidden});

  // Blocks of a type stand for themselves: rows of any length can be cut from a run of them.
  RandomTensor request;
  request.dtype = dtype;
  request.rows = 1024;
  request.cols = hidden;
  request.seed = 1;
  LH_ASSIGN_OR_RETURN(const std::unique_ptr<std::byte[]> made, make_random_tensor(request));
  const auto made_bytes = static_cast<size_t>(request.rows * row_bytes(dtype, hidden));
  std::vector<std::byte>& bytes = model->matrix_bytes_;
  bytes.resize(static_cast<size_t>(row_bytes(dtype, largest)));
  for (size_t at = 0; at < bytes.size(); at += made_bytes) {
    std::memcpy(bytes.data() + at, made.get(), std::min(made_bytes, bytes.size() - at));
  }
  RandomTensor norm;
  norm.rows = 1;
  norm.cols = hidden;
  norm.kind = RandomKind::kNorm;
  LH_ASSIGN_OR_RETURN(model->vector_bytes_, make_random_tensor(norm));

  const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols, bool read) {
    model->weights.add({name, dtype, rows, cols, bytes.data()});
    if (!read) return;
    model->step_bytes += rows * row_bytes(dtype, cols);
    model->step_params += rows * cols;
  };
  const auto vector = [&](const std::string& name) {
    model->weights.add({name, DType::kF32, 1, hidden, model->vector_bytes_.get()});
  };
  matrix("token_embedding", config.vocab_size, hidden, config.tied_embeddings);
  if (!config.tied_embeddings) matrix("lm_head", config.vocab_size, hidden, true);
  vector("output_norm");
  for (int32_t i = 0; i < config.num_layers(); ++i) {
    const std::string prefix = "layers." + std::to_string(i) + ".";
    vector(prefix + "attention_norm");
    matrix(prefix + "q_proj", q, hidden, true);
    matrix(prefix + "k_proj", kv, hidden, true);
    matrix(prefix + "v_proj", kv, hidden, true);
    matrix(prefix + "o_proj", hidden, q, true);
    vector(prefix + "mlp_norm");
    matrix(prefix + "gate_proj", intermediate, hidden, true);
    matrix(prefix + "up_proj", intermediate, hidden, true);
    matrix(prefix + "down_proj", hidden, intermediate, true);
  }
  return model;
}

}  // namespace longhaul::bench
