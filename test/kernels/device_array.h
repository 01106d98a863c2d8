// Device memory for kernel tests: arrays with guard bands, copied up and down through the
// DeviceRuntime that the test is linked with (the emulator, or a real device).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/device_runtime.h"
#include "test.h"

namespace lh_test {

// What fresh arrays and guard bands hold: NaN as f32, f16, bf16 and fp8 (0x7f); never -1.
constexpr unsigned char kPoisonByte = 0x7f;

class TestDevice {
 public:
  static TestDevice& get() {
    static TestDevice device;
    return device;
  }
  longhaul::cuda::DeviceRuntime& runtime() { return *runtime_; }
  longhaul::cuda::Stream stream() const { return stream_; }

  // Waits for the stream. A kernel that failed ends the test program with its words.
  void finish(const char* what) { check(runtime_->synchronize(stream_), what); }
  static void check(const longhaul::Status& status, const char* what) {
    if (status.ok()) return;
    std::printf("%s: %s\n", what, status.message().c_str());
    std::exit(1);
  }

 private:
  TestDevice() {
    longhaul::Result<std::unique_ptr<longhaul::cuda::DeviceRuntime>> opened =
        longhaul::cuda::open_device(0);
    check(opened.status(), "open_device");
    runtime_ = std::move(opened.value());
    longhaul::Result<longhaul::cuda::Stream> stream = runtime_->create_stream();
    check(stream.status(), "create_stream");
    stream_ = stream.value();
  }
  std::unique_ptr<longhaul::cuda::DeviceRuntime> runtime_;
  longhaul::cuda::Stream stream_;
};

template <typename T>
class DeviceArray {
 public:
  // Poison.
  explicit DeviceArray(size_t count) : DeviceArray(poisoned(count)) {}
  explicit DeviceArray(const std::vector<T>& values) : count_(values.size()) {
    TestDevice& device = TestDevice::get();
    const auto bytes = static_cast<int64_t>(2 * kGuardBytes + count_ * sizeof(T));
    longhaul::Result<void*> memory = device.runtime().allocate(bytes, "test array");
    TestDevice::check(memory.status(), "allocate");
    memory_ = static_cast<std::byte*>(memory.value());
    longhaul::Result<void*> pinned = device.runtime().allocate_pinned(bytes, "test array");
    TestDevice::check(pinned.status(), "allocate_pinned");
    pinned_ = static_cast<std::byte*>(pinned.value());
    std::memset(pinned_, kPoisonByte, static_cast<size_t>(bytes));
    if (count_ > 0) std::memcpy(pinned_ + kGuardBytes, values.data(), count_ * sizeof(T));
    TestDevice::check(
        device.runtime().copy_to_device(memory_, pinned_, bytes, device.stream()), "copy");
  }
  ~DeviceArray() {
    if (!memory_) return;
    TestDevice::get().finish("release");
    TestDevice::get().runtime().release(memory_);
    TestDevice::get().runtime().release(pinned_);
  }
  DeviceArray(DeviceArray&& other) noexcept
      : count_(other.count_),
        memory_(std::exchange(other.memory_, nullptr)),
        pinned_(std::exchange(other.pinned_, nullptr)) {}
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() { return reinterpret_cast<T*>(memory_ + kGuardBytes); }
  size_t size() const { return count_; }

  // What the device holds now, guard bands checked.
  std::vector<T> download() {
    TestDevice& device = TestDevice::get();
    const size_t bytes = 2 * kGuardBytes + count_ * sizeof(T);
    TestDevice::check(device.runtime().copy_to_host(pinned_, memory_, static_cast<int64_t>(bytes),
                                                    device.stream()),
                      "copy");
    device.finish("kernel");
    for (size_t i = 0; i < kGuardBytes; ++i) {
      const bool intact = pinned_[i] == std::byte{kPoisonByte} &&
                          pinned_[bytes - 1 - i] == std::byte{kPoisonByte};
      if (!intact) {
        fail(__FILE__, __LINE__, "guard band written over, byte " + std::to_string(i));
        break;
      }
    }
    std::vector<T> values(count_);
    if (count_ > 0) std::memcpy(values.data(), pinned_ + kGuardBytes, count_ * sizeof(T));
    return values;
  }

 private:
  static constexpr size_t kGuardBytes = 256;  // keeps the array 256-byte aligned
  static std::vector<T> poisoned(size_t count) {
    std::vector<T> values(count);
    if (count > 0) std::memset(static_cast<void*>(values.data()), kPoisonByte, count * sizeof(T));
    return values;
  }
  size_t count_ = 0;
  std::byte* memory_ = nullptr;
  std::byte* pinned_ = nullptr;
};

template <typename T>
bool is_poison(const T& value) {
  unsigned char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  for (const unsigned char byte : bytes) {
    if (byte != kPoisonByte) return false;
  }
  return true;
}

}  // namespace lh_test
