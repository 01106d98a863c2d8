// copy_blocks: whole blocks of the pool, from and to. Pairs take effect one after the other: a
// later one may read what an earlier one wrote.
#pragma once

#include <cstddef>
#include <cstdint>

#include "launch.h"

namespace longhaul::device {

struct CopyBlocksParams {
  std::byte* pool = nullptr;        // block b is at b * block_bytes; 16-byte aligned
  int64_t block_bytes = 0;          // a multiple of 16
  const int32_t* pairs = nullptr;   // device, [num_pairs, 2] from, to
  int32_t num_pairs = 0;
};
int launch_copy_blocks(const CopyBlocksParams& params, Stream stream);

}  // namespace longhaul::device
