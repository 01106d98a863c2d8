#include "launch.cuh"
#include "matmul_gemv.cuh"

namespace longhaul::device {
namespace {

// Every warp should have a step or two: a turn is one step, or of K types four.
uint32_t num_warps(const MatmulParams& p) {
  using Config = MatmulGemvConfig;
  const int32_t turns =
      num_steps(p.w.cols) / (weight_format_info(p.w.format).super_bytes > 0 ? 4 : 1);
  return turns >= Config::kWarps ? Config::kWarps : Config::kWarpsShort;
}

template <WeightFormat kFormat>
int launch_quant(const LaunchShape& shape, const MatmulParams& p, Stream stream) {
  return p.rows == 1 ? launch_kernel<matmul_gemv_quant_kernel<kFormat, 1>>(shape, p, stream)
                     : launch_kernel<matmul_gemv_quant_kernel<kFormat, 2>>(shape, p, stream);
}

}  // namespace

int launch_matmul_gemv(const MatmulParams& p, Stream stream) {
  if (!valid_matmul(p) || p.rows > kGemvRowsMax) return kInvalidLaunch;
  if (p.rows == 0) return 0;
  LaunchShape shape;
  shape.grid = dim3(static_cast<uint32_t>(num_tiles(p.w)), 1, 1);
  shape.threads = num_warps(p) * 32;
  shape.shared_bytes = shape.threads / 32 * MatmulGemvConfig::kPartial * sizeof(float);
  switch (p.w.format) {
    case WeightFormat::kF16:
      return launch_kernel<matmul_gemv_dense_kernel<f16>>(shape, p, stream);
    case WeightFormat::kBF16:
      return launch_kernel<matmul_gemv_dense_kernel<bf16>>(shape, p, stream);
    case WeightFormat::kQ8_0:
      return launch_quant<WeightFormat::kQ8_0>(shape, p, stream);
    case WeightFormat::kQ4_0:
      return launch_quant<WeightFormat::kQ4_0>(shape, p, stream);
    case WeightFormat::kQ4_1:
      return launch_quant<WeightFormat::kQ4_1>(shape, p, stream);
    case WeightFormat::kQ5_0:
      return launch_quant<WeightFormat::kQ5_0>(shape, p, stream);
    case WeightFormat::kQ5_1:
      return launch_quant<WeightFormat::kQ5_1>(shape, p, stream);
    case WeightFormat::kQ4_K:
      return launch_quant<WeightFormat::kQ4_K>(shape, p, stream);
    case WeightFormat::kQ5_K:
      return launch_quant<WeightFormat::kQ5_K>(shape, p, stream);
    case WeightFormat::kQ6_K:
      return launch_quant<WeightFormat::kQ6_K>(shape, p, stream);
  }
  return kInvalidLaunch;
}

}  // namespace longhaul::device
