#include <algorithm>

#include "launch.cuh"
#include "matmul_quant.cuh"

namespace longhaul::device {
namespace {

// Parts of K for `blocks` blocks a part: about one block a multiprocessor, at least two stages
// each.
int32_t num_parts(const MatmulParams& p, int32_t blocks) {
  if (p.partials == nullptr || p.counters == nullptr) return 1;
  const int32_t stages =
      (num_steps(p.w.cols) + MatmulQuantConfig::kSteps - 1) / MatmulQuantConfig::kSteps;
  return std::clamp(std::min(kQuantSplitBlocks / blocks, stages / 2), 1, 8);
}

template <WeightFormat kFormat, int kTokens>
int launch_tokens(const MatmulParams& p, Stream stream) {
  const int32_t row_blocks =
      (num_tiles(p.w) + MatmulQuantConfig::kTiles - 1) / MatmulQuantConfig::kTiles;
  const int32_t blocks = row_blocks * ((p.rows + kTokens - 1) / kTokens);
  LaunchShape shape;
  shape.grid = dim3(static_cast<uint32_t>(blocks), static_cast<uint32_t>(num_parts(p, blocks)), 1);
  shape.threads = MatmulQuantConfig::kThreads;
  shape.shared_bytes = QuantStage<kFormat, kTokens>::kShared;
  return launch_kernel<matmul_quant_kernel<kFormat, kTokens>>(shape, p, stream);
}

template <WeightFormat kFormat>
int launch_format(const MatmulParams& p, Stream stream) {
  if (p.rows <= 16) return launch_tokens<kFormat, 16>(p, stream);
  if (p.rows <= 32 || QuantStage<kFormat, 64>::kShared > p.shared_bytes_max) {
    return launch_tokens<kFormat, 32>(p, stream);
  }
  return launch_tokens<kFormat, 64>(p, stream);
}

}  // namespace

int launch_matmul_quant(const MatmulParams& p, Stream stream) {
  // Offsets into x are 32 bits wide.
  if (!valid_matmul(p) || p.rows * p.x.stride > INT32_MAX) return kInvalidLaunch;
  if (p.rows == 0) return is_dense(p.w.format) ? kInvalidLaunch : 0;
  switch (p.w.format) {
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
      return kInvalidLaunch;
    case WeightFormat::kQ8_0:
      return launch_format<WeightFormat::kQ8_0>(p, stream);
    case WeightFormat::kQ4_0:
      return launch_format<WeightFormat::kQ4_0>(p, stream);
    case WeightFormat::kQ4_1:
      return launch_format<WeightFormat::kQ4_1>(p, stream);
    case WeightFormat::kQ5_0:
      return launch_format<WeightFormat::kQ5_0>(p, stream);
    case WeightFormat::kQ5_1:
      return launch_format<WeightFormat::kQ5_1>(p, stream);
    case WeightFormat::kQ4_K:
      return launch_format<WeightFormat::kQ4_K>(p, stream);
    case WeightFormat::kQ5_K:
      return launch_format<WeightFormat::kQ5_K>(p, stream);
    case WeightFormat::kQ6_K:
      return launch_format<WeightFormat::kQ6_K>(p, stream);
  }
  return kInvalidLaunch;
}

}  // namespace longhaul::device
