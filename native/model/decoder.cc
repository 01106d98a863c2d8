#include "model/decoder.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "model/model_matrices.h"

namespace longhaul {

// Turns named tensors into resident ones, checking each shape on the way.
class Decoder::Builder {
 public:
  Builder(Decoder& decoder, const WeightSet& weights)
      : d_(decoder), config_(decoder.config_), weights_(weights) {}

  Status build(const KvGroups& kv_groups, const Options& options) {
    LH_TRY(matrix(embedding_spec(config_), d_.embedding_));
    if (!config_.tied_embeddings) LH_TRY(matrix(lm_head_spec(config_), d_.lm_head_));
    LH_TRY(norm("output_norm", config_.hidden_size, d_.output_norm_));
    for (const RopeConfig& rope : config_.ropes) {
      LH_ASSIGN_OR_RETURN(std::unique_ptr<RopeTable> table,
                          d_.backend_.make_rope(rope, options.max_position));
      d_.ropes_.push_back(std::move(table));
    }
    d_.layers_.resize(config_.layers.size());
    for (size_t i = 0; i < d_.layers_.size(); ++i) {
      d_.layers_[i].config = config_.layers[i];
      d_.layers_[i].group = kv_groups.group_of_layer[i];
      d_.layers_[i].layer_in_block = kv_groups.index_of_layer[i];
      LH_TRY(build_layer(i, d_.layers_[i]));
    }
    return allocate(options);
  }

 private:
  using Part = MatrixSpec::Part;

  Status build_layer(size_t index, Layer& layer) {
    const auto name = [&](const char* part) { return layer_tensor(index, part); };
    const int64_t hidden = config_.hidden_size, head = config_.head_dim;
    const int64_t q_size = config_.num_heads * head, kv_size = config_.num_kv_heads * head;

    LH_TRY(norm(name("attention_norm"), hidden, layer.attention_norm));
    LH_TRY(matrix(qkv_spec(config_, index), layer.qkv));
    if (config_.qkv_bias) {
      LH_TRY(vector({{name("q_bias"), 1, q_size},
                     {name("k_bias"), 1, kv_size},
                     {name("v_bias"), 1, kv_size}},
                    0, layer.qkv_bias));
    }
    if (config_.qk_norm) {
      LH_TRY(norm(name("q_norm"), head, layer.q_norm));
      LH_TRY(norm(name("k_norm"), head, layer.k_norm));
    }
    LH_TRY(matrix(output_spec(config_, index), layer.output));
    LH_TRY(norm(name("mlp_norm"), hidden, layer.mlp_norm));
    LH_TRY(matrix(gate_up_spec(config_, index), layer.gate_up));
    LH_TRY(matrix(down_spec(config_, index), layer.down));
    if (config_.post_norms) {
      LH_TRY(norm(name("post_attention_norm"), hidden, layer.post_attention_norm));
      LH_TRY(norm(name("post_mlp_norm"), hidden, layer.post_mlp_norm));
    }
    return {};
  }

  Status matrix(const MatrixSpec& spec, std::unique_ptr<Matrix>& out) {
    LH_ASSIGN_OR_RETURN(const std::vector<TensorView> views, require(spec.parts));
    LH_ASSIGN_OR_RETURN(out, d_.backend_.make_matrix(views, spec.use));
    d_.weight_bytes_ += out->resident_bytes;
    return {};
  }

  Status vector(const std::vector<Part>& parts, float offset, std::unique_ptr<Vector>& out) {
    LH_ASSIGN_OR_RETURN(const std::vector<TensorView> views, require(parts));
    LH_ASSIGN_OR_RETURN(out, d_.backend_.make_vector(views, offset));
    d_.weight_bytes_ += out->size * static_cast<int64_t>(sizeof(float));
    return {};
  }

  Status norm(const std::string& name, int64_t size, std::unique_ptr<Vector>& out) {
    return vector({{name, 1, size}}, config_.norm_weight_offset, out);
  }

  Result<std::vector<TensorView>> require(const std::vector<Part>& parts) {
    std::vector<TensorView> views;
    for (const Part& part : parts) {
      LH_ASSIGN_OR_RETURN(TensorView view, weights_.require(part.name, part.rows, part.cols));
      views.push_back(std::move(view));
    }
    return views;
  }

  Status allocate(const Options& options) {
    const int64_t tokens = options.num_tokens_max;
    const int64_t q_size = int64_t{config_.num_heads} * config_.head_dim;
    LH_ASSIGN_OR_RETURN(d_.x_, d_.backend_.allocate(tokens, config_.hidden_size));
    LH_ASSIGN_OR_RETURN(d_.q_, d_.backend_.allocate(tokens, q_size));
    LH_ASSIGN_OR_RETURN(d_.attended_, d_.backend_.allocate(tokens, q_size));
    LH_ASSIGN_OR_RETURN(d_.mlp_, d_.backend_.allocate(tokens, config_.intermediate_size));
    LH_ASSIGN_OR_RETURN(d_.logits_,
                        d_.backend_.allocate(options.num_logits_max, config_.vocab_size));
    return {};
  }

  Decoder& d_;
  const ModelConfig& config_;
  const WeightSet& weights_;
};

Result<std::unique_ptr<Decoder>> Decoder::create(const ModelConfig& config,
                                                 const KvGroups& kv_groups,
                                                 const WeightSet& weights, Backend& backend,
                                                 const Options& options) {
  std::unique_ptr<Decoder> decoder(new Decoder(config, backend));
  LH_TRY(Builder(*decoder, weights).build(kv_groups, options));
  return decoder;
}

Status Decoder::forward(StepBatch& batch, AbortWatch& watch) {
  if (watch.changed()) LH_TRY(drop_aborted(batch, watch, {}));
  if (batch.num_rows() == 0) return {};
  LH_ASSIGN_OR_RETURN(const bool queued, backend_.begin_forward(batch.inputs()));
  if (queued) return {};
  LH_TRY(backend_.embed({.embedding = embedding_.get(),
                         .num_tokens = batch.num_rows(),
                         .scale = config_.embedding_scale,
                         .out = &x_}));
  for (const Layer& layer : layers_) {
    LH_TRY(run_layer(layer, batch, watch));
    if (batch.num_rows() == 0) return {};
  }
  return backend_.end_forward();
}

Status Decoder::run_layer(const Layer& layer, StepBatch& batch, AbortWatch& watch) {
  const float eps = config_.rms_norm_eps;
  LH_TRY(let_aborted_go(batch, watch, {&x_}));
  LH_TRY(backend_.qkv({.x = &x_,
                       .num_tokens = batch.num_rows(),
                       .norm = layer.attention_norm.get(),
                       .eps = eps,
                       .qkv = layer.qkv.get(),
                       .bias = layer.qkv_bias.get(),
                       .q_norm = layer.q_norm.get(),
                       .k_norm = layer.k_norm.get(),
                       .rope = ropes_[static_cast<size_t>(layer.config.rope_index)].get(),
                       .num_heads = config_.num_heads,
                       .group = layer.group,
                       .layer_in_block = layer.layer_in_block,
                       .q = &q_}));

  LH_TRY(let_aborted_go(batch, watch, {&x_, &q_}));
  LH_TRY(attend(layer));

  LH_TRY(let_aborted_go(batch, watch, {&x_, &attended_}));
  LH_TRY(backend_.project_add({.input = &attended_,
                               .num_tokens = batch.num_rows(),
                               .weight = layer.output.get(),
                               .post_norm = layer.post_attention_norm.get(),
                               .eps = eps,
                               .x = &x_}));

  LH_TRY(let_aborted_go(batch, watch, {&x_}));
  LH_TRY(backend_.gated_up({.x = &x_,
                            .num_tokens = batch.num_rows(),
                            .norm = layer.mlp_norm.get(),
                            .eps = eps,
                            .gate_up = layer.gate_up.get(),
                            .activation = config_.activation,
                            .reader = layer.down.get(),
                            .out = &mlp_}));

  LH_TRY(let_aborted_go(batch, watch, {&x_, &mlp_}));
  return backend_.project_add({.input = &mlp_,
                               .num_tokens = batch.num_rows(),
                               .weight = layer.down.get(),
                               .post_norm = layer.post_mlp_norm.get(),
                               .eps = eps,
                               .x = &x_});
}

Status Decoder::attend(const Layer& layer) {
  const auto start = std::chrono::steady_clock::now();
  LH_TRY(backend_.attention({.group = layer.group,
                             .q = &q_,
                             .num_heads = config_.num_heads,
                             .scale = config_.softmax_scale,
                             .softcap = config_.attention_softcap,
                             .layer_in_block = layer.layer_in_block,
                             .reader = layer.output.get(),
                             .out = &attended_}));
  const auto elapsed = std::chrono::steady_clock::now() - start;
  attention_micros_ += std::chrono::duration_cast<std::chrono::microseconds>(elapsed).count();
  return {};
}

int64_t Decoder::take_attention_micros() { return std::exchange(attention_micros_, 0); }

Status Decoder::let_aborted_go(StepBatch& batch, AbortWatch& watch,
                               std::initializer_list<DeviceTensor*> live) {
  if (asynchronous_ || !watch.changed()) return {};
  return drop_aborted(batch, watch, live);
}

Status Decoder::drop_aborted(StepBatch& batch, AbortWatch& watch,
                             std::initializer_list<DeviceTensor*> live) {
  std::vector<int32_t> kept;
  const std::vector<BatchSequence>& sequences = batch.sequences();
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (!watch.is_aborted(sequences[i].slot, sequences[i].sequence_id)) {
      kept.push_back(static_cast<int32_t>(i));
    }
  }
  if (kept.size() == sequences.size()) return {};
  const std::span<const int32_t> rows = batch.keep(kept);
  if (live.size() == 0) return {};  // the forward pass has not begun
  for (DeviceTensor* tensor : live) LH_TRY(backend_.compact_rows(tensor, rows));
  return backend_.begin_forward(batch.inputs()).status();
}

Status Decoder::sample(const StepBatch& batch, std::span<LogitsRequest> requests,
                       AbortWatch& watch) {
  const size_t slab_rows = static_cast<size_t>(logits_.rows);
  std::vector<int32_t>& picked = picked_requests_;
  for (size_t next = 0; next < requests.size();) {
    picked.clear();
    watch.changed();
    int32_t num_rows = 0, last_row = -1;
    for (; next < requests.size(); ++next) {
      LogitsRequest& request = requests[next];
      const BatchSequence& sequence = batch.sequences()[static_cast<size_t>(request.sequence)];
      if (watch.is_aborted(sequence.slot, sequence.sequence_id)) continue;
      if (request.step_row != last_row) {
        if (static_cast<size_t>(num_rows) == slab_rows) break;
        last_row = request.step_row;
        ++num_rows;
      }
      request.row.logits_row = num_rows - 1;
      request.taken = true;
      picked.push_back(static_cast<int32_t>(next));
    }
    if (!picked.empty()) LH_TRY(sample_slab(requests, picked));
  }
  return {};
}

Status Decoder::sample_slab(std::span<LogitsRequest> requests, std::span<const int32_t> picked) {
  std::vector<int32_t>& rows = slab_rows_;
  std::vector<SampleRow>& samples = slab_samples_;
  rows.clear();
  samples.clear();
  // Known tokens first, draws second: a draw may edit its row, and both may want the same one.
  for (const bool draw : {false, true}) {
    for (const int32_t index : picked) {
      const LogitsRequest& request = requests[static_cast<size_t>(index)];
      if (request.row.sample == draw) samples.push_back(request.row);
      if (rows.empty() || rows.back() < request.step_row) rows.push_back(request.step_row);
    }
  }
  LH_TRY(backend_.logits({.x = &x_,
                          .rows = rows.data(),
                          .num_rows = static_cast<int32_t>(rows.size()),
                          .norm = output_norm_.get(),
                          .eps = config_.rms_norm_eps,
                          .head = lm_head_ ? lm_head_.get() : embedding_.get(),
                          .softcap = config_.logit_softcap,
                          .logits = &logits_}));
  const auto first_draw =
      std::find_if(samples.begin(), samples.end(), [](const SampleRow& row) { return row.sample; });
  for (const std::span<SampleRow> part : {std::span<SampleRow>(samples.begin(), first_draw),
                                          std::span<SampleRow>(first_draw, samples.end())}) {
    if (!part.empty()) LH_TRY(backend_.sample({.logits = &logits_, .rows = part}));
  }
  return {};
}

}  // namespace longhaul
