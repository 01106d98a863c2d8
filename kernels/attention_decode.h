// attention_decode: items of up to 16 packed query rows against a range of keys, at the rate of
// memory: K and V of a kv head are read once for all its query heads. What an item is:
// attention_params.h.
#pragma once

#include "attention_params.h"
#include "launch.h"

namespace longhaul::device {

// head_dim 64, 80, 96, 128 or 256; any CacheType; grids.decode blocks.
int launch_attention_decode(const AttentionParams& params, Stream stream);

}  // namespace longhaul::device
