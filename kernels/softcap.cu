#include "softcap.cuh"

#include "launch.cuh"

namespace longhaul::device {

int launch_softcap(const SoftcapParams& params, Stream stream) {
  if (params.rows <= 0 || params.cols <= 0) return 0;
  if (!(params.cap > 0)) return kInvalidLaunch;
  constexpr uint32_t kColumns = SoftcapConfig::kThreads * SoftcapConfig::kElements;
  const uint32_t blocks = (static_cast<uint32_t>(params.cols) + kColumns - 1) / kColumns;
  const uint32_t rows = params.rows < 65535 ? static_cast<uint32_t>(params.rows) : 65535u;
  return launch_kernel<softcap_kernel>({dim3(blocks, rows), SoftcapConfig::kThreads, 0}, params,
                                       stream);
}

}  // namespace longhaul::device
