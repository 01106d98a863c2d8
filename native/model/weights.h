// Canonical names of a model's tensors. src/models maps each file format's names to these; the
// decoder asks for nothing else. Layer tensors carry the prefix "layers.<i>.".
//
//   token_embedding              [vocab_size, hidden_size]
//   output_norm                  [hidden_size]
//   lm_head                      [vocab_size, hidden_size]      absent when tied_embeddings
//   layers.i.attention_norm      [hidden_size]
//   layers.i.q_proj              [num_heads * head_dim, hidden_size]
//   layers.i.k_proj, .v_proj     [num_kv_heads * head_dim, hidden_size]
//   layers.i.q_bias, .k_bias, .v_bias                           with qkv_bias
//   layers.i.q_norm, .k_norm     [head_dim]                     with qk_norm
//   layers.i.o_proj              [hidden_size, num_heads * head_dim]
//   layers.i.post_attention_norm [hidden_size]                  with post_norms
//   layers.i.mlp_norm            [hidden_size]
//   layers.i.gate_proj, .up_proj [intermediate_size, hidden_size]
//   layers.i.down_proj           [hidden_size, intermediate_size]
//   layers.i.post_mlp_norm       [hidden_size]                  with post_norms
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/model_config.h"
#include "status.h"
#include "tensor.h"

namespace longhaul {

// Looks tensors up by canonical name; views stay valid while the owner (mapped files or generated
// memory) lives.
class WeightSet {
 public:
  void add(TensorView tensor) { tensors_.insert_or_assign(tensor.name, std::move(tensor)); }
  // Null when absent.
  const TensorView* find(std::string_view name) const;
  // kModelFormat when absent or when the shape differs; message names tensor, expected, found.
  Result<TensorView> require(std::string_view name, int64_t rows, int64_t cols) const;
  size_t size() const { return tensors_.size(); }

 private:
  std::unordered_map<std::string, TensorView> tensors_;
};

}  // namespace longhaul
