// ModelConfig: the shape of a decoder-only transformer, the same for every file format. Filled by
// src/models (TypeScript) from GGUF metadata or config.json and checked again by validate().
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "status.h"

namespace longhaul {

enum class Activation : int32_t { kSilu = 0, kGeluTanh = 1 };

// Which pairs of a head's channels RoPE rotates: adjacent (2i, 2i+1), as llama-family GGUF files
// store Q and K, or halves (i, i + rope_dim/2), as Hugging Face checkpoints do.
enum class RopeStyle : int32_t { kInterleaved = 0, kHalf = 1 };

struct RopeConfig {
  RopeStyle style = RopeStyle::kHalf;
  int32_t dim = 0;                  // rotated channels of a head, even, <= head_dim
  // Inverse frequencies after any scaling (linear, llama3, yarn, longrope), computed by
  // src/models/rope.ts: angle = position * inv_freq[i]. Size dim / 2.
  std::vector<float> inv_freq;
  float attention_factor = 1.0f;    // multiplies cos and sin (yarn); 1 otherwise
};

struct LayerConfig {
  int32_t window = 0;               // attended tokens, the query's own included; 0 = full attention
  int32_t rope_index = 0;           // into ModelConfig::ropes (Gemma 3: local and global differ)
};

struct ModelConfig {
  std::string architecture;         // "llama", "qwen2", "qwen3", "mistral", "gemma3"
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t max_position = 0;         // trained context length
  float rms_norm_eps = 1e-5f;
  float softmax_scale = 0.0f;       // usually head_dim^-0.5
  float embedding_scale = 1.0f;     // sqrt(hidden_size) for Gemma
  float logit_softcap = 0.0f;       // 0 = none: cap * tanh(x / cap)
  float attention_softcap = 0.0f;   // 0 = none
  Activation activation = Activation::kSilu;
  bool qkv_bias = false;            // Qwen2
  bool qk_norm = false;             // Qwen3, Gemma 3: RMS norm of each head of Q and K before RoPE
  bool post_norms = false;          // Gemma: norms after attention and MLP, before the residual add
  bool tied_embeddings = false;     // lm head = token embedding
  float norm_weight_offset = 0.0f;  // added to every norm weight at load (HF Gemma checkpoints: 1)
  std::vector<RopeConfig> ropes;    // at least one
  std::vector<LayerConfig> layers;  // one a layer

  int32_t num_layers() const { return static_cast<int32_t>(layers.size()); }
};

// Every field in range and mutually consistent; kModelFormat with field, expected and found.
Status validate(const ModelConfig& config);

}  // namespace longhaul
