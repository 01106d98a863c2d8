// attention_combine: output rows from the partials of their items (and of other segments): what a
// merge is: attention_params.h.
#pragma once

#include "attention_params.h"
#include "launch.h"

namespace longhaul::device {

// head_dim: a multiple of 4 up to 256; grids.combine blocks.
int launch_attention_combine(const AttentionParams& params, Stream stream);

}  // namespace longhaul::device
