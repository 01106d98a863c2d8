#include "silu_mul.cuh"

#include "launch.cuh"

namespace longhaul::device {
namespace {

template <GateActivation kActivation>
int launch_form(const LaunchShape& shape, const SiluMulParams& params, Stream stream) {
  switch (params.out.form) {
    case InputForm::kF32:
      return launch_kernel<silu_mul_kernel<InputForm::kF32, kActivation>>(shape, params, stream);
    case InputForm::kF16:
      return launch_kernel<silu_mul_kernel<InputForm::kF16, kActivation>>(shape, params, stream);
    case InputForm::kBF16:
      return launch_kernel<silu_mul_kernel<InputForm::kBF16, kActivation>>(shape, params, stream);
    case InputForm::kQ8:
      return launch_kernel<silu_mul_kernel<InputForm::kQ8, kActivation>>(shape, params, stream);
  }
  return kInvalidLaunch;
}

}  // namespace

int launch_silu_mul(const SiluMulParams& params, Stream stream) {
  if (params.rows <= 0) return 0;
  const bool planes = params.step == 1;
  const bool alternating = params.step == 2 && params.up == params.gate + 1;
  if (!valid_output(params.out, params.cols) || params.stride % 4 != 0 ||
      (!planes && !alternating)) {
    return kInvalidLaunch;
  }
  constexpr uint32_t kThreads = SiluMulConfig::kThreads;
  // With the columns that kQ8 fills.
  const uint32_t vectors = (static_cast<uint32_t>(params.cols) + 63) / 64 * 16;
  const uint32_t blocks = (vectors + kThreads - 1) / kThreads;
  const uint32_t rows = params.rows < 65535 ? static_cast<uint32_t>(params.rows) : 65535u;
  const LaunchShape shape{dim3(blocks, rows), kThreads, 0};
  switch (params.activation) {
    case GateActivation::kSilu: return launch_form<GateActivation::kSilu>(shape, params, stream);
    case GateActivation::kGeluTanh:
      return launch_form<GateActivation::kGeluTanh>(shape, params, stream);
  }
  return kInvalidLaunch;
}

}  // namespace longhaul::device
