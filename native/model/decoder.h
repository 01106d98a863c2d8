// Decoder: the model as a graph over backend.h, for every supported family. Knows no file format,
// no memory, no threads and no policy; read forward() top to bottom.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "kv/kv_layout.h"
#include "model/model_config.h"
#include "model/step_batch.h"
#include "model/weights.h"
#include "status.h"

namespace longhaul {

// Asked between ops whether sequences of the running step were aborted meanwhile.
class AbortWatch {
 public:
  virtual ~AbortWatch() = default;
  // True when anything was aborted since the last call; cheap enough to ask before every op.
  virtual bool changed() = 0;
  virtual bool is_aborted(int32_t slot, int32_t sequence_id) const = 0;
};

// One row of logits wanted from a step: a token to draw, or the log-probability of a known one.
struct LogitsRequest {
  int32_t sequence = 0;   // index into StepBatch::sequences()
  int32_t step_row = 0;
  SampleRow row;          // logits_row is set by the decoder
  bool taken = false;     // set by the decoder: it will be answered
};

class Decoder {
 public:
  struct Options {
    int32_t num_tokens_max = 0;    // rows of a step
    int32_t num_logits_max = 0;    // rows of logits in memory at a time
    int32_t max_position = 0;      // positions RoPE must cover
  };

  // Repacks all weights through the backend; `weights` is not needed afterwards. kModelFormat names
  // what is missing or misshapen.
  static Result<std::unique_ptr<Decoder>> create(const ModelConfig& config,
                                                 const KvGroups& kv_groups,
                                                 const WeightSet& weights, Backend& backend,
                                                 const Options& options);

  // Runs embedding and all layers over the batch, storing K and V. Rows of sequences that `watch`
  // reports leave the batch before it and, on a synchronous backend, between ops; an empty batch ends
  // the call at once.
  Status forward(StepBatch& batch, AbortWatch& watch);

  // Output norm, head and sampling for `requests` (ascending step rows), in slabs of num_logits_max
  // rows. Requests of sequences aborted meanwhile are not taken. What the requests point to for their
  // outputs must stay until Backend::wait_step().
  Status sample(const StepBatch& batch, std::span<LogitsRequest> requests, AbortWatch& watch);

  int64_t weight_bytes() const { return weight_bytes_; }
  // Wall time spent in attention by forward(), since the last call.
  int64_t take_attention_micros();

 private:
  struct Layer {
    LayerConfig config;
    int32_t group = 0;
    int32_t layer_in_block = 0;
    std::unique_ptr<Vector> attention_norm, qkv_bias, q_norm, k_norm, post_attention_norm;
    std::unique_ptr<Vector> mlp_norm, post_mlp_norm;
    std::unique_ptr<Matrix> qkv, output, gate_up, down;
  };
  class Builder;

  Decoder(const ModelConfig& config, Backend& backend)
      : config_(config), backend_(backend), asynchronous_(backend.info().asynchronous) {}
  Status run_layer(const Layer& layer, StepBatch& batch, AbortWatch& watch);
  Status attend(const Layer& layer);
  // Takes rows of aborted sequences out of the batch and of the tensors that hold its rows now: where
  // operations take long enough for anyone to wait for it.
  Status let_aborted_go(StepBatch& batch, AbortWatch& watch,
                        std::initializer_list<DeviceTensor*> live);
  Status drop_aborted(StepBatch& batch, AbortWatch& watch,
                      std::initializer_list<DeviceTensor*> live);
  Status sample_slab(std::span<LogitsRequest> requests, std::span<const int32_t> picked);

  ModelConfig config_;
  Backend& backend_;
  bool asynchronous_ = false;
  std::vector<Layer> layers_;
  std::vector<std::unique_ptr<RopeTable>> ropes_;
  std::unique_ptr<Matrix> embedding_;
  std::unique_ptr<Matrix> lm_head_;        // null when tied: the embedding serves
  std::unique_ptr<Vector> output_norm_;
  int64_t weight_bytes_ = 0;

  DeviceTensor x_;          // [num_tokens_max, hidden_size] residual stream
  DeviceTensor q_;          // [num_tokens_max, num_heads * head_dim]
  DeviceTensor attended_;   // as q_
  DeviceTensor mlp_;        // [num_tokens_max, intermediate_size]
  DeviceTensor logits_;     // [num_logits_max, vocab_size]
  int64_t attention_micros_ = 0;

  // Lists of one slab, kept for their memory.
  std::vector<int32_t> picked_requests_;
  std::vector<int32_t> slab_rows_;
  std::vector<SampleRow> slab_samples_;
};

}  // namespace longhaul
