#include "compact_rows.cuh"

#include "launch.cuh"

namespace longhaul::device {

int launch_compact_rows(const CompactRowsParams& params, Stream stream) {
  if (params.rows <= 0 || params.cols <= 0) return 0;
  constexpr uint32_t kThreads = CompactRowsConfig::kThreads;
  const uint32_t blocks = (static_cast<uint32_t>(params.cols) + kThreads - 1) / kThreads;
  return launch_kernel<compact_rows_kernel>({dim3(blocks), kThreads, 0}, params, stream);
}

}  // namespace longhaul::device
