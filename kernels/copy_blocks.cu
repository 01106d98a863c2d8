#include "copy_blocks.cuh"

#include "launch.cuh"

namespace longhaul::device {

int launch_copy_blocks(const CopyBlocksParams& params, Stream stream) {
  if (params.num_pairs <= 0) return 0;
  if (params.block_bytes <= 0 || params.block_bytes % 16 != 0) return kInvalidLaunch;
  constexpr int64_t kBytes =
      int64_t{CopyBlocksConfig::kThreads} * CopyBlocksConfig::kVectors * 16;
  const int64_t blocks = (params.block_bytes + kBytes - 1) / kBytes;
  return launch_kernel<copy_blocks_kernel>(
      {dim3(static_cast<uint32_t>(blocks)), CopyBlocksConfig::kThreads, 0}, params, stream);
}

}  // namespace longhaul::device
