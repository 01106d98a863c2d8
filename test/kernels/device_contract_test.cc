// What the backend relies on in a device runtime, on whichever one this test is linked with: the
// emulated one here, a real device in its _gpu build. What only the emulator can promise is in
// test/simt/device_runtime_test.cc.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "backend/cuda/device_runtime.h"
#include "device_array.h"
#include "softcap.h"
#include "test.h"

namespace {

using namespace longhaul;
using namespace longhaul::cuda;
using lh_test::TestDevice;

constexpr int32_t kRows = 64;
constexpr int32_t kCols = 1024;
constexpr int64_t kCount = int64_t{kRows} * kCols;
constexpr int64_t kBytes = kCount * int64_t{sizeof(float)};

template <typename T>
T must(Result<T> result) {
  TestDevice::check(result.status(), "contract");
  return std::move(result.value());
}
void must(const Status& status) { TestDevice::check(status, "contract"); }

DeviceRuntime& runtime() { return TestDevice::get().runtime(); }

struct Buffers {
  Stream compute = must(runtime().create_stream());
  Stream copies = must(runtime().create_stream());
  Event uploaded = must(runtime().create_event());
  Event consumed = must(runtime().create_event());
  float* host_in = pinned("host in");
  float* host_out = pinned("host out");
  float* in = memory("in");
  float* out = memory("out");

  static float* pinned(const char* what) {
    return static_cast<float*>(must(runtime().allocate_pinned(kBytes, what)));
  }
  static float* memory(const char* what) {
    return static_cast<float*>(must(runtime().allocate(kBytes, what)));
  }
  ~Buffers() {
    must(runtime().synchronize(compute));
    must(runtime().synchronize(copies));
    for (float* each : {host_in, host_out, in, out}) runtime().release(each);
  }
  void fill(float first) {
    for (int64_t i = 0; i < kCount; ++i) host_in[i] = first + static_cast<float>(i % 977);
  }
  bool out_is(float first) const {
    for (int64_t i = 0; i < kCount; ++i) {
      if (host_out[i] != first + static_cast<float>(i % 977)) return false;
    }
    return true;
  }
  void upload(Stream stream) { must(runtime().copy_to_device(in, host_in, kBytes, stream)); }
  void move(Stream stream) { must(runtime().copy_on_device(out, in, kBytes, stream)); }
  void download(Stream stream) { must(runtime().copy_to_host(host_out, out, kBytes, stream)); }
};

void expect_refused(const Status& status, int line) {
  if (status.code() == ErrorCode::kDevice &&
      status.message().find("not allowed while a stream is being captured") != std::string::npos) {
    return;
  }
  lh_test::fail(__FILE__, line, "expected a refusal, found \"" + status.message() + "\"");
}

LH_TEST(properties) {
  const DeviceProperties& p = runtime().properties();
  std::printf("  %s: %s, compute capability %d, %d multiprocessors, %lld MiB\n", runtime_name(),
              p.name.c_str(), p.compute_capability, p.num_multiprocessors,
              static_cast<long long>(p.memory_bytes >> 20));
  EXPECT_TRUE(p.compute_capability >= 80 && p.num_multiprocessors > 0);
  EXPECT_TRUE(p.shared_bytes_max >= 99 * 1024);   // 8.6 and 8.9 have least
  EXPECT_TRUE(p.l2_bytes > 0);
  const int64_t free = must(runtime().free_bytes());
  EXPECT_TRUE(free > 0 && free <= p.memory_bytes);
}

LH_TEST(memory_is_aligned_and_can_run_out) {
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{300}}) {
    void* const device = must(runtime().allocate(bytes, "small"));
    void* const pinned = must(runtime().allocate_pinned(bytes, "small"));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(device) % 256, uintptr_t{0});
    runtime().release(device);
    runtime().release(pinned);
  }
  runtime().release(static_cast<void*>(nullptr));
  const int64_t too_much = runtime().properties().memory_bytes + (int64_t{1} << 30);
  const Status status = runtime().allocate(too_much, "all blocks").status();
  EXPECT_TRUE(status.code() == ErrorCode::kOutOfMemory);
  EXPECT_TRUE(status.message().find("all blocks: " + std::to_string(too_much) +
                                    " bytes of device memory asked, ") == 0);
  // Which costs nothing more: the device goes on.
  Buffers b;
  b.fill(1);
  b.upload(b.compute);
  b.move(b.compute);
  b.download(b.compute);
  must(runtime().synchronize(b.compute));
  EXPECT_TRUE(b.out_is(1));
}

LH_TEST(streams_meet_at_events) {
  Buffers b;
  for (int step = 0; step < 20; ++step) {
    must(runtime().synchronize(b.uploaded));   // the host's buffer is free again
    b.fill(static_cast<float>(step));
    must(runtime().wait(b.copies, b.consumed));
    b.upload(b.copies);
    must(runtime().record(b.uploaded, b.copies));
    must(runtime().wait(b.compute, b.uploaded));
    must(runtime().clear(b.out, kBytes, b.compute));
    b.move(b.compute);
    must(runtime().record(b.consumed, b.compute));
    b.download(b.compute);
    must(runtime().synchronize(b.compute));
    EXPECT_TRUE(b.out_is(static_cast<float>(step)));
  }
}

LH_TEST(events_come_true) {
  Buffers b;
  EXPECT_TRUE(must(runtime().is_done(b.uploaded)));   // never recorded
  b.fill(2);
  b.upload(b.compute);
  b.move(b.compute);
  b.download(b.compute);
  must(runtime().record(b.consumed, b.compute));
  while (!must(runtime().is_done(b.consumed))) {
  }
  EXPECT_TRUE(b.out_is(2));
}

LH_TEST(a_recorded_step_runs_again_with_other_inputs) {
  Buffers b;
  device::SoftcapParams cap{};
  cap.x = b.out;
  cap.stride = kCols;
  cap.rows = kRows;
  cap.cols = kCols;
  cap.cap = 30.0f;
  must(runtime().begin_capture(b.compute));
  b.upload(b.compute);
  b.move(b.compute);
  EXPECT_EQ(device::launch_softcap(cap, b.compute), 0);
  b.download(b.compute);
  const Graph graph = must(runtime().end_capture(b.compute));
  for (const float first : {-400.0f, 0.0f, 7.0f}) {
    b.fill(first);
    must(runtime().launch(graph, b.compute));
    must(runtime().synchronize(b.compute));
    int wrong = 0;
    for (int64_t i = 0; i < kCount; ++i) {
      const double x = double{first} + static_cast<double>(i % 977);
      const double expected = 30.0 * std::tanh(x / 30.0);
      if (!(std::fabs(b.host_out[i] - expected) < 1e-3)) ++wrong;
    }
    EXPECT_EQ(wrong, 0);
  }
  runtime().release(graph);
}

LH_TEST(what_a_capture_refuses_leaves_the_stream_usable) {
  Buffers b;
  b.fill(3);
  DenseProduct product;
  product.x_stride = product.w_stride = product.y_stride = 8;
  product.rows = product.out = product.cols = 8;
  for (int which = 0; which < 8; ++which) {
    must(runtime().begin_capture(b.compute));
    b.upload(b.compute);
    Status status;
    switch (which) {
      case 0: status = runtime().allocate(4, "x").status(); break;
      case 1: status = runtime().allocate_pinned(4, "x").status(); break;
      case 2: status = runtime().synchronize(b.compute); break;
      case 3: status = runtime().synchronize(b.uploaded); break;
      case 4: status = runtime().record(b.uploaded, b.compute); break;
      case 5: status = runtime().wait(b.compute, b.uploaded); break;
      case 6: status = runtime().is_done(b.uploaded).status(); break;
      case 7: status = runtime().prepare_dense(product); break;
    }
    expect_refused(status, __LINE__);
    expect_refused(runtime().end_capture(b.compute).status(), __LINE__);
  }
  b.upload(b.compute);
  b.move(b.compute);
  b.download(b.compute);
  must(runtime().synchronize(b.compute));
  EXPECT_TRUE(b.out_is(3));
}

// ---- dense products: shapes of real layers in small, odd sizes, strides, one row and none.

uint16_t narrow(DenseType type, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (type == DenseType::kBF16) {
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
  // The values below are multiples of 2^-6 below 4: exact in f16, no rounding to think of.
  if (value == 0) return 0;
  return static_cast<uint16_t>((bits >> 16 & 0x8000u) | (((bits >> 23 & 255u) - 112u) << 10) |
                               (bits >> 13 & 0x3ffu));
}
double widen(DenseType type, uint16_t bits) {
  if (type == DenseType::kBF16) {
    const uint32_t word = uint32_t{bits} << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
  }
  const int exponent = bits >> 10 & 31;
  const double magnitude = exponent == 0 ? std::ldexp(bits & 0x3ff, -24)
                                         : std::ldexp(1024 + (bits & 0x3ff), exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

struct DenseCase {
  int32_t rows, out, cols, pad;   // pad: elements between rows of x, w and y
};
constexpr DenseCase kDenseCases[] = {
    {0, 64, 64, 0}, {1, 64, 64, 0},   {9, 96, 128, 8},  {64, 256, 64, 0},
    {33, 40, 72, 8}, {65, 200, 136, 0}, {128, 128, 256, 8}, {5, 7, 9, 1},
};

void run_dense(const DenseCase& c, DenseType type, bool y_is_f32, bool accumulate) {
  uint32_t state = static_cast<uint32_t>(c.rows * 7919 + c.out * 31 + c.cols);
  const auto draw = [&] {
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(static_cast<int32_t>(state >> 8) % 129 - 64) / 64.0f;
  };
  const int64_t x_stride = c.cols + c.pad, w_stride = c.cols + c.pad, y_stride = c.out + c.pad;
  std::vector<uint16_t> x(static_cast<size_t>(c.rows * x_stride));
  std::vector<uint16_t> w(static_cast<size_t>(c.out * w_stride));
  for (uint16_t& each : x) each = narrow(type, draw());
  for (uint16_t& each : w) each = narrow(type, draw());
  const auto y_count = static_cast<size_t>(c.rows * y_stride);
  std::vector<float> y_f32(y_is_f32 ? y_count : 0);
  for (float& each : y_f32) each = draw();
  lh_test::DeviceArray<uint16_t> x_device(x), w_device(w);
  lh_test::DeviceArray<float> y_device(y_f32);
  lh_test::DeviceArray<uint16_t> y_narrow(y_is_f32 ? 0 : y_count);
  DenseProduct p;
  p.type = type;
  p.x = x_device.data();
  p.x_stride = x_stride;
  p.w = w_device.data();
  p.w_stride = w_stride;
  p.y = y_is_f32 ? static_cast<void*>(y_device.data()) : static_cast<void*>(y_narrow.data());
  p.y_stride = y_stride;
  p.y_is_f32 = y_is_f32;
  p.accumulate = accumulate;
  p.rows = c.rows;
  p.out = c.out;
  p.cols = c.cols;
  const Stream stream = TestDevice::get().stream();
  must(runtime().prepare_dense(p));
  must(runtime().dense(p, stream));
  const std::vector<float> found_f32 = y_device.download();
  const std::vector<uint16_t> found_narrow = y_narrow.download();
  int wrong = 0;
  for (int64_t row = 0; row < c.rows; ++row) {
    for (int64_t out = 0; out < y_stride; ++out) {
      const auto at = static_cast<size_t>(row * y_stride + out);
      if (out >= c.out) {   // between rows nothing is written
        if (y_is_f32 && found_f32[at] != y_f32[at]) ++wrong;
        if (!y_is_f32 && !lh_test::is_poison(found_narrow[at])) ++wrong;
        continue;
      }
      double expected = accumulate ? y_f32[at] : 0.0;
      for (int64_t i = 0; i < c.cols; ++i) {
        expected += widen(type, x[static_cast<size_t>(row * x_stride + i)]) *
                    widen(type, w[static_cast<size_t>(out * w_stride + i)]);
      }
      const double found = y_is_f32 ? double{found_f32[at]} : widen(type, found_narrow[at]);
      // Products are exact in f32 and sums nearly; a narrow result has 11 or 8 bits.
      const double relative = y_is_f32 ? 1e-5 : type == DenseType::kF16 ? 0x1p-11 : 0x1p-8;
      if (!(std::fabs(found - expected) <= relative * std::fabs(expected) + 1e-4)) ++wrong;
    }
  }
  if (wrong > 0) {
    lh_test::fail(__FILE__, __LINE__,
                  std::to_string(wrong) + " wrong in [" + std::to_string(c.rows) + ", " +
                      std::to_string(c.cols) + "] x " + std::to_string(c.out));
  }
}

LH_TEST(dense_products) {
  for (const DenseType type : {DenseType::kF16, DenseType::kBF16}) {
    for (const DenseCase& c : kDenseCases) {
      run_dense(c, type, true, false);
      run_dense(c, type, true, true);
      run_dense(c, type, false, false);
    }
  }
}

LH_TEST(a_dense_product_can_be_recorded) {
  const int32_t rows = 16, out = 64, cols = 64;
  const std::vector<uint16_t> ones(static_cast<size_t>(out * cols), 0x3f80);   // bf16
  lh_test::DeviceArray<uint16_t> x(std::vector<uint16_t>(static_cast<size_t>(rows * cols), 0x4000));
  lh_test::DeviceArray<uint16_t> w(ones);
  lh_test::DeviceArray<float> y(std::vector<float>(static_cast<size_t>(rows * out), 1.0f));
  DenseProduct p;
  p.x = x.data();
  p.w = w.data();
  p.y = y.data();
  p.x_stride = p.w_stride = cols;
  p.y_stride = out;
  p.accumulate = true;
  p.rows = rows;
  p.out = out;
  p.cols = cols;
  const Stream stream = TestDevice::get().stream();
  must(runtime().prepare_dense(p));
  must(runtime().dense(p, stream));   // loads the library's kernel
  must(runtime().begin_capture(stream));
  must(runtime().dense(p, stream));
  const Graph graph = must(runtime().end_capture(stream));
  must(runtime().launch(graph, stream));
  must(runtime().launch(graph, stream));
  for (const float each : y.download()) EXPECT_EQ(each, 1.0f + 3 * 128.0f);
  runtime().release(graph);
}

}  // namespace

LH_TEST_MAIN
