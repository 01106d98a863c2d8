#include "sample.cuh"

#include "launch.cuh"

namespace longhaul::device {
namespace {

int32_t num_chunks(int32_t vocab_size) {
  return (vocab_size + SampleConfig::kChunk - 1) / SampleConfig::kChunk;
}
int64_t row_bytes(int32_t vocab_size) {
  const int64_t bytes = SampleLayout::kChunks +
                        num_chunks(vocab_size) * static_cast<int64_t>(sizeof(SampleChunk));
  return (bytes + 255) / 256 * 256;
}

}  // namespace

int64_t sample_scratch_bytes(int32_t vocab_size, int32_t max_rows) {
  return max_rows * row_bytes(vocab_size);
}

int launch_sample(const SampleParams& params, Stream stream) {
  if (params.num_rows <= 0) return 0;
  if (params.vocab_size <= 0 || num_chunks(params.vocab_size) > SampleConfig::kChunksMax ||
      params.num_rows > 65535) {
    return kInvalidLaunch;
  }
  SampleLaunch launch;
  launch.params = params;
  launch.row_bytes = row_bytes(params.vocab_size);
  launch.num_chunks = num_chunks(params.vocab_size);
  launch.vectors = params.logits_stride % 4 == 0 &&
                   reinterpret_cast<uintptr_t>(params.logits) % 16 == 0;

  LaunchShape shape;
  shape.grid = dim3(static_cast<uint32_t>(launch.num_chunks),
                    static_cast<uint32_t>(params.num_rows));
  shape.threads = SampleConfig::kThreads;
  shape.shared_bytes = SampleSharedLayout::kScanBytes;
  LaunchShape sums = shape;
  sums.shared_bytes = SampleSharedLayout::kBytes;

  int error = launch_kernel<sample_scan_kernel>(shape, launch, stream);
  if (error == 0 && params.stages & kSampleWeigh) {
    error = launch_kernel<sample_weigh_kernel>(sums, launch, stream);
  }
  if (error == 0 && params.stages & kSampleCollect) {
    error = launch_kernel<sample_collect_kernel>(sums, launch, stream);
  }
  if (error == 0 && params.stages & kSampleRank) {
    error = launch_kernel<sample_rank_kernel>(shape, launch, stream);
  }
  return error;
}

}  // namespace longhaul::device
