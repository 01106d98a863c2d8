// BenchDevice: the device, its memory, and the time of work queued on it.
//
// Time is that of a graph of many calls, replayed: as in a decode step, one kernel follows another
// without the host. The driver interface has no timer of its own, so the host's clock is read
// around replays that last milliseconds. Calls take turns on operands that together exceed the
// second-level cache: weights and caches of a model come from memory too.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "backend/cuda/device_runtime.h"
#include "bench_report.h"
#include "status.h"

namespace longhaul::bench {

class BenchDevice;

// Device memory that goes back at the end of its life.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(BenchDevice* device, void* data, int64_t bytes)
      : device_(device), data_(static_cast<std::byte*>(data)), bytes_(bytes) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer();

  std::byte* data() const { return data_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  BenchDevice* device_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

class BenchDevice {
 public:
  // `tiny`: each call once, for the sake of running it. Rows begun after `seconds` are refused.
  static Result<std::unique_ptr<BenchDevice>> open(bool tiny, double seconds);

  cuda::DeviceRuntime& runtime() { return *runtime_; }
  cuda::Stream stream() const { return stream_; }
  bool tiny() const { return tiny_; }
  bool out_of_time() const;

  Result<DeviceBuffer> allocate(int64_t bytes);
  // `count` times the bytes, one after another.
  Result<DeviceBuffer> upload(std::span<const std::byte> bytes, int64_t count = 1);
  // Random f32 in [-1, 1).
  Result<DeviceBuffer> random_floats(int64_t count);
  Status synchronize() { return runtime_->synchronize(stream_); }

  // How many operands of `bytes` each exceed the second-level cache by far.
  int num_operands(int64_t bytes) const;

  // Seconds of one call of queue(i), i counting calls; it queues work on stream() and allocates
  // nothing. Calls i and i + operands use the same memory.
  Result<Timing> measure(int operands, const std::function<Status(int)>& queue);

 private:
  BenchDevice(std::unique_ptr<cuda::DeviceRuntime> runtime, cuda::Stream stream, bool tiny,
              double seconds);
  Result<cuda::Graph> capture(int calls, const std::function<Status(int)>& queue);
  Result<double> replay(cuda::Graph graph);

  using Clock = std::chrono::steady_clock;
  std::unique_ptr<cuda::DeviceRuntime> runtime_;
  cuda::Stream stream_;
  bool tiny_ = false;
  Clock::time_point end_;
};

// The launcher's number as a Status.
Status launched(int code, const char* kernel);

}  // namespace longhaul::bench
