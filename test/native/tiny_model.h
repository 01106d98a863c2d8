// Tiny random models of every family, made in memory.
#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "load/random_tensor.h"
#include "model/model_config.h"
#include "model/weights.h"

namespace lh_test {

struct TinyModel {
  longhaul::ModelConfig config;
  longhaul::WeightSet weights;
  std::shared_ptr<std::vector<std::unique_ptr<std::byte[]>>> owner;
};

inline longhaul::RopeConfig tiny_rope(longhaul::RopeStyle style, int32_t dim, float theta) {
  longhaul::RopeConfig rope;
  rope.style = style;
  rope.dim = dim;
  for (int32_t i = 0; i < dim / 2; ++i) {
    rope.inv_freq.push_back(std::pow(theta, -2.0f * static_cast<float>(i) / static_cast<float>(dim)));
  }
  return rope;
}

inline longhaul::ModelConfig tiny_config(const std::string& family) {
  using namespace longhaul;
  ModelConfig config;
  config.architecture = family;
  config.vocab_size = 131;  // odd on purpose
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.max_position = 2048;
  config.softmax_scale = 0.25f;
  config.ropes = {tiny_rope(family == "llama" ? RopeStyle::kInterleaved : RopeStyle::kHalf, 16, 100)};
  config.layers.resize(2);
  if (family == "llama") config.tied_embeddings = true;
  if (family == "qwen2") config.qkv_bias = true;
  if (family == "qwen3") config.qk_norm = true;
  if (family == "mistral") {
    for (LayerConfig& layer : config.layers) layer.window = 40;
  }
  if (family == "gemma3") {
    config.head_dim = 32;
    config.softmax_scale = 0.2f;
    config.embedding_scale = 8;
    config.logit_softcap = 10;
    config.attention_softcap = 5;
    config.activation = Activation::kGeluTanh;
    config.qk_norm = config.post_norms = config.tied_embeddings = true;
    config.norm_weight_offset = 1;
    config.ropes = {tiny_rope(RopeStyle::kHalf, 32, 50), tiny_rope(RopeStyle::kHalf, 32, 1000)};
    config.ropes[1].attention_factor = 1.1f;
    config.layers = {{40, 0}, {40, 0}, {0, 1}, {40, 0}};
  }
  return config;
}

// The types a model's matrices are stored in, by canonical name.
using TinyTypes = std::function<longhaul::DType(const std::string& name)>;

// Random weights for a config. Vectors are F32 but for biases of keys and values.
inline TinyModel tiny_model(const longhaul::ModelConfig& config, const TinyTypes& type_of) {
  using namespace longhaul;
  TinyModel model;
  model.config = config;
  model.owner = std::make_shared<std::vector<std::unique_ptr<std::byte[]>>>();
  const std::string& family = config.architecture;
  uint64_t seed = 1000 * static_cast<uint64_t>(family[0]) + static_cast<uint64_t>(family.back());
  const auto add = [&](const std::string& name, int64_t rows, int64_t cols, DType dtype) {
    RandomTensor request;
    request.dtype = dtype;
    request.rows = rows;
    request.cols = cols;
    request.seed = ++seed;
    request.kind = random_kind_of(name.c_str());
    request.norm_offset = -config.norm_weight_offset;
    model.owner->push_back(std::move(make_random_tensor(request).value()));
    model.weights.add({name, dtype, rows, cols, model.owner->back().get()});
  };
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) {
    add(name, rows, cols, type_of(name));
  };
  const auto vector = [&](const std::string& name, int64_t size, DType dtype = DType::kF32) {
    add(name, 1, size, dtype);
  };
  const int64_t hidden = config.hidden_size, intermediate = config.intermediate_size;
  const int64_t q = config.num_heads * config.head_dim, kv = config.num_kv_heads * config.head_dim;
  matrix("token_embedding", config.vocab_size, hidden);
  vector("output_norm", hidden);
  if (!config.tied_embeddings) matrix("lm_head", config.vocab_size, hidden);
  for (int32_t i = 0; i < config.num_layers(); ++i) {
    const std::string prefix = "layers." + std::to_string(i) + ".";
    vector(prefix + "attention_norm", hidden);
    matrix(prefix + "q_proj", q, hidden);
    matrix(prefix + "k_proj", kv, hidden);
    matrix(prefix + "v_proj", kv, hidden);
    matrix(prefix + "o_proj", hidden, q);
    vector(prefix + "mlp_norm", hidden);
    matrix(prefix + "gate_proj", intermediate, hidden);
    matrix(prefix + "up_proj", intermediate, hidden);
    matrix(prefix + "down_proj", hidden, intermediate);
    if (config.qkv_bias) {
      vector(prefix + "q_bias", q);
      vector(prefix + "k_bias", kv, DType::kBF16);
      vector(prefix + "v_bias", kv, DType::kF16);
    }
    if (config.qk_norm) {
      vector(prefix + "q_norm", config.head_dim);
      vector(prefix + "k_norm", config.head_dim);
    }
    if (config.post_norms) {
      vector(prefix + "post_attention_norm", hidden);
      vector(prefix + "post_mlp_norm", hidden);
    }
  }
  return model;
}

// Dense types, mixed: stacked parts of one projection may differ in type.
inline longhaul::DType mixed_type(const std::string& name) {
  using longhaul::DType;
  const auto ends = [&](const char* end) { return name.ends_with(end); };
  if (ends("token_embedding") || ends("k_proj") || ends("o_proj")) return DType::kBF16;
  if (ends("lm_head") || ends("v_proj") || ends("gate_proj")) return DType::kF16;
  if (!ends("up_proj")) return DType::kF32;
  const bool even = (name[name.find('.') + 1] - '0') % 2 == 0;
  return even ? DType::kF16 : DType::kF32;
}

inline TinyModel tiny_model(const std::string& family) {
  return tiny_model(tiny_config(family), mixed_type);
}

}  // namespace lh_test
