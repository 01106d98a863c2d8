#include "bench_device.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace longhaul::bench {
namespace {

// One replay: long beside the microseconds that launching and waiting take.
constexpr double kReplaySeconds = 2e-3;
constexpr int kCallsMax = 2000;
// All replays of a row.
constexpr double kRowSeconds = 0.12;
constexpr size_t kReplaysMin = 5;
constexpr size_t kReplaysMax = 50;
constexpr int64_t kStagingBytes = int64_t{64} << 20;

}  // namespace

DeviceBuffer::~DeviceBuffer() {
  if (!data_) return;
  // Work that uses the memory may still be queued; a failure has been reported by then.
  (void)device_->synchronize();
  device_->runtime().release(data_);
}

BenchDevice::BenchDevice(std::unique_ptr<cuda::DeviceRuntime> runtime, cuda::Stream stream,
                         bool tiny, double seconds)
    : runtime_(std::move(runtime)),
      stream_(stream),
      tiny_(tiny),
      end_(Clock::now() + std::chrono::duration_cast<Clock::duration>(
                              std::chrono::duration<double>(seconds))) {}

Result<std::unique_ptr<BenchDevice>> BenchDevice::open(bool tiny, double seconds) {
  LH_ASSIGN_OR_RETURN(std::unique_ptr<cuda::DeviceRuntime> runtime, cuda::open_device(0));
  LH_ASSIGN_OR_RETURN(const cuda::Stream stream, runtime->create_stream());
  return std::unique_ptr<BenchDevice>(new BenchDevice(std::move(runtime), stream, tiny, seconds));
}

bool BenchDevice::out_of_time() const { return Clock::now() > end_; }

Result<DeviceBuffer> BenchDevice::allocate(int64_t bytes) {
  LH_ASSIGN_OR_RETURN(void* data, runtime_->allocate(bytes, "bench"));
  return DeviceBuffer(this, data, bytes);
}

Result<DeviceBuffer> BenchDevice::upload(std::span<const std::byte> bytes, int64_t count) {
  const auto size = static_cast<int64_t>(bytes.size());
  LH_ASSIGN_OR_RETURN(DeviceBuffer buffer, allocate(size * count));
  const int64_t staging_bytes = std::min(size, kStagingBytes);
  LH_ASSIGN_OR_RETURN(void* staging, runtime_->allocate_pinned(staging_bytes, "bench staging"));
  Status status;
  for (int64_t at = 0; at < size && status.ok(); at += staging_bytes) {
    const int64_t part = std::min(staging_bytes, size - at);
    std::memcpy(staging, bytes.data() + at, static_cast<size_t>(part));
    status = runtime_->copy_to_device(buffer.data() + at, staging, part, stream_);
    if (status.ok()) status = synchronize();
  }
  runtime_->release(staging);
  LH_TRY(status);
  // Each copy doubles what is there.
  for (int64_t done = 1; done < count;) {
    const int64_t part = std::min(done, count - done);
    std::byte* const to = buffer.data() + done * size;
    LH_TRY(runtime_->copy_on_device(to, buffer.data(), part * size, stream_));
    done += part;
  }
  LH_TRY(synchronize());
  return buffer;
}

Result<DeviceBuffer> BenchDevice::random_floats(int64_t count) {
  // Numbers repeat after 64 Ki: enough to keep the arithmetic honest, quick to make.
  const int64_t distinct = std::min<int64_t>(count, 1 << 16);
  const int64_t repeats = (count + distinct - 1) / distinct;
  std::mt19937 random(1);
  std::vector<float> values(static_cast<size_t>(distinct));
  for (float& value : values) value = static_cast<float>(random() & 0xffff) / 32768.0f - 1.0f;
  return upload(std::as_bytes(std::span<const float>(values)), repeats);
}

int BenchDevice::num_operands(int64_t bytes) const {
  if (tiny_) return 2;
  const int64_t wanted = std::max<int64_t>(3 * runtime_->properties().l2_bytes, int64_t{128} << 20);
  return static_cast<int>(std::clamp<int64_t>((wanted + bytes - 1) / bytes, 1, 256));
}

Result<cuda::Graph> BenchDevice::capture(int calls, const std::function<Status(int)>& queue) {
  LH_TRY(runtime_->begin_capture(stream_));
  Status status;
  for (int i = 0; i < calls && status.ok(); ++i) status = queue(i);
  Result<cuda::Graph> graph = runtime_->end_capture(stream_);
  LH_TRY(status);
  return graph;
}

Result<double> BenchDevice::replay(cuda::Graph graph) {
  const Clock::time_point begin = Clock::now();
  LH_TRY(runtime_->launch(graph, stream_));
  LH_TRY(synchronize());
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

Result<Timing> BenchDevice::measure(int operands, const std::function<Status(int)>& queue) {
  // Once outside of a graph: kernels are loaded, and what is wrong with a call is told as it is.
  LH_TRY(queue(0));
  LH_TRY(synchronize());
  int calls = operands;
  std::vector<double> seconds;
  for (;;) {
    LH_ASSIGN_OR_RETURN(const cuda::Graph graph, capture(calls, queue));
    Result<double> first = replay(graph);   // uploads the graph
    Result<double> time = first.ok() && !tiny_ ? replay(graph) : std::move(first);
    if (!time.ok()) {
      runtime_->release(graph);
      return time.status();
    }
    if (!tiny_ && time.value() < kReplaySeconds && calls < kCallsMax) {
      runtime_->release(graph);
      const double wanted = std::ceil(kReplaySeconds / time.value() * 1.1) * calls;
      calls = static_cast<int>(std::clamp(wanted, calls + 1.0, static_cast<double>(kCallsMax)));
      continue;
    }
    seconds.push_back(time.value());
    for (double total = 0; !tiny_ && seconds.size() < kReplaysMax;) {
      if (seconds.size() >= kReplaysMin && total >= kRowSeconds) break;
      time = replay(graph);
      if (!time.ok()) break;
      seconds.push_back(time.value());
      total += time.value();
    }
    runtime_->release(graph);
    LH_TRY(time.status());
    break;
  }
  std::sort(seconds.begin(), seconds.end());
  Timing timing;
  timing.median = seconds[seconds.size() / 2] / calls;
  timing.min = seconds.front() / calls;
  timing.max = seconds.back() / calls;
  return timing;
}

Status launched(int code, const char* kernel) {
  if (code == 0) return {};
  return error(ErrorCode::kDevice, "%s: launch failed with %d", kernel, code);
}

}  // namespace longhaul::bench
