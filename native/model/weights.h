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

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/model_config.h"
#include "status.h"
#include "tensor.h"

namespace longhaul {

// Bytes of a tensor, rows * row_bytes(dtype, cols) of them, until `lease` ends.
struct LeasedBytes {
  const std::byte* data = nullptr;
  std::shared_ptr<const void> lease;
};

// Looks tensors up by canonical name. Bytes are either borrowed from an owner that outlives the set's
// use, or opened anew for each require() and given back with the view it returned: so that no more
// of a model is in memory twice than what is being repacked.
class WeightSet {
 public:
  using Open = std::function<Result<LeasedBytes>()>;

  void add(TensorView tensor) { insert({std::move(tensor), nullptr}); }
  // `tensor` says name, type and shape; its data and lease are not used.
  void add(TensorView tensor, Open open) { insert({std::move(tensor), std::move(open)}); }
  // Name, type and shape; data is null when it is opened on demand. Null when absent.
  const TensorView* find(std::string_view name) const;
  // kModelFormat when absent or when the shape differs; message names tensor, expected, found. The
  // view is as find() has it.
  Result<TensorView> check(std::string_view name, int64_t rows, int64_t cols) const;
  // The same with its bytes; what opening them fails with is passed on.
  Result<TensorView> require(std::string_view name, int64_t rows, int64_t cols) const;
  size_t size() const { return tensors_.size(); }

 private:
  struct Entry {
    TensorView tensor;
    Open open;  // null = borrowed
  };
  void insert(Entry entry) { tensors_.insert_or_assign(entry.tensor.name, std::move(entry)); }

  std::unordered_map<std::string, Entry> tensors_;
};

}  // namespace longhaul
