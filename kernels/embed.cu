#include "embed.cuh"
#include "launch.cuh"

namespace longhaul::device {

int launch_embed(const EmbedParams& p, Stream stream) {
  const auto aligned = [](const void* pointer) {
    return (reinterpret_cast<uintptr_t>(pointer) & 15) == 0;
  };
  if (p.w.rows <= 0 || p.w.cols <= 0 || p.w.cols % col_multiple(p.w.format) != 0 || p.w.paired ||
      !aligned(p.w.data) || !aligned(p.out) || p.out_stride % 4 != 0 || p.num_tokens < 0) {
    return kInvalidLaunch;
  }
  const int32_t cols = is_dense(p.w.format) ? EmbedConfig::kDenseCols : EmbedConfig::kQuantCols;
  LaunchShape shape;
  shape.grid = dim3(static_cast<uint32_t>(p.num_tokens),
                    static_cast<uint32_t>((p.w.cols + cols - 1) / cols), 1);
  shape.threads = EmbedConfig::kThreads;
  switch (p.w.format) {
    case WeightFormat::kF16:
      return launch_kernel<embed_dense_kernel<f16>>(shape, p, stream);
    case WeightFormat::kBF16:
      return launch_kernel<embed_dense_kernel<bf16>>(shape, p, stream);
    case WeightFormat::kQ8_0:
      return launch_kernel<embed_quant_kernel<WeightFormat::kQ8_0>>(shape, p, stream);
    case WeightFormat::kQ4_0:
      return launch_kernel<embed_quant_kernel<WeightFormat::kQ4_0>>(shape, p, stream);
    case WeightFormat::kQ4_1:
      return launch_kernel<embed_quant_kernel<WeightFormat::kQ4_1>>(shape, p, stream);
    case WeightFormat::kQ5_0:
      return launch_kernel<embed_quant_kernel<WeightFormat::kQ5_0>>(shape, p, stream);
    case WeightFormat::kQ5_1:
      return launch_kernel<embed_quant_kernel<WeightFormat::kQ5_1>>(shape, p, stream);
    case WeightFormat::kQ4_K:
      return launch_kernel<embed_quant_kernel<WeightFormat::kQ4_K>>(shape, p, stream);
    case WeightFormat::kQ5_K:
      return launch_kernel<embed_quant_kernel<WeightFormat::kQ5_K>>(shape, p, stream);
    case WeightFormat::kQ6_K:
      return launch_kernel<embed_quant_kernel<WeightFormat::kQ6_K>>(shape, p, stream);
  }
  return kInvalidLaunch;
}

}  // namespace longhaul::device
