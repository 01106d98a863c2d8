#include "model/model_config.h"

#include <cmath>

namespace longhaul {
namespace {

// Generous limits that keep every product of two sizes inside int64 and every index inside int32.
constexpr int64_t kSizeMax = 1 << 20;
constexpr int64_t kVocabMax = 1 << 24;
constexpr int64_t kLayersMax = 4096;
constexpr int64_t kHeadDimMax = 1024;
constexpr int64_t kPositionMax = int64_t{1} << 30;

Status check_range(const char* field, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return {};
  return error(ErrorCode::kModelFormat, "model config: %s: expected %lld to %lld, found %lld",
               field, static_cast<long long>(min), static_cast<long long>(max),
               static_cast<long long>(value));
}

Status check_real(const char* field, float value, double min, double max) {
  if (std::isfinite(value) && value >= min && value <= max) return {};
  return error(ErrorCode::kModelFormat, "model config: %s: expected %g to %g, found %g", field, min,
               max, static_cast<double>(value));
}

Status validate_rope(const RopeConfig& rope, int32_t head_dim, size_t index) {
  const std::string name = "ropes[" + std::to_string(index) + "]";
  LH_TRY(check_range((name + ".style").c_str(), static_cast<int64_t>(rope.style), 0, 1));
  LH_TRY(check_range((name + ".dim").c_str(), rope.dim, 2, head_dim));
  if (rope.dim % 2 != 0) {
    return error(ErrorCode::kModelFormat, "model config: %s.dim: expected an even number, found %d",
                 name.c_str(), rope.dim);
  }
  const int64_t pairs = rope.dim / 2;
  LH_TRY(check_range((name + ".inv_freq entries").c_str(),
                     static_cast<int64_t>(rope.inv_freq.size()), pairs, pairs));
  for (const float frequency : rope.inv_freq) {
    LH_TRY(check_real((name + ".inv_freq").c_str(), frequency, 0, 1e6));
  }
  return check_real((name + ".attention_factor").c_str(), rope.attention_factor, 1e-6, 1e6);
}

}  // namespace

Status validate(const ModelConfig& config) {
  LH_TRY(check_range("vocab_size", config.vocab_size, 1, kVocabMax));
  LH_TRY(check_range("hidden_size", config.hidden_size, 1, kSizeMax));
  LH_TRY(check_range("intermediate_size", config.intermediate_size, 1, kSizeMax));
  LH_TRY(check_range("num_heads", config.num_heads, 1, 4096));
  LH_TRY(check_range("num_kv_heads", config.num_kv_heads, 1, config.num_heads));
  if (config.num_heads % config.num_kv_heads != 0) {
    return error(ErrorCode::kModelFormat,
                 "model config: num_heads: expected a multiple of num_kv_heads (%d), found %d",
                 config.num_kv_heads, config.num_heads);
  }
  LH_TRY(check_range("head_dim", config.head_dim, 2, kHeadDimMax));
  LH_TRY(check_range("max_position", config.max_position, 1, kPositionMax));
  LH_TRY(check_real("rms_norm_eps", config.rms_norm_eps, 0, 1));
  LH_TRY(check_real("softmax_scale", config.softmax_scale, 1e-9, 1e3));
  LH_TRY(check_real("embedding_scale", config.embedding_scale, 1e-9, 1e9));
  LH_TRY(check_real("logit_softcap", config.logit_softcap, 0, 1e6));
  LH_TRY(check_real("attention_softcap", config.attention_softcap, 0, 1e6));
  LH_TRY(check_range("activation", static_cast<int64_t>(config.activation), 0, 1));
  LH_TRY(check_real("norm_weight_offset", config.norm_weight_offset, -16, 16));
  LH_TRY(check_range("layers", static_cast<int64_t>(config.layers.size()), 1, kLayersMax));
  LH_TRY(check_range("ropes", static_cast<int64_t>(config.ropes.size()), 1, kLayersMax));
  for (size_t i = 0; i < config.ropes.size(); ++i) {
    LH_TRY(validate_rope(config.ropes[i], config.head_dim, i));
  }
  for (size_t i = 0; i < config.layers.size(); ++i) {
    const std::string name = "layers[" + std::to_string(i) + "]";
    LH_TRY(check_range((name + ".window").c_str(), config.layers[i].window, 0, kPositionMax));
    LH_TRY(check_range((name + ".rope_index").c_str(), config.layers[i].rope_index, 0,
                       static_cast<int64_t>(config.ropes.size()) - 1));
  }
  return {};
}

}  // namespace longhaul
