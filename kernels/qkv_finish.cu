#include "qkv_finish.cuh"

#include "launch.cuh"

namespace longhaul::device {
namespace {

template <CacheType kType>
int launch_type(const LaunchShape& shape, const QkvFinishParams& params, Stream stream) {
  const int32_t head_dim = params.cache.head_dim;
  if (head_dim <= 128) return launch_kernel<qkv_finish_kernel<kType, 1>>(shape, params, stream);
  if (head_dim <= 256) return launch_kernel<qkv_finish_kernel<kType, 2>>(shape, params, stream);
  return launch_kernel<qkv_finish_kernel<kType, 4>>(shape, params, stream);
}

}  // namespace

int launch_qkv_finish(const QkvFinishParams& params, Stream stream) {
  if (params.rows <= 0) return 0;
  const CacheLayer& cache = params.cache;
  if (cache.head_dim <= 0 || cache.head_dim % 16 != 0 ||
      cache.head_dim > QkvFinishConfig::kHeadDimMax || params.half_dim < 0 ||
      2 * params.half_dim > cache.head_dim || params.num_heads <= 0 || cache.num_kv_heads <= 0 ||
      cache.block_size <= 0 || params.qkv_stride % 4 != 0 || params.q_stride % 4 != 0) {
    return kInvalidLaunch;
  }
  const int32_t units = params.num_heads + cache.num_kv_heads;
  // As few blocks a row as kWarpsMax allows, of equal size.
  const int32_t parts_min = (units + QkvFinishConfig::kWarpsMax - 1) / QkvFinishConfig::kWarpsMax;
  const int32_t warps = (units + parts_min - 1) / parts_min;
  const int32_t parts = (units + warps - 1) / warps;
  const int32_t padded_half = (params.half_dim + 3) / 4 * 4;
  LaunchShape shape;
  shape.grid = dim3(static_cast<uint32_t>(params.rows) * static_cast<uint32_t>(parts));
  shape.threads = static_cast<uint32_t>(warps) * 32;
  shape.shared_bytes = static_cast<uint32_t>((2 * padded_half + warps * cache.head_dim) *
                                             static_cast<int32_t>(sizeof(float)));
  switch (cache.type) {
    case CacheType::kF16: return launch_type<CacheType::kF16>(shape, params, stream);
    case CacheType::kBF16: return launch_type<CacheType::kBF16>(shape, params, stream);
    case CacheType::kQ8: return launch_type<CacheType::kQ8>(shape, params, stream);
    case CacheType::kFp8: return launch_type<CacheType::kFp8>(shape, params, stream);
  }
  return kInvalidLaunch;
}

}  // namespace longhaul::device
