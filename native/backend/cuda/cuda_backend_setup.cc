// From a model's needs to everything in its place.
#include <algorithm>
#include <string>

#include "attention_shapes.h"
#include "backend/cpu/isa.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/row_bucket.h"
#include "tensor_floats.h"

namespace longhaul::cuda {
namespace {

// Rows of logits that the host samples at a time.
constexpr int32_t kHostRowsMax = 16;

device::CacheType cache_type_of(KvDType dtype) {
  switch (dtype) {
    case KvDType::kF16: return device::CacheType::kF16;
    case KvDType::kBF16: return device::CacheType::kBF16;
    case KvDType::kQ8: return device::CacheType::kQ8;
    case KvDType::kFp8: return device::CacheType::kFp8;
  }
  return device::CacheType::kF16;
}

Status check_model(const ModelNeeds& needs) {
  const ModelConfig& config = *needs.config;
  if (!device::is_attention_head_dim(config.head_dim)) {
    std::string served;
    for (const int32_t head_dim : device::kAttentionHeadDims) {
      served += (served.empty() ? "" : ", ") + std::to_string(head_dim);
    }
    return error(ErrorCode::kUnsupported, "backend %s: head_dim: expected one of %s, found %d",
                 runtime_name(), served.c_str(), config.head_dim);
  }
  const int32_t group = config.num_heads / config.num_kv_heads;
  if (group > device::kAttentionDecodeRows) {
    return error(ErrorCode::kUnsupported,
                 "backend %s: query heads a K/V head: expected at most %d, found %d",
                 runtime_name(), device::kAttentionDecodeRows, group);
  }
  const int32_t block_size = needs.layout.block_size;
  if ((block_size & (block_size - 1)) != 0) {
    return error(ErrorCode::kUnsupported, "backend %s: --block-size: expected a power of two, found %d",
                 runtime_name(), block_size);
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Backend>> make_cuda_backend_on(std::unique_ptr<DeviceRuntime> runtime,
                                                      const CudaBackendOptions&) {
  LH_ASSIGN_OR_RETURN(const Stream compute, runtime->create_stream());
  return std::unique_ptr<Backend>(std::make_unique<CudaBackend>(std::move(runtime), compute));
}

CudaBackend::CudaBackend(std::unique_ptr<DeviceRuntime> runtime, Stream compute)
    : runtime_(std::move(runtime)),
      compute_(compute),
      products_(*runtime_, compute),
      host_sampler_(*runtime_, compute),
      results_(*runtime_, compute) {}

CudaBackend::~CudaBackend() {
  // A step that failed while it was recorded leaves the stream recording; whatever comes of it, the
  // runtime can be closed afterwards.
  if (capturing_) (void)runtime_->end_capture(compute_);
}

BackendInfo CudaBackend::info() const {
  const DeviceProperties& device = runtime_->properties();
  BackendInfo info;
  info.name = runtime_name();
  info.isa = "sm_" + std::to_string(device.compute_capability);
  info.parallelism = device.num_multiprocessors;
  info.device = device.name;
  info.asynchronous = true;
  info.plans_attention = true;
  return info;
}

Result<int64_t> CudaBackend::prepare(const ModelNeeds& needs) {
  LH_TRY(check_model(needs));
  const ModelConfig& config = *needs.config;
  const DeviceProperties& device = runtime_->properties();
  layout_ = needs.layout;
  cache_type_ = cache_type_of(layout_.dtype);
  post_norms_ = config.post_norms;
  num_slots_ = needs.num_slots;
  num_logits_max_ = needs.num_logits_max;
  vocab_size_ = config.vocab_size;
  grids_ = device::attention_grids(config.head_dim, cache_type_, device.num_multiprocessors,
                                   device.shared_bytes_max);
  LH_ASSIGN_OR_RETURN(plan_, plan_model(needs, grids_));

  ForwardInputs::Options forward;
  forward.group_windows = needs.group_windows;
  forward.attention.num_heads = config.num_heads;
  forward.attention.num_kv_heads = config.num_kv_heads;
  forward.attention.head_dim = config.head_dim;
  forward.attention.block_size = layout_.block_size;
  forward.attention.grids = grids_;
  forward.attention.partial_row_end = plan_.partial_rows;
  forward.num_tokens_max = needs.num_tokens_max;
  forward.num_slots = needs.num_slots;
  forward.max_position = needs.max_position;
  forward_ = std::make_unique<ForwardInputs>(forward);
  plan_steps(needs, forward_->bytes_max(), &plan_);

  LH_ASSIGN_OR_RETURN(const int64_t free_bytes, runtime_->free_bytes());
  const bool in_host_memory = std::string(runtime_name()) == "cuda-emulated";
  LH_TRY(plan_pool(needs, device, free_bytes, in_host_memory, &plan_));
  LH_TRY(weights_.allocate(*runtime_, plan_.weight_bytes, "weights"));
  LH_TRY(memory_.allocate(*runtime_,
                          plan_.vector_bytes + plan_.activation_bytes + plan_.scratch_bytes,
                          "activations and scratch"));
  // Rows beyond a step's own are computed from what is there: numbers at least.
  LH_TRY(runtime_->clear(memory_.data(), memory_.size(), compute_));
  LH_TRY(runtime_->synchronize(compute_));
  uploader_ = std::make_unique<WeightUploader>(*runtime_);
  LH_TRY(uploader_->open(plan_.weight_bytes, plan_.unit_bytes_max, cpu::default_threads()));
  // Too little for one block: the caller says so, with what was asked for.
  return plan_.pool_bytes > 0 ? plan_.pool_bytes : needs.kv_memory_bytes;
}

Result<DeviceTensor> CudaBackend::allocate(int64_t rows, int64_t cols) {
  DeviceTensor tensor;
  tensor.rows = rows;
  tensor.cols = cols;
  LH_ASSIGN_OR_RETURN(tensor.data,
                      memory_.take_array<float>(row_bucket(static_cast<int32_t>(rows)) * cols));
  return tensor;
}

Result<std::unique_ptr<Matrix>> CudaBackend::make_matrix(std::span<const TensorView> parts,
                                                         MatrixUse use) {
  auto matrix = std::make_unique<CudaMatrix>();
  LH_ASSIGN_OR_RETURN(matrix->layout, plan_device_matrix(parts, use == MatrixUse::kGatedUp));
  matrix->rows = matrix->layout.rows;
  matrix->cols = matrix->layout.cols;
  matrix->resident_bytes = matrix->layout.bytes;
  matrix->use = use;
  LH_ASSIGN_OR_RETURN(matrix->data, weights_.take(matrix->layout.bytes));
  LH_TRY(uploader_->upload(parts, matrix->layout, matrix->data));
  matrices_.push_back(matrix.get());
  return std::unique_ptr<Matrix>(std::move(matrix));
}

Result<std::unique_ptr<Vector>> CudaBackend::make_vector(std::span<const TensorView> parts,
                                                         float offset) {
  std::vector<float> values;
  for (const TensorView& part : parts) {
    LH_ASSIGN_OR_RETURN(const std::vector<float> floats, tensor_floats(part));
    for (const float value : floats) values.push_back(value + offset);
  }
  auto vector = std::make_unique<CudaVector>();
  vector->size = static_cast<int64_t>(values.size());
  LH_ASSIGN_OR_RETURN(vector->data, upload_floats(values));
  return std::unique_ptr<Vector>(std::move(vector));
}

Result<std::unique_ptr<RopeTable>> CudaBackend::make_rope(const RopeConfig& config,
                                                          int32_t max_position) {
  (void)max_position;  // angles are computed for each step's positions
  if (config.dim <= 0 || config.dim % 2 != 0 ||
      config.inv_freq.size() != static_cast<size_t>(config.dim / 2)) {
    return error(ErrorCode::kModelFormat, "rope: %zu inverse frequencies for %d channels",
                 config.inv_freq.size(), config.dim);
  }
  auto rope = std::make_unique<CudaRope>();
  rope->half_dim = config.dim / 2;
  rope->interleaved = config.style == RopeStyle::kInterleaved;
  rope->attention_factor = config.attention_factor;
  LH_ASSIGN_OR_RETURN(rope->inv_freq, upload_floats(config.inv_freq));
  return std::unique_ptr<RopeTable>(std::move(rope));
}

Result<float*> CudaBackend::upload_floats(const std::vector<float>& values) {
  const auto count = static_cast<int64_t>(values.size());
  LH_ASSIGN_OR_RETURN(float* const data, memory_.take_array<float>(count));
  LH_TRY(uploader_->upload_bytes(values.data(), count * 4, reinterpret_cast<std::byte*>(data)));
  return data;
}

Status CudaBackend::create_kv_pool(const KvLayout& layout, int32_t num_blocks, int32_t num_slots,
                                   int32_t num_heads, int32_t max_partials) {
  (void)max_partials;  // the attention plan's are sized with the scratch
  const int64_t bytes = num_blocks * layout.block_bytes();
  if (num_slots != num_slots_ || num_heads <= 0 || layout.block_bytes() != layout_.block_bytes() ||
      bytes > std::max(plan_.pool_bytes, layout.block_bytes())) {
    return error(ErrorCode::kInternal,
                 "kv pool: %d blocks of %lld bytes, %d slots; planned were %lld bytes, %d slots",
                 num_blocks, static_cast<long long>(layout.block_bytes()), num_slots,
                 static_cast<long long>(plan_.pool_bytes), num_slots_);
  }
  num_blocks_ = num_blocks;
  LH_ASSIGN_OR_RETURN(void* const pool, runtime_->allocate(bytes, "K/V cache"));
  pool_ = static_cast<std::byte*>(pool);
  LH_TRY(take_scratch());
  LH_TRY(prepare_products());
  LH_TRY(uploader_->finish());
  uploader_.reset();
  matrices_.clear();
  return {};
}

Status CudaBackend::take_scratch() {
  LH_ASSIGN_OR_RETURN(input_buffer_.data, memory_.take(plan_.input_bytes));
  input_buffer_.rows = plan_.rows;
  LH_ASSIGN_OR_RETURN(projected_, memory_.take_array<float>(plan_.projected_floats));
  ProductScratch products;
  LH_ASSIGN_OR_RETURN(products.gated, memory_.take_array<float>(plan_.gated_floats));
  products.gated_floats = plan_.gated_floats;
  LH_ASSIGN_OR_RETURN(products.dequantized, memory_.take(plan_.dequantized_bytes));
  products.dequantized_bytes = plan_.dequantized_bytes;
  LH_ASSIGN_OR_RETURN(products.partials, memory_.take_array<float>(device::kQuantPartials));
  LH_ASSIGN_OR_RETURN(products.counters, memory_.take_array<int32_t>(device::kQuantCounters));
  products_.set_scratch(products);
  LH_ASSIGN_OR_RETURN(partial_o_,
                      memory_.take_array<float>(int64_t{plan_.partial_rows} * layout_.head_dim));
  LH_ASSIGN_OR_RETURN(partial_ml_, memory_.take_array<float>(int64_t{plan_.partial_rows} * 2));
  LH_ASSIGN_OR_RETURN(sample_scratch_, memory_.take(plan_.sample_bytes));
  LH_ASSIGN_OR_RETURN(forward_data_, memory_.take(plan_.forward_bytes));
  LH_ASSIGN_OR_RETURN(last_tokens_, memory_.take_array<int32_t>(num_slots_));
  upload_ = std::make_unique<StepUpload>(*runtime_, compute_);
  LH_TRY(upload_->open(plan_.upload_bytes, memory_));
  LH_TRY(results_.open(plan_.result_rows, memory_));
  return host_sampler_.open(vocab_size_, std::min(kHostRowsMax, num_logits_max_));
}

// Dense products of every shape that a step can have: rows of a bucket with each of the model's
// matrices. Layers share shapes, and each shape is prepared once.
Status CudaBackend::prepare_products() {
  const device::Epilogue in_place =
      post_norms_ ? device::Epilogue::kStore : device::Epilogue::kAdd;
  Status status;
  for_each_bucket(plan_.rows, [&](int32_t rows) {
    for (const CudaMatrix* const matrix : matrices_) {
      if (!status.ok()) return;
      UnwrittenRows source(input_buffer_, matrix->cols);
      if (matrix->use == MatrixUse::kGatedUp) {
        const int64_t columns = matrix->rows / 2;
        status = products_.prepare_gated(
            *matrix, rows, source,
            rows_in_form(device::InputForm::kF32, projected_, rows, columns));
        continue;
      }
      // Logits have few rows at a time; what is not added in place has no more of them than the
      // widest product.
      const bool is_logits = matrix->rows == vocab_size_;
      if (is_logits && rows > plan_.logits_rows) continue;
      status = products_.prepare(*matrix, rows, source, device::Epilogue::kStore, projected_,
                                 matrix->rows);
      if (status.ok() && in_place == device::Epilogue::kAdd && !is_logits) {
        status = products_.prepare(*matrix, rows, source, in_place, projected_, matrix->rows);
      }
    }
  });
  return status;
}

}  // namespace longhaul::cuda
