#include "model/model_matrices.h"

namespace longhaul {

std::string layer_tensor(size_t index, const char* part) {
  return "layers." + std::to_string(index) + "." + part;
}

MatrixSpec embedding_spec(const ModelConfig& config) {
  return {{{"token_embedding", config.vocab_size, config.hidden_size}}, MatrixUse::kEmbedding};
}

MatrixSpec lm_head_spec(const ModelConfig& config) {
  return {{{"lm_head", config.vocab_size, config.hidden_size}}, MatrixUse::kProjection};
}

MatrixSpec qkv_spec(const ModelConfig& config, size_t layer) {
  const int64_t q_size = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv_size = int64_t{config.num_kv_heads} * config.head_dim;
  return {{{layer_tensor(layer, "q_proj"), q_size, config.hidden_size},
           {layer_tensor(layer, "k_proj"), kv_size, config.hidden_size},
           {layer_tensor(layer, "v_proj"), kv_size, config.hidden_size}},
          MatrixUse::kProjection};
}

MatrixSpec output_spec(const ModelConfig& config, size_t layer) {
  const int64_t q_size = int64_t{config.num_heads} * config.head_dim;
  return {{{layer_tensor(layer, "o_proj"), config.hidden_size, q_size}}, MatrixUse::kProjection};
}

MatrixSpec gate_up_spec(const ModelConfig& config, size_t layer) {
  return {{{layer_tensor(layer, "gate_proj"), config.intermediate_size, config.hidden_size},
           {layer_tensor(layer, "up_proj"), config.intermediate_size, config.hidden_size}},
          MatrixUse::kGatedUp};
}

MatrixSpec down_spec(const ModelConfig& config, size_t layer) {
  return {{{layer_tensor(layer, "down_proj"), config.hidden_size, config.intermediate_size}},
          MatrixUse::kProjection};
}

Result<std::vector<MatrixNeed>> matrix_needs(const ModelConfig& config, const WeightSet& weights) {
  std::vector<MatrixSpec> specs = {embedding_spec(config)};
  if (!config.tied_embeddings) specs.push_back(lm_head_spec(config));
  for (size_t layer = 0; layer < config.layers.size(); ++layer) {
    for (const auto& spec : {qkv_spec, output_spec, gate_up_spec, down_spec}) {
      specs.push_back(spec(config, layer));
    }
  }
  std::vector<MatrixNeed> needs;
  for (const MatrixSpec& spec : specs) {
    MatrixNeed need;
    need.use = spec.use;
    for (const MatrixSpec::Part& part : spec.parts) {
      LH_ASSIGN_OR_RETURN(TensorView view, weights.check(part.name, part.rows, part.cols));
      view.data = nullptr;
      view.lease = nullptr;
      need.parts.push_back(std::move(view));
    }
    needs.push_back(std::move(need));
  }
  return needs;
}

}  // namespace longhaul
