// Operations in the order of a step. Set-up is in cuda_backend_setup.cc.
#include "backend/cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>

#include "attention_combine.h"
#include "attention_decode.h"
#include "attention_prefill.h"
#include "backend/cuda/launch_status.h"
#include "backend/cuda/product_rows.h"
#include "backend/cuda/row_bucket.h"
#include "compact_rows.h"
#include "copy_blocks.h"
#include "embed.h"
#include "qkv_finish.h"
#include "rms_norm.h"

namespace longhaul::cuda {
namespace {

using device::InputForm;
using device::ProductInput;

float* floats_of(const DeviceTensor* tensor) { return static_cast<float*>(tensor->data); }

// The form in which `reader` alone is going to read; kF32 where nobody is named.
InputForm form_for(const Matrix* reader, int32_t rows) {
  return reader ? Products::form_of(cuda_matrix(reader), rows) : InputForm::kF32;
}

}  // namespace

Status CudaBackend::open_step() {
  if (step_open_) return {};
  if (next_ticket_ - next_wait_ >= kStepsInFlight) {
    return error(ErrorCode::kInternal, "step %lld begins while %lld steps have not been waited for",
                 static_cast<long long>(next_ticket_),
                 static_cast<long long>(next_ticket_ - next_wait_));
  }
  upload_->begin_step(next_ticket_);
  results_.begin_step(next_ticket_);
  lists_.begin_step();
  step_open_ = true;
  return {};
}

Result<bool> CudaBackend::begin_forward(const StepInputs& inputs) {
  LH_TRY(open_step());
  rows_ = row_bucket(inputs.num_tokens);
  if (rows_ == 0) return false;
  if (rows_ > plan_.rows) {
    return error(ErrorCode::kInternal, "a step of %d rows, %d planned", inputs.num_tokens,
                 plan_.rows);
  }
  const bool fixed = inputs.decode_only && rows_ <= row_bucket(num_slots_);
  forward_->plan(inputs, rows_, fixed, forward_data_);
  LH_ASSIGN_OR_RETURN(const StepUpload::Piece piece, upload_->reserve(forward_->bytes()));
  if (piece.bytes > plan_.forward_bytes) {
    return error(ErrorCode::kInternal, "inputs of a step: %lld bytes, %lld planned",
                 static_cast<long long>(piece.bytes), static_cast<long long>(plan_.forward_bytes));
  }
  forward_->encode(inputs, piece.host);
  LH_TRY(upload_->send(piece));
  // From the place of this step to the one that kernels, and recordings of them, read. In order on
  // the compute stream: after the kernels of the step before, which read it too.
  LH_TRY(runtime_->copy_on_device(forward_data_, piece.device, piece.bytes, compute_));
  if (!fixed) return false;
  DecodeGraph& graph = graphs_[rows_];
  if (graph.graph) {
    ++num_replays_;
    LH_TRY(runtime_->launch(*graph.graph, compute_));
    return true;
  }
  if (graph.seen) {
    LH_TRY(runtime_->begin_capture(compute_));
    capturing_ = true;
  }
  graph.seen = true;
  return false;
}

Status CudaBackend::end_forward() {
  if (!capturing_) return {};
  capturing_ = false;
  LH_ASSIGN_OR_RETURN(const Graph graph, runtime_->end_capture(compute_));
  graphs_[rows_].graph = graph;
  return runtime_->launch(graph, compute_);
}

Status CudaBackend::embed(const EmbedParams& params) {
  device::EmbedParams embed;
  embed.w = cuda_matrix(params.embedding).piece(0);
  embed.token_ids = forward_->token_ids();
  embed.num_tokens = rows_;
  embed.last_tokens = last_tokens_;
  embed.num_slots = num_slots_;
  embed.scale = params.scale;
  embed.out = floats_of(params.out);
  embed.out_stride = params.out->cols;
  return launched(device::launch_embed(embed, compute_), "embed");
}

Status CudaBackend::qkv(const QkvParams& params) {
  if (rows_ == 0) return {};
  const CudaMatrix& weight = cuda_matrix(params.qkv);
  NormedRows source(input_buffer_, compute_, norm_of(params.x, params.norm, params.eps));
  LH_TRY(products_.multiply(weight, rows_, source, device::Epilogue::kStore, 0, projected_,
                            weight.rows));
  const auto& rope = *static_cast<const CudaRope*>(params.rope);
  device::QkvFinishParams finish;
  finish.qkv = projected_;
  finish.qkv_stride = weight.rows;
  finish.bias = floats_of(params.bias);
  finish.q_norm = floats_of(params.q_norm);
  finish.k_norm = floats_of(params.k_norm);
  finish.eps = params.eps;
  finish.inv_freq = rope.inv_freq;
  finish.half_dim = rope.half_dim;
  finish.interleaved = rope.interleaved;
  finish.attention_factor = rope.attention_factor;
  finish.positions = forward_->positions();
  finish.slot_mapping = forward_->slot_mapping(params.group);
  finish.q = floats_of(params.q);
  finish.q_stride = params.q->cols;
  finish.cache = cache_layer(params.layer_in_block);
  finish.rows = rows_;
  finish.num_heads = params.num_heads;
  return launched(device::launch_qkv_finish(finish, compute_), "qkv_finish");
}

Status CudaBackend::attention(const AttentionParams& params) {
  if (rows_ == 0) return {};
  const InputForm wanted = form_for(params.reader, rows_);
  const InputForm form = wanted == InputForm::kQ8 ? InputForm::kF32 : wanted;
  params.out->form = static_cast<int32_t>(form);
  device::AttentionParams attention;
  attention.q = floats_of(params.q);
  attention.q_stride = params.q->cols;
  attention.out = tensor_rows(*params.out);
  attention.cache = cache_layer(params.layer_in_block);
  attention.num_heads = params.num_heads;
  attention.window = forward_->window(params.group);
  attention.scale = params.scale;
  // The rotation of q and k made q k this many times as large (qkv_finish.h).
  if (layout_.dtype == KvDType::kQ8) {
    attention.scale /= static_cast<float>(layout_.head_dim & -layout_.head_dim);
  }
  attention.softcap = params.softcap;
  attention.lists = forward_->lists(params.group);
  attention.grids = grids_;
  attention.partial_o = partial_o_;
  attention.partial_ml = partial_ml_;
  if (forward_->has_prefill(params.group)) {
    LH_TRY(launched(device::launch_attention_prefill(attention, compute_), "attention_prefill"));
  }
  if (forward_->has_decode(params.group)) {
    LH_TRY(launched(device::launch_attention_decode(attention, compute_), "attention_decode"));
  }
  if (forward_->has_merges(params.group)) {
    LH_TRY(launched(device::launch_attention_combine(attention, compute_), "attention_combine"));
  }
  return {};
}

Status CudaBackend::project_add(const ProjectAddParams& params) {
  if (rows_ == 0) return {};
  const CudaMatrix& weight = cuda_matrix(params.weight);
  TensorRows source(input_buffer_, compute_, *params.input, rows_);
  float* const x = floats_of(params.x);
  const int64_t cols = params.x->cols;
  if (!params.post_norm) {
    return products_.multiply(weight, rows_, source, device::Epilogue::kAdd, 0, x, cols);
  }
  LH_TRY(products_.multiply(weight, rows_, source, device::Epilogue::kStore, 0, projected_, cols));
  device::AddNormParams add;
  add.x = x;
  add.x_stride = cols;
  add.y = projected_;
  add.y_stride = cols;
  add.post_weight = floats_of(params.post_norm);
  add.post_eps = params.eps;
  add.rows = rows_;
  add.cols = static_cast<int32_t>(cols);
  return launched(device::launch_add_norm(add, compute_), "add_norm");
}

Status CudaBackend::gated_up(const GatedUpParams& params) {
  if (rows_ == 0) return {};
  const CudaMatrix& weight = cuda_matrix(params.gate_up);
  const InputForm form = Products::writes_f32(weight, rows_) ? InputForm::kF32
                                                             : form_for(params.reader, rows_);
  params.out->form = static_cast<int32_t>(form);
  NormedRows source(input_buffer_, compute_, norm_of(params.x, params.norm, params.eps));
  return products_.multiply_gated(weight, rows_, source, params.activation,
                                  tensor_rows(*params.out));
}

Status CudaBackend::logits(const LogitsParams& params) {
  LH_TRY(open_step());
  if (params.num_rows == 0) return {};
  if (params.num_rows > num_logits_max_) {
    return error(ErrorCode::kInternal, "logits of %d rows, %d planned", params.num_rows,
                 num_logits_max_);
  }
  const int32_t bucket = row_bucket(params.num_rows);
  device::RmsNormParams norm = norm_of(params.x, params.norm, params.eps);
  norm.rows = bucket;
  bool same_rows = true;
  for (int32_t i = 0; i < params.num_rows; ++i) same_rows &= params.rows[i] == i;
  if (!same_rows) {
    LH_ASSIGN_OR_RETURN(const StepUpload::Piece piece, upload_->reserve(int64_t{bucket} * 4));
    auto* const rows = reinterpret_cast<int32_t*>(piece.host);
    std::copy(params.rows, params.rows + params.num_rows, rows);
    std::fill(rows + params.num_rows, rows + bucket, params.rows[params.num_rows - 1]);
    LH_TRY(upload_->send(piece));
    norm.row_indices = reinterpret_cast<const int32_t*>(piece.device);
  }
  NormedRows source(input_buffer_, compute_, norm);
  return products_.multiply(cuda_matrix(params.head), bucket, source, device::Epilogue::kStore,
                            params.softcap, floats_of(params.logits), params.logits->cols);
}

Status CudaBackend::sample(const SampleParams& params) {
  LH_TRY(open_step());
  lists_.clear();
  host_rows_.clear();
  device_rows_.clear();
  for (const SampleRow& row : params.rows) {
    if (row.slot < 0 || row.slot >= num_slots_ || row.logits_row < 0 ||
        row.logits_row >= num_logits_max_) {
      return error(ErrorCode::kInternal, "sample: slot %d of %d, logits row %d of %d", row.slot,
                   num_slots_, row.logits_row, num_logits_max_);
    }
    (lists_.add(row) ? device_rows_ : host_rows_).push_back(row);
  }
  LH_TRY(launch_sample(params));
  if (host_rows_.empty()) return {};
  return host_sampler_.sample(floats_of(params.logits), host_rows_, last_tokens_);
}

Status CudaBackend::launch_sample(const SampleParams& params) {
  if (device_rows_.empty()) return {};
  LH_ASSIGN_OR_RETURN(const StepUpload::Piece piece, upload_->reserve(lists_.bytes()));
  lists_.encode(piece.host);
  LH_TRY(upload_->send(piece));
  device::SampleParams sample;
  sample.logits = floats_of(params.logits);
  sample.logits_stride = params.logits->cols;
  sample.vocab_size = static_cast<int32_t>(params.logits->cols);
  lists_.fill(piece.device, &sample);
  sample.last_tokens = last_tokens_;
  sample.scratch = sample_scratch_;
  LH_TRY(results_.place(device_rows_, lists_.any_top(), &sample));
  return launched(device::launch_sample(sample, compute_), "sample");
}

Status CudaBackend::copy_blocks(std::span<const std::pair<int32_t, int32_t>> from_to) {
  for (const auto& [from, to] : from_to) {
    if (from < 0 || from >= num_blocks_ || to < 0 || to >= num_blocks_) {
      return error(ErrorCode::kInvalidRequest, "copy block %d to %d of %d", from, to, num_blocks_);
    }
  }
  if (from_to.empty()) return {};
  LH_TRY(open_step());
  const int64_t block_bytes = layout_.block_bytes();
  if (from_to.size() > static_cast<size_t>(kCopyPairsMax)) {
    for (const auto& [from, to] : from_to) {
      if (from == to) continue;
      LH_TRY(runtime_->copy_on_device(pool_ + to * block_bytes, pool_ + from * block_bytes,
                                      block_bytes, compute_));
    }
    return {};
  }
  const auto bytes = static_cast<int64_t>(from_to.size() * 2 * sizeof(int32_t));
  LH_ASSIGN_OR_RETURN(const StepUpload::Piece piece, upload_->reserve(bytes));
  auto* pair = reinterpret_cast<int32_t*>(piece.host);
  for (const auto& [from, to] : from_to) {
    *pair++ = from;
    *pair++ = to;
  }
  LH_TRY(upload_->send(piece));
  device::CopyBlocksParams copy;
  copy.pool = pool_;
  copy.block_bytes = block_bytes;
  copy.pairs = reinterpret_cast<const int32_t*>(piece.device);
  copy.num_pairs = static_cast<int32_t>(from_to.size());
  return launched(device::launch_copy_blocks(copy, compute_), "copy_blocks");
}

Status CudaBackend::compact_rows(DeviceTensor* x, std::span<const int32_t> keep) {
  if (keep.empty()) return {};
  LH_TRY(open_step());
  const auto bytes = static_cast<int64_t>(keep.size() * sizeof(int32_t));
  LH_ASSIGN_OR_RETURN(const StepUpload::Piece piece, upload_->reserve(bytes));
  std::memcpy(piece.host, keep.data(), static_cast<size_t>(bytes));
  LH_TRY(upload_->send(piece));
  device::CompactRowsParams compact;
  compact.x = floats_of(x);
  compact.stride = x->cols;
  compact.cols = static_cast<int32_t>(x->cols);
  compact.keep = reinterpret_cast<const int32_t*>(piece.device);
  compact.rows = static_cast<int32_t>(keep.size());
  return launched(device::launch_compact_rows(compact, compute_), "compact_rows");
}

Result<StepTicket> CudaBackend::end_step() {
  LH_TRY(open_step());
  LH_TRY(results_.end_step());
  step_open_ = false;
  return next_ticket_++;
}

Result<bool> CudaBackend::is_step_done(StepTicket ticket) { return results_.is_done(ticket); }

Status CudaBackend::wait_step(StepTicket ticket) {
  if (ticket != next_wait_ || ticket >= next_ticket_) {
    return error(ErrorCode::kInternal, "step %lld is waited for, expected step %lld of %lld",
                 static_cast<long long>(ticket), static_cast<long long>(next_wait_),
                 static_cast<long long>(next_ticket_));
  }
  ++next_wait_;
  return results_.wait(ticket);
}

Status CudaBackend::read_block(int32_t block_id, std::span<std::byte> out) {
  const int64_t bytes = layout_.block_bytes();
  if (block_id < 0 || block_id >= num_blocks_ || static_cast<int64_t>(out.size()) != bytes) {
    return error(ErrorCode::kInvalidRequest, "read block %d of %d into %zu of %lld bytes", block_id,
                 num_blocks_, out.size(), static_cast<long long>(bytes));
  }
  LH_ASSIGN_OR_RETURN(void* const host, runtime_->allocate_pinned(bytes, "a block to read"));
  Status status = runtime_->copy_to_host(host, pool_ + block_id * bytes, bytes, compute_);
  if (status.ok()) status = runtime_->synchronize(compute_);
  if (status.ok()) std::memcpy(out.data(), host, out.size());
  runtime_->release(host);
  return status;
}

device::CacheLayer CudaBackend::cache_layer(int32_t layer_in_block) const {
  device::CacheLayer cache;
  cache.blocks = pool_ + layer_in_block * layout_.layer_bytes();
  cache.block_bytes = layout_.block_bytes();
  cache.head_bytes = layout_.head_bytes();
  cache.block_size = layout_.block_size;
  cache.num_kv_heads = layout_.num_kv_heads;
  cache.head_dim = layout_.head_dim;
  cache.type = cache_type_;
  return cache;
}

device::RmsNormParams CudaBackend::norm_of(const DeviceTensor* x, const Vector* norm,
                                           float eps) const {
  device::RmsNormParams params;
  params.x = floats_of(x);
  params.x_stride = x->cols;
  params.weight = floats_of(norm);
  params.eps = eps;
  params.rows = rows_;
  params.cols = static_cast<int32_t>(x->cols);
  return params;
}

}  // namespace longhaul::cuda
