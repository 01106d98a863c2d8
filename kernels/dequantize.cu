#include "dequantize.cuh"
#include "launch.cuh"

namespace longhaul::device {

int launch_dequantize(const DequantizeParams& p, Stream stream) {
  using Config = DequantizeConfig;
  const auto aligned = [](const void* pointer) {
    return (reinterpret_cast<uintptr_t>(pointer) & 15) == 0;
  };
  if (p.w.rows <= 0 || p.w.cols <= 0 || p.w.cols % col_multiple(p.w.format) != 0 ||
      !aligned(p.w.data) || !aligned(p.out) || p.out_stride % 8 != 0 || p.tiles < 0 ||
      p.first_tile < 0 || p.first_tile + int64_t{p.tiles} > num_tiles(p.w)) {
    return kInvalidLaunch;
  }
  const int32_t runs = (num_steps(p.w.cols) + Config::kSteps - 1) / Config::kSteps;
  constexpr int32_t kWarps = Config::kThreads / 32;
  LaunchShape shape;
  shape.grid =
      dim3(static_cast<uint32_t>(p.tiles), static_cast<uint32_t>((runs + kWarps - 1) / kWarps), 1);
  shape.threads = Config::kThreads;
  switch (p.w.format) {
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
      return kInvalidLaunch;
    case WeightFormat::kQ8_0:
      return launch_kernel<dequantize_kernel<WeightFormat::kQ8_0>>(shape, p, stream);
    case WeightFormat::kQ4_0:
      return launch_kernel<dequantize_kernel<WeightFormat::kQ4_0>>(shape, p, stream);
    case WeightFormat::kQ4_1:
      return launch_kernel<dequantize_kernel<WeightFormat::kQ4_1>>(shape, p, stream);
    case WeightFormat::kQ5_0:
      return launch_kernel<dequantize_kernel<WeightFormat::kQ5_0>>(shape, p, stream);
    case WeightFormat::kQ5_1:
      return launch_kernel<dequantize_kernel<WeightFormat::kQ5_1>>(shape, p, stream);
    case WeightFormat::kQ4_K:
      return launch_kernel<dequantize_kernel<WeightFormat::kQ4_K>>(shape, p, stream);
    case WeightFormat::kQ5_K:
      return launch_kernel<dequantize_kernel<WeightFormat::kQ5_K>>(shape, p, stream);
    case WeightFormat::kQ6_K:
      return launch_kernel<dequantize_kernel<WeightFormat::kQ6_K>>(shape, p, stream);
  }
  return kInvalidLaunch;
}

}  // namespace longhaul::device
