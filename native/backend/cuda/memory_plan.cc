#include "backend/cuda/memory_plan.h"

#include <algorithm>
#include <cstddef>

#include "backend/cuda/attention_plan.h"
#include "backend/cuda/device_arena.h"
#include "backend/cuda/device_matrix_layout.h"
#include "backend/cuda/product_rows.h"
#include "backend/cuda/row_bucket.h"
#include "backend/cuda/sample_lists.h"
#include "backend/cuda/step_upload.h"
#include "matmul.h"
#include "sample.h"

namespace longhaul::cuda {
namespace {

// Gate and up of a range of columns before they are multiplied: about what an L2 cache holds, and
// wide enough for whole waves of tiles in the products.
constexpr int64_t kGatedFloats = int64_t{16} << 20;
// Expanded rows of a quantized matrix: 8,192 of 4,096 columns, several waves of tiles.
constexpr int64_t kDequantizedBytes = int64_t{64} << 20;
// Not ours to plan: code that the driver loads when a kernel first runs, graphs, the workspace of
// the dense products.
constexpr int64_t kReserveBytes = int64_t{512} << 20;
constexpr int64_t kReserveShare = 16;  // no more than this part of a small device
// An emulated device's memory is the host's, and it would take days to fill a large cache there.
constexpr int64_t kEmulatedPoolBytes = int64_t{64} << 20;

Status plan_matrices(const ModelNeeds& needs, MemoryPlan* plan) {
  int64_t expanded = 0;
  bool apart = false;
  for (const MatrixNeed& need : needs.matrices) {
    LH_ASSIGN_OR_RETURN(const DeviceMatrixLayout layout,
                        plan_device_matrix(need.parts, need.use == MatrixUse::kGatedUp));
    plan->weight_bytes += arena_bytes(layout.bytes);
    apart |= need.use == MatrixUse::kGatedUp && !layout.pieces[0].paired;
    for (const DevicePiece& piece : layout.pieces) {
      plan->unit_bytes_max = std::max(plan->unit_bytes_max, piece.unit_bytes);
      if (!device::is_dense(piece.format)) {
        const int64_t rows = (piece.rows + device::kTileRows - 1) / device::kTileRows *
                             int64_t{device::kTileRows};
        const int64_t tile = int64_t{device::kTileRows} * piece.cols * 2;
        expanded = std::max(expanded, std::max(tile, std::min(rows * piece.cols * 2,
                                                              kDequantizedBytes)));
      }
    }
  }
  if (plan->rows > device::kQuantRowsMax) plan->dequantized_bytes = expanded;
  const int64_t both = 2 * int64_t{plan->rows} * needs.config->intermediate_size;
  const int64_t least = 2 * int64_t{plan->rows} * 64;
  plan->gated_floats = apart ? both : std::max(least, std::min(both, kGatedFloats));
  return {};
}

int64_t vector_bytes_of(const ModelConfig& config) {
  const auto floats = [](int64_t count) { return arena_bytes(count * 4); };
  const int64_t layers = config.num_layers(), norm = floats(config.hidden_size);
  int64_t bytes = norm + layers * 2 * norm;
  if (config.post_norms) bytes += layers * 2 * norm;
  if (config.qk_norm) bytes += layers * 2 * floats(config.head_dim);
  if (config.qkv_bias) {
    bytes += layers * floats(int64_t{config.num_heads + 2 * config.num_kv_heads} * config.head_dim);
  }
  for (const RopeConfig& rope : config.ropes) bytes += floats(rope.dim / 2);
  return bytes;
}

}  // namespace

Result<MemoryPlan> plan_model(const ModelNeeds& needs, const device::AttentionGrids& grids) {
  const ModelConfig& config = *needs.config;
  const int64_t hidden = config.hidden_size, intermediate = config.intermediate_size;
  const int64_t q_size = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv_size = int64_t{config.num_kv_heads} * config.head_dim;
  MemoryPlan plan;
  plan.rows = row_bucket(std::max(needs.num_tokens_max, needs.num_slots));
  plan.logits_rows = row_bucket(needs.num_logits_max);
  plan.result_rows = needs.num_tokens_max + needs.num_slots;
  LH_TRY(plan_matrices(needs, &plan));
  plan.vector_bytes = vector_bytes_of(config);
  const int64_t rows = plan.rows;
  plan.activation_bytes = arena_bytes(rows * hidden * 4) + 2 * arena_bytes(rows * q_size * 4) +
                          arena_bytes(rows * intermediate * 4) +
                          arena_bytes(int64_t{plan.logits_rows} * config.vocab_size * 4);
  plan.input_bytes = form_bytes_max(rows, std::max({hidden, q_size, intermediate}));
  plan.projected_floats = rows * std::max(q_size + 2 * kv_size, hidden);
  plan.partial_rows = partial_rows_wanted(grids);
  plan.sample_bytes = device::sample_scratch_bytes(config.vocab_size, plan.logits_rows);
  return plan;
}

void plan_steps(const ModelNeeds& needs, int64_t forward_bytes, MemoryPlan* plan) {
  plan->forward_bytes = forward_bytes;
  plan->upload_bytes = arena_bytes(forward_bytes) +
                       SampleLists::step_bytes(plan->result_rows, needs.num_logits_max) +
                       arena_bytes(int64_t{kCopyPairsMax} * 2 * 4) +
                       arena_bytes(int64_t{plan->rows} * 4);  // rows to compact
  const int64_t results = arena_bytes(int64_t{plan->result_rows} * sizeof(device::SampleResult)) +
                          arena_bytes(int64_t{plan->result_rows} * device::kSampleTopMax *
                                      int64_t{sizeof(device::SampleTop)});
  plan->scratch_bytes =
      arena_bytes(plan->input_bytes) + arena_bytes(plan->projected_floats * 4) +
      arena_bytes(plan->gated_floats * 4) + arena_bytes(plan->dequantized_bytes) +
      arena_bytes(device::kQuantPartials * 4) + arena_bytes(device::kQuantCounters * 4) +
      arena_bytes(int64_t{plan->partial_rows} * needs.config->head_dim * 4) +
      arena_bytes(int64_t{plan->partial_rows} * 2 * 4) + arena_bytes(plan->sample_bytes) +
      arena_bytes(plan->forward_bytes) + StepUpload::device_bytes(plan->upload_bytes) +
      kStepsInFlight * results + arena_bytes(int64_t{needs.num_slots} * 4);
}

Status plan_pool(const ModelNeeds& needs, const DeviceProperties& device, int64_t free_bytes,
                 bool in_host_memory, MemoryPlan* plan) {
  const int64_t reserve = std::min(kReserveBytes, device.memory_bytes / kReserveShare);
  const int64_t weights = plan->weight_bytes + plan->vector_bytes;
  const int64_t scratch = plan->activation_bytes + plan->scratch_bytes + reserve;
  const int64_t block = needs.layout.block_bytes();
  const int64_t left = free_bytes - weights - scratch;
  // A sequence needs a block of each group at the least.
  const int64_t least = block * static_cast<int64_t>(needs.group_windows.size());
  int64_t pool = needs.kv_memory_bytes;
  if (pool == 0) {
    pool = std::max(left, least);
    if (in_host_memory) {
      const int64_t suits = std::min(needs.kv_memory_default_bytes, kEmulatedPoolBytes);
      pool = std::min(pool, std::max(least, suits));
    }
  }
  plan->pool_bytes = pool / block * block;
  if (plan->pool_bytes <= left) return {};
  const auto number = [](int64_t bytes) { return static_cast<long long>(bytes); };
  const int64_t needed = weights + scratch + plan->pool_bytes;
  return error(ErrorCode::kOutOfMemory,
               "%s: the model needs %lld bytes (weights %lld, scratch and reserve %lld, K/V cache "
               "%lld), but %lld are free: %lld are missing. --kv-memory, --max-num-batched-tokens "
               "and --max-num-seqs make it smaller",
               device.name.c_str(), number(needed), number(weights), number(scratch),
               number(plan->pool_bytes), number(free_bytes), number(needed - free_bytes));
}

}  // namespace longhaul::cuda
