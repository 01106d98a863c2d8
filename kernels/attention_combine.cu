// Launcher of attention_combine.
#include "attention_combine.h"

#include "attention_combine.cuh"
#include "launch.cuh"

namespace longhaul::device {
namespace {

template <int kVectors>
int launch(const AttentionParams& params, Stream stream) {
  using Config = CombineConfig<kVectors>;
  LaunchShape shape;
  shape.grid = dim3(static_cast<uint32_t>(params.grids.combine));
  shape.threads = Config::kThreads;
  shape.shared_bytes = Config::kSharedBytes;
  return launch_kernel<attention_combine_kernel<Config>>(shape, params, stream);
}

}  // namespace

int launch_attention_combine(const AttentionParams& params, Stream stream) {
  if (!is_attention_launch(params) || params.cache.head_dim % 4 != 0) return kInvalidLaunch;
  if (params.cache.head_dim <= 128) return launch<1>(params, stream);
  if (params.cache.head_dim <= 256) return launch<2>(params, stream);
  return kInvalidLaunch;
}

}  // namespace longhaul::device
