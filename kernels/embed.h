// embed: rows of the embedding matrix, of any weight format, as f32.
#pragma once

#include <cstdint>

#include "launch.h"
#include "weight_layout.h"

namespace longhaul::device {

struct EmbedParams {
  WeightMatrix w;  // [vocab_size, cols], not paired
  // [num_tokens]; an id of -1 - slot stands for last_tokens[slot]. What lies outside of the
  // vocabulary or of the slots reads the nearest row or slot: the host checks ids it knows, and a
  // slot that has sampled nothing (-1) is not worth a fault of the device.
  const int32_t* token_ids = nullptr;
  int32_t num_tokens = 0;                // 0 is allowed
  const int32_t* last_tokens = nullptr;  // [num_slots]; may be null when num_slots is 0
  int32_t num_slots = 0;
  float scale = 1.0f;
  float* out = nullptr;    // [num_tokens, w.cols], 16-byte aligned
  int64_t out_stride = 0;  // elements, a multiple of 4
};
int launch_embed(const EmbedParams& params, Stream stream);

}  // namespace longhaul::device
