// An independent forward pass to compare with: double precision, plain loops, the whole sequence at
// once, no cache, no blocks, nothing shared with native/ but the config and the tensor bytes. Only
// the rounding of K and V to the cache's type is copied, since it is part of what is promised.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "dtype.h"
#include "model/model_config.h"
#include "model/weights.h"

namespace lh_test {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

inline double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double value = exponent == 0 ? std::ldexp(mantissa, -24)
                                     : std::ldexp(mantissa + 1024, exponent - 25);
  return (bits & 0x8000) != 0 ? -value : value;
}

// Nearest representable value with `digits` significant bits (ties to even); normal range only.
inline double round_to(double value, int digits) {
  if (value == 0) return 0;
  int exponent = 0;
  std::frexp(value, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(value, digits - exponent)), exponent - digits);
}
inline double round_to_cache(double value, longhaul::KvDType dtype) {
  if (dtype == longhaul::KvDType::kQ8) return value;  // left to the tolerance
  if (dtype == longhaul::KvDType::kBF16) return round_to(value, 8);
  return std::fabs(value) < 0x1p-14 ? std::ldexp(std::nearbyint(std::ldexp(value, 24)), -24)
                                    : round_to(value, 11);
}

class ReferenceDecoder {
 public:
  ReferenceDecoder(const longhaul::ModelConfig& config, const longhaul::WeightSet& weights,
                   longhaul::KvDType kv_dtype)
      : config_(config), weights_(weights), kv_dtype_(kv_dtype) {}

  // Log-probabilities of the next token after each position: [tokens, vocab_size].
  Rows logprobs(const std::vector<int32_t>& tokens) const {
    Rows x;
    const Rows embedding = matrix("token_embedding");
    for (const int32_t token : tokens) {
      Row row = embedding[static_cast<size_t>(token)];
      for (double& value : row) value *= config_.embedding_scale;
      x.push_back(row);
    }
    for (size_t layer = 0; layer < config_.layers.size(); ++layer) run_layer(layer, x);
    const Rows head = config_.tied_embeddings ? embedding : matrix("lm_head");
    const Row norm = vector("output_norm");
    Rows out;
    for (const Row& row : x) out.push_back(log_softmax(head_row(head, rms(row, norm))));
    return out;
  }

 private:
  Rows matrix(const std::string& name) const {
    const longhaul::TensorView& view = *weights_.find(name);
    Rows out(static_cast<size_t>(view.rows), Row(static_cast<size_t>(view.cols)));
    const std::byte* data = view.data;
    for (Row& row : out) {
      for (double& value : row) {
        uint16_t narrow = 0;
        if (view.dtype == longhaul::DType::kF32) {
          float wide = 0;
          std::memcpy(&wide, data, 4);
          data += 4;
          value = wide;
          continue;
        }
        std::memcpy(&narrow, data, 2);
        data += 2;
        value = view.dtype == longhaul::DType::kF16
                    ? half_value(narrow)
                    : double{std::bit_cast<float>(static_cast<uint32_t>(narrow) << 16)};
      }
    }
    return out;
  }
  Row vector(const std::string& name) const {
    Row out = matrix(name)[0];
    if (name.ends_with("norm")) {
      for (double& value : out) value += config_.norm_weight_offset;
    }
    return out;
  }

  Row rms(const Row& x, const Row& weight) const { return rms(x.data(), weight); }
  Row rms(const double* x, const Row& weight) const {
    double sum = 0;
    for (size_t i = 0; i < weight.size(); ++i) sum += x[i] * x[i];
    const double scale = 1 / std::sqrt(sum / static_cast<double>(weight.size()) + config_.rms_norm_eps);
    Row out(weight.size());
    for (size_t i = 0; i < weight.size(); ++i) out[i] = x[i] * scale * weight[i];
    return out;
  }
  static Row times(const Rows& weight, const Row& x) {
    Row out(weight.size(), 0);
    for (size_t r = 0; r < weight.size(); ++r) {
      for (size_t c = 0; c < x.size(); ++c) out[r] += weight[r][c] * x[c];
    }
    return out;
  }
  Row head_row(const Rows& head, const Row& normed) const {
    Row logits = times(head, normed);
    const double cap = config_.logit_softcap;
    for (double& value : logits) value = cap > 0 ? cap * std::tanh(value / cap) : value;
    return logits;
  }
  static Row log_softmax(Row logits) {
    double max = -INFINITY, sum = 0;
    for (const double value : logits) max = std::max(max, value);
    for (const double value : logits) sum += std::exp(value - max);
    for (double& value : logits) value -= max + std::log(sum);
    return logits;
  }

  // One projection of Q, K or V for a row, cut into heads, normed and rotated.
  Rows heads(const std::string& prefix, const char* part, const Row& normed, int32_t count,
             size_t position, const longhaul::RopeConfig* rope) const {
    Row flat = times(matrix(prefix + part + "_proj"), normed);
    if (config_.qkv_bias) {
      const Row bias = vector(prefix + part + "_bias");
      for (size_t i = 0; i < flat.size(); ++i) flat[i] += bias[i];
    }
    Rows out;
    for (int32_t head = 0; head < count; ++head) {
      const double* begin = flat.data() + head * config_.head_dim;
      Row row(begin, begin + config_.head_dim);
      if (rope != nullptr && config_.qk_norm) row = rms(row, vector(prefix + part + "_norm"));
      if (rope != nullptr) rotate(row, position, *rope);
      out.push_back(row);
    }
    return out;
  }
  static void rotate(Row& head, size_t position, const longhaul::RopeConfig& rope) {
    const size_t pairs = static_cast<size_t>(rope.dim) / 2;
    const Row before = head;
    for (size_t i = 0; i < pairs; ++i) {
      const bool adjacent = rope.style == longhaul::RopeStyle::kInterleaved;
      const size_t a = adjacent ? 2 * i : i, b = adjacent ? 2 * i + 1 : i + pairs;
      const double angle = static_cast<double>(position) * rope.inv_freq[i];
      const double c = std::cos(angle) * rope.attention_factor;
      const double s = std::sin(angle) * rope.attention_factor;
      head[a] = before[a] * c - before[b] * s;
      head[b] = before[a] * s + before[b] * c;
    }
  }

  Row attend(const Row& q, const std::vector<Rows>& k, const std::vector<Rows>& v, size_t kv_head,
             size_t position, int32_t window) const {
    const size_t first = window > 0 && position + 1 > static_cast<size_t>(window)
                             ? position + 1 - static_cast<size_t>(window)
                             : 0;
    Row scores;
    for (size_t t = first; t <= position; ++t) {
      double dot = 0;
      for (size_t i = 0; i < q.size(); ++i) dot += q[i] * k[t][kv_head][i];
      dot *= config_.softmax_scale;
      const double cap = config_.attention_softcap;
      scores.push_back(cap > 0 ? cap * std::tanh(dot / cap) : dot);
    }
    scores = log_softmax(scores);
    Row out(q.size(), 0);
    for (size_t t = first; t <= position; ++t) {
      for (size_t i = 0; i < q.size(); ++i) out[i] += std::exp(scores[t - first]) * v[t][kv_head][i];
    }
    return out;
  }

  void add(Row& x, Row update, const std::string& post_norm) const {
    if (config_.post_norms) update = rms(update, vector(post_norm));
    for (size_t i = 0; i < x.size(); ++i) x[i] += update[i];
  }

  void run_layer(size_t index, Rows& x) const {
    const std::string prefix = "layers." + std::to_string(index) + ".";
    const longhaul::LayerConfig& layer = config_.layers[index];
    const longhaul::RopeConfig& rope = config_.ropes[static_cast<size_t>(layer.rope_index)];
    const Row attention_norm = vector(prefix + "attention_norm"), mlp_norm = vector(prefix + "mlp_norm");
    std::vector<Rows> q, k, v;
    for (size_t t = 0; t < x.size(); ++t) {
      const Row normed = rms(x[t], attention_norm);
      q.push_back(heads(prefix, "q", normed, config_.num_heads, t, &rope));
      k.push_back(heads(prefix, "k", normed, config_.num_kv_heads, t, &rope));
      v.push_back(heads(prefix, "v", normed, config_.num_kv_heads, t, nullptr));
      for (std::vector<Rows>* stored : {&k, &v}) {
        for (Row& head : stored->back()) {
          for (double& value : head) value = round_to_cache(value, kv_dtype_);
        }
      }
    }
    const Rows o = matrix(prefix + "o_proj"), gate = matrix(prefix + "gate_proj");
    const Rows up = matrix(prefix + "up_proj"), down = matrix(prefix + "down_proj");
    const size_t share = static_cast<size_t>(config_.num_heads / config_.num_kv_heads);
    for (size_t t = 0; t < x.size(); ++t) {
      Row attended;
      for (size_t head = 0; head < q[t].size(); ++head) {
        const Row part = attend(q[t][head], k, v, head / share, t, layer.window);
        attended.insert(attended.end(), part.begin(), part.end());
      }
      add(x[t], times(o, attended), prefix + "post_attention_norm");
      const Row normed = rms(x[t], mlp_norm);
      Row g = times(gate, normed);
      const Row u = times(up, normed);
      for (size_t i = 0; i < g.size(); ++i) g[i] = activate(g[i]) * u[i];
      add(x[t], times(down, g), prefix + "post_mlp_norm");
    }
  }
  double activate(double z) const {
    if (config_.activation == longhaul::Activation::kSilu) return z / (1 + std::exp(-z));
    constexpr double kSqrt2OverPi = 0.79788456080286535588;
    return 0.5 * z * (1 + std::tanh(kSqrt2OverPi * (z + 0.044715 * z * z * z)));
  }

  longhaul::ModelConfig config_;
  const longhaul::WeightSet& weights_;
  longhaul::KvDType kv_dtype_;
};

}  // namespace lh_test
