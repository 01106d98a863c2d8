#include "rms_norm.cuh"

#include "launch.cuh"

namespace longhaul::device {
namespace {

// A block that owns a row of `cols`.
LaunchShape row_shape(int32_t rows, int32_t cols) {
  const int vectors = cols / 4;
  const int wanted = (vectors + RmsNormConfig::kVectorsPerThread - 1) /
                     RmsNormConfig::kVectorsPerThread;
  int threads = (wanted + 31) / 32 * 32;
  if (threads < 32) threads = 32;
  if (threads > RmsNormConfig::kThreadsMax) threads = RmsNormConfig::kThreadsMax;
  return {dim3(static_cast<uint32_t>(rows)), static_cast<uint32_t>(threads),
          RmsNormConfig::kSharedBytes};
}

template <bool kPost>
int launch_add(const LaunchShape& shape, const AddNormParams& params, Stream stream) {
  constexpr InputForm kNone = InputForm::kF32;  // nothing is written
  if (!params.weight) {
    return launch_kernel<add_norm_kernel<kNone, kPost, false>>(shape, params, stream);
  }
  switch (params.out.form) {
    case InputForm::kF32:
      return launch_kernel<add_norm_kernel<InputForm::kF32, kPost, true>>(shape, params, stream);
    case InputForm::kF16:
      return launch_kernel<add_norm_kernel<InputForm::kF16, kPost, true>>(shape, params, stream);
    case InputForm::kBF16:
      return launch_kernel<add_norm_kernel<InputForm::kBF16, kPost, true>>(shape, params, stream);
    case InputForm::kQ8:
      return launch_kernel<add_norm_kernel<InputForm::kQ8, kPost, true>>(shape, params, stream);
  }
  return kInvalidLaunch;
}

}  // namespace

int launch_rms_norm(const RmsNormParams& params, Stream stream) {
  if (params.rows <= 0) return 0;
  if (!valid_output(params.out, params.cols) || params.x_stride % 4 != 0) return kInvalidLaunch;
  const LaunchShape shape = row_shape(params.rows, params.cols);
  switch (params.out.form) {
    case InputForm::kF32:
      return launch_kernel<rms_norm_kernel<InputForm::kF32>>(shape, params, stream);
    case InputForm::kF16:
      return launch_kernel<rms_norm_kernel<InputForm::kF16>>(shape, params, stream);
    case InputForm::kBF16:
      return launch_kernel<rms_norm_kernel<InputForm::kBF16>>(shape, params, stream);
    case InputForm::kQ8:
      return launch_kernel<rms_norm_kernel<InputForm::kQ8>>(shape, params, stream);
  }
  return kInvalidLaunch;
}

int launch_add_norm(const AddNormParams& params, Stream stream) {
  if (params.rows <= 0) return 0;
  if (params.cols <= 0 || params.cols % 4 != 0 || params.x_stride % 4 != 0 ||
      params.y_stride % 4 != 0) {
    return kInvalidLaunch;
  }
  const LaunchShape shape = row_shape(params.rows, params.cols);
  if (params.weight && !valid_output(params.out, params.cols)) return kInvalidLaunch;
  return params.post_weight ? launch_add<true>(shape, params, stream)
                            : launch_add<false>(shape, params, stream);
}

int launch_convert_rows(const ConvertRowsParams& params, Stream stream) {
  if (params.rows <= 0) return 0;
  if (!valid_output(params.out, params.cols) || params.x_stride % 4 != 0) return kInvalidLaunch;
  constexpr uint32_t kThreads = ConvertRowsConfig::kThreads;
  // With the columns that kQ8 fills.
  const uint32_t vectors = (static_cast<uint32_t>(params.cols) + 63) / 64 * 16;
  const uint32_t blocks = (vectors + kThreads - 1) / kThreads;
  const uint32_t rows = params.rows < 65535 ? static_cast<uint32_t>(params.rows) : 65535u;
  const LaunchShape shape{dim3(blocks, rows), kThreads, 0};
  switch (params.out.form) {
    case InputForm::kF32:
      return launch_kernel<convert_rows_kernel<InputForm::kF32>>(shape, params, stream);
    case InputForm::kF16:
      return launch_kernel<convert_rows_kernel<InputForm::kF16>>(shape, params, stream);
    case InputForm::kBF16:
      return launch_kernel<convert_rows_kernel<InputForm::kBF16>>(shape, params, stream);
    case InputForm::kQ8:
      return launch_kernel<convert_rows_kernel<InputForm::kQ8>>(shape, params, stream);
  }
  return kInvalidLaunch;
}

}  // namespace longhaul::device
