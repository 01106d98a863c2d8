// launch_attention_decode_of<type>: the launch of attention_decode.cu, by head_dim. Included by one .cu
// file a type.
#pragma once

#include "attention_decode.cuh"
#include "launch.cuh"

namespace longhaul::device {

template <CacheType kType, int kHeadDim>
int launch_attention_decode_shape(const AttentionParams& params, Stream stream) {
  using Config = DecodeConfig<kHeadDim, kType>;
  LaunchShape shape;
  shape.grid = dim3(static_cast<uint32_t>(params.grids.decode));
  shape.threads = Config::kThreads;
  shape.shared_bytes = static_cast<uint32_t>(Config::kShape.shared_bytes);
  return launch_kernel<attention_decode_kernel<Config>>(shape, params, stream);
}

template <CacheType kType>
int launch_attention_decode_of(const AttentionParams& params, Stream stream) {
  switch (params.cache.head_dim) {
    case 64: return launch_attention_decode_shape<kType, 64>(params, stream);
    case 80: return launch_attention_decode_shape<kType, 80>(params, stream);
    case 96: return launch_attention_decode_shape<kType, 96>(params, stream);
    case 128: return launch_attention_decode_shape<kType, 128>(params, stream);
    case 256: return launch_attention_decode_shape<kType, 256>(params, stream);
  }
  return kInvalidLaunch;
}

}  // namespace longhaul::device
