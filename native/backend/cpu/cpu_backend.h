// CpuBackend: backend.h on the CPU. Activations are f32 in host memory; every operation is done
// when its call returns.
//
// The engine thread calls it and is worker 0 of the pool; nothing here is safe for two callers.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/attention.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/kv_store.h"
#include "backend/cpu/matmul.h"
#include "backend/cpu/small_ops.h"
#include "backend/cpu/thread_pool.h"

namespace longhaul::cpu {

class CpuRopeTable;

struct CpuMatrix : Matrix {
  // One piece, except a gate and an up of different types, which cannot be interleaved: then both.
  std::vector<PackedMatrixPtr> pieces;
};

struct CpuVector : Vector {
  std::vector<float> data;
};

// Zeroed, page aligned, given at first touch.
class Arena {
 public:
  Arena() = default;
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  static Result<Arena> create(int64_t bytes);
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

class CpuBackend : public Backend {
 public:
  CpuBackend(Isa isa, int num_threads);
  ~CpuBackend() override;

  BackendInfo info() const override;

  Result<int64_t> prepare(const ModelNeeds& needs) override;
  Result<DeviceTensor> allocate(int64_t rows, int64_t cols) override;
  Result<std::unique_ptr<Matrix>> make_matrix(std::span<const TensorView> parts,
                                              MatrixUse use) override;
  Result<std::unique_ptr<Vector>> make_vector(std::span<const TensorView> parts,
                                              float offset) override;
  Result<std::unique_ptr<RopeTable>> make_rope(const RopeConfig& config,
                                               int32_t max_position) override;
  Status create_kv_pool(const KvLayout& layout, int32_t num_blocks, int32_t num_slots,
                        int32_t num_heads, int32_t max_partials) override;

  Result<bool> begin_forward(const StepInputs& inputs) override {
    step_ = inputs;
    return false;
  }
  Status embed(const EmbedParams& params) override;
  Status qkv(const QkvParams& params) override;
  Status attention(const AttentionParams& params) override;
  Status project_add(const ProjectAddParams& params) override;
  Status gated_up(const GatedUpParams& params) override;
  Status end_forward() override { return {}; }
  Status logits(const LogitsParams& params) override;
  Status sample(const SampleParams& params) override;
  Status copy_blocks(std::span<const std::pair<int32_t, int32_t>> from_to) override;
  Status compact_rows(DeviceTensor* x, std::span<const int32_t> keep) override;
  Result<StepTicket> end_step() override { return StepTicket{0}; }
  Result<bool> is_step_done(StepTicket) override { return true; }
  Status wait_step(StepTicket) override { return {}; }
  Status read_block(int32_t block_id, std::span<std::byte> out) override;

 private:
  void finish_qkv_row(const QkvParams& params, const CpuRopeTable& rope, int32_t row,
                      float* projected);
  void gate_separately(const GatedUpParams& params, const CpuMatrix& matrix);
  // Scratch of at least `floats` floats, contents undefined; one buffer, for one operation.
  float* scratch(int64_t floats);
  // body(index, worker): on all workers when `floats` of work are worth waking them.
  template <typename Body>
  void for_rows(int64_t count, int64_t floats, const Body& body);

  Isa isa_;
  ThreadPool pool_;
  const RowOps& ops_;
  std::vector<Arena> tensors_;
  ActivationRows activations_;
  std::vector<float> scratch_;
  StepInputs step_;
  KvStore store_;
  AttentionScratch attention_scratch_;
  int32_t num_heads_ = 0;
  int32_t max_partials_ = 0;
  std::vector<int32_t> last_tokens_;  // [num_slots]; -1 = nothing sampled yet
};

}  // namespace longhaul::cpu
