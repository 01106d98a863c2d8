// CudaBackend: backend.h over a device runtime, real or emulated (device_runtime.h). Activations are
// f32 in device memory; where a DeviceTensor is read by one product only, its rows may be written
// in the form that this product reads (DeviceTensor::form is a device::InputForm).
//
// Streams: kernels run on one; a second carries the step's inputs up (StepUpload), a third its
// results down; events order them. Nothing is allocated and, but for rows that the host has to
// sample, nothing waited for between begin_forward() and end_step().
//
// Decode steps (one row a sequence) are computed with a bucket of rows (row_bucket.h). A bucket's
// first step queues its kernels one by one, so that the driver has loaded them; the second is
// recorded; from then on the recording is replayed. Recordings stay valid for ever, since all that
// differs between steps is read from memory at fixed places (ForwardInputs).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "attention_params.h"
#include "backend/backend.h"
#include "backend/cuda/cuda_matrix.h"
#include "backend/cuda/device_arena.h"
#include "backend/cuda/device_runtime.h"
#include "backend/cuda/forward_inputs.h"
#include "backend/cuda/host_sampler.h"
#include "backend/cuda/memory_plan.h"
#include "backend/cuda/product_rows.h"
#include "backend/cuda/products.h"
#include "backend/cuda/sample_lists.h"
#include "backend/cuda/sample_results.h"
#include "backend/cuda/step_upload.h"
#include "backend/cuda/weight_uploader.h"
#include "backend/cuda_plugin.h"
#include "rms_norm.h"
#include "status.h"

namespace longhaul::cuda {

class CudaBackend final : public Backend {
 public:
  // `compute` is a stream of the runtime.
  CudaBackend(std::unique_ptr<DeviceRuntime> runtime, Stream compute);
  ~CudaBackend() override;

  BackendInfo info() const override;

  Result<int64_t> prepare(const ModelNeeds& needs) override;
  Result<DeviceTensor> allocate(int64_t rows, int64_t cols) override;
  Result<std::unique_ptr<Matrix>> make_matrix(std::span<const TensorView> parts,
                                              MatrixUse use) override;
  Result<std::unique_ptr<Vector>> make_vector(std::span<const TensorView> parts,
                                              float offset) override;
  Result<std::unique_ptr<RopeTable>> make_rope(const RopeConfig& config,
                                               int32_t max_position) override;
  // The last call of set-up: waits for the weights and chooses algorithms for dense products.
  Status create_kv_pool(const KvLayout& layout, int32_t num_blocks, int32_t num_slots,
                        int32_t num_heads, int32_t max_partials) override;

  Result<bool> begin_forward(const StepInputs& inputs) override;
  Status embed(const EmbedParams& params) override;
  Status qkv(const QkvParams& params) override;
  Status attention(const AttentionParams& params) override;
  Status project_add(const ProjectAddParams& params) override;
  Status gated_up(const GatedUpParams& params) override;
  Status end_forward() override;
  Status logits(const LogitsParams& params) override;
  Status sample(const SampleParams& params) override;
  Status copy_blocks(std::span<const std::pair<int32_t, int32_t>> from_to) override;
  Status compact_rows(DeviceTensor* x, std::span<const int32_t> keep) override;
  Result<StepTicket> end_step() override;
  Result<bool> is_step_done(StepTicket ticket) override;
  Status wait_step(StepTicket ticket) override;

  Status read_block(int32_t block_id, std::span<std::byte> out) override;

  // Decode steps that were replayed, for tests.
  int64_t num_replays() const { return num_replays_; }

 private:
  struct DecodeGraph {
    bool seen = false;
    std::optional<Graph> graph;
  };

  Status take_scratch();
  Status prepare_products();
  // Begins a step unless one has begun.
  Status open_step();
  device::CacheLayer cache_layer(int32_t layer_in_block) const;
  // Of the step's rows, but for where they go.
  device::RmsNormParams norm_of(const DeviceTensor* x, const Vector* norm, float eps) const;
  Result<float*> upload_floats(const std::vector<float>& values);
  Status launch_sample(const SampleParams& params);

  std::unique_ptr<DeviceRuntime> runtime_;
  Stream compute_;
  Products products_;

  // Of the model; set by prepare().
  bool post_norms_ = false;
  KvLayout layout_;
  device::CacheType cache_type_ = device::CacheType::kF16;
  int32_t num_slots_ = 0;
  int32_t num_logits_max_ = 0;
  int32_t vocab_size_ = 0;
  device::AttentionGrids grids_;
  MemoryPlan plan_;
  DeviceArena weights_;
  DeviceArena memory_;          // vectors, activations, scratch
  std::unique_ptr<WeightUploader> uploader_;   // while weights are made
  std::vector<const CudaMatrix*> matrices_;    // while weights are made

  // Device memory; sizes in MemoryPlan.
  InputBuffer input_buffer_;
  float* projected_ = nullptr;
  float* partial_o_ = nullptr;
  float* partial_ml_ = nullptr;
  std::byte* sample_scratch_ = nullptr;
  std::byte* forward_data_ = nullptr;
  int32_t* last_tokens_ = nullptr;   // [num_slots]
  std::byte* pool_ = nullptr;
  int32_t num_blocks_ = 0;

  // Of the step that is being queued.
  std::unique_ptr<StepUpload> upload_;
  std::unique_ptr<ForwardInputs> forward_;
  int32_t rows_ = 0;            // padding included
  bool step_open_ = false;
  bool capturing_ = false;
  std::map<int32_t, DecodeGraph> graphs_;   // by bucket
  int64_t num_replays_ = 0;
  SampleLists lists_;
  std::vector<SampleRow> device_rows_;
  std::vector<SampleRow> host_rows_;
  HostSampler host_sampler_;
  SampleResults results_;
  StepTicket next_ticket_ = 0;       // of the open or the next step
  StepTicket next_wait_ = 0;
};

Result<std::unique_ptr<Backend>> make_cuda_backend_on(std::unique_ptr<DeviceRuntime> runtime,
                                                      const CudaBackendOptions& options);

}  // namespace longhaul::cuda
