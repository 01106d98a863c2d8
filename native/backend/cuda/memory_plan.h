// MemoryPlan: what a model takes on the device, worked out before anything is allocated, so that a
// model that does not fit is refused with the number of bytes that are missing, and so that nothing
// has to be allocated while it runs.
#pragma once

#include <cstdint>

#include "attention_params.h"
#include "backend/backend.h"
#include "backend/cuda/device_runtime.h"
#include "status.h"

namespace longhaul::cuda {

struct MemoryPlan {
  int32_t rows = 0;              // of a step, padding included
  int32_t logits_rows = 0;       // in memory at a time, padding included
  int32_t result_rows = 0;       // sampled or looked up in a step

  int64_t weight_bytes = 0;      // matrices
  int64_t unit_bytes_max = 0;    // largest unit of packing (device_matrix_layout.h)
  int64_t vector_bytes = 0;      // norms, biases, RoPE frequencies
  int64_t activation_bytes = 0;  // Backend::allocate

  // Scratch.
  int64_t input_bytes = 0;       // rows of a product's input in its form
  int64_t projected_floats = 0;  // results of products that are not added in place
  int64_t gated_floats = 0;      // ProductScratch
  int64_t dequantized_bytes = 0;
  int32_t partial_rows = 0;      // of attention
  int64_t sample_bytes = 0;
  int64_t forward_bytes = 0;     // ForwardInputs
  int64_t upload_bytes = 0;      // of a step
  int64_t scratch_bytes = 0;     // of all that, with what is the same for every model

  int64_t pool_bytes = 0;        // K/V cache
};

// All but forward_bytes, upload_bytes and pool_bytes, which follow.
Result<MemoryPlan> plan_model(const ModelNeeds& needs, const device::AttentionGrids& grids);

// Inputs of steps, then the sum of scratch.
void plan_steps(const ModelNeeds& needs, int64_t forward_bytes, MemoryPlan* plan);

// Sizes the pool. kOutOfMemory with bytes needed, free and missing.
Status plan_pool(const ModelNeeds& needs, const DeviceProperties& device, int64_t free_bytes,
                 bool in_host_memory, MemoryPlan* plan);

}  // namespace longhaul::cuda
