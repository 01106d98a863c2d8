// attention_prefill: items of up to attention_prefill_rows(head_dim) packed query rows against a range
// of keys, at the rate of the tensor cores. What an item is: attention_params.h.
#pragma once

#include "attention_params.h"
#include "launch.h"

namespace longhaul::device {

// head_dim 64, 80, 96, 128 or 256; any CacheType; grids.prefill blocks.
int launch_attention_prefill(const AttentionParams& params, Stream stream);

}  // namespace longhaul::device
