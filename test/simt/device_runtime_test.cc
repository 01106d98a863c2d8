// The emulated device runtime: what it promises, and that mistakes of a backend are caught. Planted
// ones: a missing event between streams in both directions, page-locked memory reused or read too
// early, guard bands written over, calls that a capture does not take.
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/cuda/device_runtime.h"
#include "launch.cuh"
#include "simt/emulated_device.h"
#include "simt/numbers.h"
#include "test.h"

namespace {

using namespace longhaul;
using cuda::Event;
using cuda::Graph;
using device::Stream;
using simt::Call;
using simt::EmulatedDevice;

constexpr uint64_t kSeeds = 40;
constexpr int32_t kCount = 96;   // elements of the buffers below
constexpr int64_t kBytes = kCount * int64_t{sizeof(int32_t)};

// out[i] = in[i] * 2 + 1, by one block; `out_offset` moves the writes for planted mistakes.
struct AffineParams {
  const int32_t* in;
  int32_t* out;
  int32_t count;
  int32_t out_offset;
};
__global__ void affine_kernel(const __grid_constant__ AffineParams p) {
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < p.count; i += 32) {
    p.out[i + p.out_offset] = p.in[i] * 2 + 1;   // a plain pointer: only the guard bands see it
  }
}
__global__ void checked_store_kernel(const __grid_constant__ AffineParams p) {
  const int32_t i = static_cast<int32_t>(threadIdx.x) + p.out_offset;
  device::store_stream(p.out + i, p.in[threadIdx.x]);
}

int launch_affine(const AffineParams& params, Stream stream) {
  return device::launch_kernel<affine_kernel>({dim3(1), 32, 0}, params, stream);
}

template <typename T>
T must(Result<T> result) {
  if (!result.ok()) {
    lh_test::fail(__FILE__, __LINE__, result.status().message());
    std::exit(1);
  }
  return std::move(result.value());
}
void must(const Status& status) {
  if (!status.ok()) lh_test::fail(__FILE__, __LINE__, status.message());
}
bool has(const Status& status, const std::string& part) {
  return status.message().find(part) != std::string::npos;
}
void expect_error(const Status& status, ErrorCode code, const std::string& part, int line) {
  if (status.code() != code || !has(status, part)) {
    lh_test::fail(__FILE__, line,
                  std::string("expected an error with \"") + part + "\", found \"" +
                      status.message() + "\"");
  }
}
#define EXPECT_ERROR(status, code, part) \
  expect_error((status), ErrorCode::code, (part), __LINE__)

std::unique_ptr<EmulatedDevice> make_device(uint64_t seed = 0, int64_t memory_bytes = 1 << 20) {
  EmulatedDevice::Options options;
  options.stream_seed = seed;
  options.memory_bytes = memory_bytes;
  return std::make_unique<EmulatedDevice>(options);
}

// A device with two streams, page-locked input and output, and buffers on the device.
struct Bench {
  std::unique_ptr<EmulatedDevice> device;
  Stream compute, copies;
  Event uploaded, consumed;
  int32_t* host_in;
  int32_t* host_out;
  int32_t* in;
  int32_t* out;

  explicit Bench(uint64_t seed = 0) : device(make_device(seed)) {
    compute = must(device->create_stream());
    copies = must(device->create_stream());
    uploaded = must(device->create_event());
    consumed = must(device->create_event());
    host_in = static_cast<int32_t*>(must(device->allocate_pinned(kBytes, "host in")));
    host_out = static_cast<int32_t*>(must(device->allocate_pinned(kBytes, "host out")));
    in = static_cast<int32_t*>(must(device->allocate(kBytes, "in")));
    out = static_cast<int32_t*>(must(device->allocate(kBytes, "out")));
  }
  void fill(int32_t first) {
    for (int32_t i = 0; i < kCount; ++i) host_in[i] = first + i;
  }
  Status upload(Stream stream) { return device->copy_to_device(in, host_in, kBytes, stream); }
  Status download(Stream stream) { return device->copy_to_host(host_out, out, kBytes, stream); }
  int run(int32_t out_offset = 0) {
    return launch_affine({in, out, kCount, out_offset}, compute);
  }
  bool result_is(int32_t first) const {
    for (int32_t i = 0; i < kCount; ++i) {
      if (host_out[i] != (first + i) * 2 + 1) return false;
    }
    return true;
  }
};

// ---- memory

LH_TEST(fresh_memory_is_poison_in_every_type) {
  auto device = make_device();
  for (const bool pinned : {false, true}) {
    const int64_t bytes = 1003;
    void* const memory = must(pinned ? device->allocate_pinned(bytes, "pinned")
                                     : device->allocate(bytes, "device"));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % 256, uintptr_t{0});
    const auto* const at = static_cast<const unsigned char*>(memory);
    for (int64_t i = 0; i + 4 <= bytes; i += 4) {
      float value;
      uint16_t low;
      int32_t id;
      std::memcpy(&value, at + i, 4);
      std::memcpy(&low, at + i, 2);
      std::memcpy(&id, at + i, 4);
      EXPECT_TRUE(std::isnan(value));
      EXPECT_TRUE(std::isnan(simt::f16_to_f32(low)));
      EXPECT_TRUE(std::isnan(simt::bf16_to_f32(low)));
      EXPECT_TRUE(id > 2000000000);
    }
    EXPECT_EQ(int{at[1002]}, 0xc1);   // the pattern goes on in the last, partial word
    device->release(memory);
  }
  EXPECT_TRUE(device->failure().ok());
}

LH_TEST(memory_is_a_budget) {
  auto device = make_device(0, 1000);
  EXPECT_EQ(must(device->free_bytes()), 1000);
  void* const first = must(device->allocate(600, "first"));
  EXPECT_EQ(must(device->free_bytes()), 400);
  const Status status = device->allocate(500, "kv pool").status();
  EXPECT_ERROR(status, kOutOfMemory,
               "kv pool: 500 bytes of device memory asked, 400 free of 1000 (100 missing)");
  must(device->allocate_pinned(5000, "page-locked memory does not count"));
  device->release(first);
  EXPECT_EQ(must(device->free_bytes()), 1000);
  must(device->allocate(1000, "all of it"));
  must(device->allocate(0, "nothing"));
  EXPECT_ERROR(device->allocate(1, "one more").status(), kOutOfMemory, "one more");
}

LH_TEST(guard_bands_tell_whose_neighbor_was_written) {
  for (const int32_t offset : {-1, 1}) {
    Bench b;
    b.fill(0);
    must(b.upload(b.compute));
    EXPECT_EQ(b.run(offset), 0);
    const Status status = b.device->synchronize(b.compute);
    EXPECT_ERROR(status, kDevice,
                 offset < 0 ? "guard band before out (384 bytes) written over at byte -4"
                            : "guard band after out (384 bytes) written over at byte 384");
    EXPECT_TRUE(has(status, "affine_kernel"));
  }
}

LH_TEST(guard_bands_are_checked_at_release_and_of_page_locked_memory) {
  Bench b;
  b.host_out[kCount] = 1;
  b.device->release(b.host_out);
  EXPECT_ERROR(b.device->failure(), kDevice, "guard band after host out");
  EXPECT_ERROR(b.device->synchronize(b.compute), kDevice, "guard band after host out");
}

LH_TEST(stores_through_primitives_are_bounds_checked) {
  Bench b;
  b.fill(0);
  must(b.upload(b.compute));
  EXPECT_EQ(device::launch_kernel<checked_store_kernel>(
                {dim3(1), 32, 0}, AffineParams{b.in, b.out, kCount, kCount - 31}, b.compute),
            0);
  const Status status = b.device->synchronize(b.compute);
  for (const char* part : {"kernel", "checked_store_kernel", "block (0,0,0)", "thread 31",
                           "device_runtime_test.cc:", "out (384 bytes)"}) {
    EXPECT_ERROR(status, kDevice, part);
  }
  // Nothing more can be expected of the device.
  EXPECT_ERROR(b.upload(b.compute), kDevice, "thread 31");
  EXPECT_ERROR(b.device->allocate(4, "more").status(), kDevice, "thread 31");
  EXPECT_TRUE(b.run() != 0);
}

LH_TEST(copies_stay_inside_of_memory_of_the_right_kind) {
  Bench b;
  int32_t on_stack[kCount] = {};
  EXPECT_ERROR(b.device->copy_to_device(b.in, on_stack, kBytes, b.compute), kDevice,
               "not in page-locked host memory");
  EXPECT_ERROR(b.device->copy_to_device(b.host_out, b.host_in, kBytes, b.compute), kDevice,
               "not in device memory");
  EXPECT_ERROR(b.device->copy_to_host(b.host_out, b.out + 1, kBytes, b.compute), kDevice,
               "384 bytes at byte 4 of out, which has 384");
  EXPECT_ERROR(b.device->copy_on_device(b.in + 1, b.in, 8, b.compute), kDevice, "overlap");
  EXPECT_ERROR(b.device->clear(b.in, kBytes + 1, b.compute), kDevice, "clear");
  must(b.device->copy_to_device(nullptr, nullptr, 0, b.compute));
  EXPECT_EQ(b.device->num_queued(), 0);
  b.device->release(on_stack);
  EXPECT_ERROR(b.device->failure(), kDevice, "not an allocation");
}

LH_TEST(release_waits_for_the_device) {
  Bench b(0);
  b.fill(5);
  must(b.upload(b.compute));
  EXPECT_EQ(b.run(), 0);
  must(b.download(b.compute));
  b.device->release(b.in);   // still to be read by the kernel
  EXPECT_TRUE(b.result_is(5));
  EXPECT_TRUE(b.device->failure().ok());
}

// ---- order

LH_TEST(work_runs_when_somebody_waits) {
  Bench b;
  b.fill(1);
  must(b.upload(b.compute));
  EXPECT_EQ(b.run(), 0);
  must(b.download(b.compute));
  EXPECT_EQ(b.device->num_queued(), 3);
  EXPECT_TRUE(std::memcmp(b.in, &simt::kPoison, 4) == 0);
  must(b.device->synchronize(b.compute));
  EXPECT_EQ(b.device->num_queued(), 0);
  EXPECT_TRUE(b.result_is(1));
}

LH_TEST(result_read_too_early_is_poison) {
  Bench b;
  for (const int32_t first : {1, 1}) {   // the second time the right values lie there already
    b.fill(first);
    must(b.upload(b.compute));
    EXPECT_EQ(b.run(), 0);
    must(b.download(b.compute));
    for (int32_t i = 0; i < kCount; ++i) EXPECT_EQ(uint32_t(b.host_out[i]), simt::kPoison);
    must(b.device->synchronize(b.compute));
    EXPECT_TRUE(b.result_is(first));
  }
}

LH_TEST(upload_through_a_downloaded_buffer_is_in_stream_order) {
  Bench b;
  b.fill(3);
  must(b.upload(b.compute));
  EXPECT_EQ(b.run(), 0);
  must(b.download(b.compute));
  // host_out goes up again before it has come down: right, since one stream orders both.
  must(b.device->copy_to_device(b.in, b.host_out, kBytes, b.compute));
  must(b.device->copy_to_host(b.host_in, b.in, kBytes, b.compute));
  must(b.device->synchronize(b.compute));
  for (int32_t i = 0; i < kCount; ++i) EXPECT_EQ(b.host_in[i], (3 + i) * 2 + 1);
}

LH_TEST(missing_event_before_the_kernel_is_seen) {
  for (const bool with_event : {true, false}) {
    int wrong = 0;
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      Bench b(seed);
      b.fill(7);
      must(b.upload(b.copies));
      if (with_event) {
        must(b.device->record(b.uploaded, b.copies));
        must(b.device->wait(b.compute, b.uploaded));
      }
      EXPECT_EQ(b.run(), 0);
      must(b.download(b.compute));
      must(b.device->synchronize(b.compute));
      if (!b.result_is(7)) ++wrong;
      if (!with_event && seed == 0) EXPECT_EQ(wrong, 1);   // as late as possible: always seen
    }
    if (with_event) EXPECT_EQ(wrong, 0);
    if (!with_event) EXPECT_TRUE(wrong >= int{kSeeds} / 4 && wrong < int{kSeeds});
  }
}

// Step n + 1's upload must wait until step n's kernel has read the buffer.
LH_TEST(missing_event_after_the_kernel_is_seen) {
  for (const bool with_event : {true, false}) {
    int wrong = 0;
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      Bench b(seed);
      auto* const host_next =
          static_cast<int32_t*>(must(b.device->allocate_pinned(kBytes, "host in, next")));
      for (int32_t i = 0; i < kCount; ++i) host_next[i] = 100 + i;
      b.fill(7);
      must(b.upload(b.copies));
      must(b.device->record(b.uploaded, b.copies));
      must(b.device->wait(b.compute, b.uploaded));
      EXPECT_EQ(b.run(), 0);
      must(b.download(b.compute));
      if (with_event) {
        must(b.device->record(b.consumed, b.compute));
        must(b.device->wait(b.copies, b.consumed));
      }
      must(b.device->copy_to_device(b.in, host_next, kBytes, b.copies));
      must(b.device->synchronize(b.compute));
      if (!b.result_is(7)) ++wrong;
    }
    if (with_event) EXPECT_EQ(wrong, 0);
    if (!with_event) EXPECT_TRUE(wrong >= int{kSeeds} / 8);
  }
}

LH_TEST(page_locked_memory_reused_too_early_is_caught) {
  for (const bool too_early : {false, true}) {
    Bench b;
    b.fill(1);
    must(b.upload(b.copies));
    must(b.device->record(b.uploaded, b.copies));
    if (!too_early) must(b.device->synchronize(b.uploaded));
    b.host_in[kCount - 1] += 1;
    const Status status = b.device->synchronize(b.copies);
    if (!too_early) must(status);
    if (too_early) EXPECT_ERROR(status, kDevice, "was changed before the copy was done");
  }
}

LH_TEST(waiting_follows_events_through_streams) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Bench b(seed);
    const Stream third = must(b.device->create_stream());
    b.fill(2);
    must(b.upload(b.copies));
    must(b.device->record(b.uploaded, b.copies));
    must(b.device->wait(b.compute, b.uploaded));
    EXPECT_EQ(b.run(), 0);
    must(b.device->record(b.consumed, b.compute));
    must(b.device->wait(third, b.consumed));
    must(b.download(third));
    const Event done = must(b.device->create_event());
    must(b.device->record(done, third));
    must(b.device->synchronize(done));
    EXPECT_TRUE(b.result_is(2));
  }
}

LH_TEST(an_event_is_its_last_recording) {
  Bench b;
  must(b.device->wait(b.compute, b.uploaded));   // never recorded: nothing to wait for
  must(b.device->synchronize(b.uploaded));
  EXPECT_TRUE(must(b.device->is_done(b.uploaded)));
  b.fill(1);
  must(b.upload(b.copies));
  must(b.device->record(b.uploaded, b.copies));
  must(b.device->wait(b.compute, b.uploaded));   // this recording, not the next
  EXPECT_EQ(b.run(), 0);
  must(b.device->clear(b.in, kBytes, b.copies));
  must(b.device->record(b.uploaded, b.copies));
  must(b.download(b.compute));
  must(b.device->synchronize(b.compute));
  EXPECT_TRUE(b.result_is(1));
  EXPECT_EQ(b.device->num_queued(), 2);          // clear and its mark: nobody waited
  must(b.device->synchronize(b.uploaded));
  EXPECT_EQ(b.device->num_queued(), 0);
}

LH_TEST(asking_an_event_brings_it_forward) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Bench b(seed);
    b.fill(4);
    must(b.upload(b.copies));
    must(b.device->record(b.uploaded, b.copies));
    must(b.device->wait(b.compute, b.uploaded));
    EXPECT_EQ(b.run(), 0);
    must(b.download(b.compute));
    must(b.device->record(b.consumed, b.compute));
    EXPECT_TRUE(!must(b.device->is_done(b.consumed)));
    int asked = 1;
    while (asked < 100 && !must(b.device->is_done(b.consumed))) ++asked;
    EXPECT_TRUE(asked < 10);   // six operations
    EXPECT_TRUE(b.result_is(4));
  }
}

// ---- graphs

LH_TEST(a_graph_runs_each_time_on_what_is_there) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    Bench b(seed);
    b.fill(0);
    must(b.device->begin_capture(b.compute));
    must(b.upload(b.compute));
    EXPECT_EQ(b.run(), 0);
    must(b.download(b.compute));
    const Graph graph = must(b.device->end_capture(b.compute));
    EXPECT_EQ(b.device->num_queued(), 0);
    EXPECT_TRUE(std::memcmp(b.host_out, &simt::kPoison, 4) == 0);
    for (const int32_t first : {10, 20, 30}) {
      b.fill(first);
      must(b.device->launch(graph, b.compute));
      EXPECT_EQ(b.device->num_queued(), 3);
      must(b.device->synchronize(b.compute));
      EXPECT_TRUE(b.result_is(first));
    }
    b.fill(40);
    must(b.device->launch(graph, b.compute));
    b.device->release(graph);   // what was launched still runs
    must(b.device->synchronize(b.compute));
    EXPECT_TRUE(b.result_is(40));
    EXPECT_ERROR(b.device->launch(graph, b.compute), kDevice, "is no graph");
  }
}

LH_TEST(a_graph_s_host_memory_is_watched_too) {
  Bench b;
  must(b.device->begin_capture(b.compute));
  must(b.upload(b.compute));
  const Graph graph = must(b.device->end_capture(b.compute));
  b.fill(1);
  must(b.device->launch(graph, b.compute));
  b.fill(2);
  EXPECT_ERROR(b.device->synchronize(b.compute), kDevice, "was changed before");
}

LH_TEST(a_capture_refuses_what_cannot_be_captured) {
  Bench b;
  cuda::DenseProduct product;
  product.x_stride = product.w_stride = product.y_stride = 8;
  product.rows = product.out = product.cols = 8;
  const std::vector<std::pair<const char*, std::function<Status()>>> calls = {
      {"allocate", [&] { return b.device->allocate(4, "x").status(); }},
      {"allocate_pinned", [&] { return b.device->allocate_pinned(4, "x").status(); }},
      {"synchronize", [&] { return b.device->synchronize(b.compute); }},
      {"synchronize", [&] { return b.device->synchronize(b.copies); }},
      {"synchronize", [&] { return b.device->synchronize(b.uploaded); }},
      {"is_done", [&] { return b.device->is_done(b.uploaded).status(); }},
      {"record", [&] { return b.device->record(b.uploaded, b.compute); }},
      {"wait", [&] { return b.device->wait(b.compute, b.uploaded); }},
      {"begin_capture", [&] { return b.device->begin_capture(b.copies); }},
      {"prepare_dense", [&] { return b.device->prepare_dense(product); }},
      {"release", [&] {
         b.device->release(b.host_out);
         return error(ErrorCode::kDevice, "release: not allowed");
       }},
  };
  for (const auto& [name, call] : calls) {
    must(b.device->begin_capture(b.compute));
    EXPECT_EQ(b.run(), 0);
    EXPECT_ERROR(call(), kDevice, std::string(name) + ": not allowed");
    EXPECT_EQ(b.run(), 0);
    EXPECT_ERROR(b.device->end_capture(b.compute).status(), kDevice,
                 std::string(name) + ": not allowed while a stream is being captured");
    EXPECT_EQ(b.device->num_queued(), 0);
  }
  // The stream is usable again, and so is what release() was refused.
  b.fill(6);
  must(b.upload(b.compute));
  EXPECT_EQ(b.run(), 0);
  must(b.download(b.compute));
  must(b.device->synchronize(b.compute));
  EXPECT_TRUE(b.result_is(6));
  EXPECT_ERROR(b.device->end_capture(b.compute).status(), kDevice, "not being captured");
}

LH_TEST(other_streams_go_on_during_a_capture) {
  Bench b;
  b.fill(1);
  must(b.device->begin_capture(b.compute));
  EXPECT_EQ(b.run(), 0);
  must(b.upload(b.copies));
  must(b.device->record(b.uploaded, b.copies));
  const Graph graph = must(b.device->end_capture(b.compute));
  must(b.device->wait(b.compute, b.uploaded));
  must(b.device->launch(graph, b.compute));
  must(b.download(b.compute));
  must(b.device->synchronize(b.compute));
  EXPECT_TRUE(b.result_is(1));
}

// ---- failures on demand

LH_TEST(each_kind_of_call_can_be_made_to_fail) {
  const std::vector<std::pair<Call, std::function<Status(Bench&)>>> calls = {
      {Call::kCopy, [](Bench& b) { return b.upload(b.compute); }},
      {Call::kCopy, [](Bench& b) { return b.download(b.compute); }},
      {Call::kCopy, [](Bench& b) { return b.device->clear(b.in, 4, b.compute); }},
      {Call::kLaunch, [](Bench& b) { return b.run() == 0 ? Status() : b.device->failure(); }},
      {Call::kRun,
       [](Bench& b) {
         EXPECT_EQ(b.run(), 0);
         return b.device->synchronize(b.compute);
       }},
      {Call::kRecord, [](Bench& b) { return b.device->record(b.uploaded, b.compute); }},
      {Call::kWait, [](Bench& b) { return b.device->wait(b.compute, b.uploaded); }},
      {Call::kSynchronize, [](Bench& b) { return b.device->synchronize(b.compute); }},
  };
  for (const auto& [call, make] : calls) {
    Bench b;
    b.fill(0);
    b.device->fail_call(call, 3);
    must(make(b));
    must(make(b));
    EXPECT_ERROR(make(b), kDevice, "failure injected by a test");
    EXPECT_EQ(b.device->num_calls(call), 3);
    EXPECT_ERROR(b.upload(b.copies), kDevice, "failure injected by a test");   // and for good
  }
}

LH_TEST(memory_can_be_made_to_run_out) {
  auto device = make_device();
  device->fail_call(Call::kAllocate, 2);
  device->fail_call(Call::kAllocatePinned, 1);
  must(device->allocate(4, "first"));
  EXPECT_ERROR(device->allocate(4, "second").status(), kOutOfMemory, "second: 4 bytes");
  must(device->allocate(4, "third"));
  EXPECT_ERROR(device->allocate_pinned(4, "ring").status(), kOutOfMemory, "ring: no page-locked");
  must(device->allocate_pinned(4, "ring"));
}

LH_TEST(a_failed_capture_and_graph_launch) {
  Bench b;
  b.device->fail_call(Call::kCapture, 1);
  must(b.device->begin_capture(b.compute));
  EXPECT_ERROR(b.device->end_capture(b.compute).status(), kDevice, "injected");
  Bench c;
  must(c.device->begin_capture(c.compute));
  const Graph graph = must(c.device->end_capture(c.compute));
  c.device->fail_call(Call::kGraphLaunch, 1);
  EXPECT_ERROR(c.device->launch(graph, c.compute), kDevice, "injected");
}

// ---- dense products

LH_TEST(dense_product_against_double) {
  const int32_t rows = 3, out = 5, cols = 37;
  const int64_t x_stride = 40, w_stride = 39, y_stride = 7;
  for (const auto type : {cuda::DenseType::kF16, cuda::DenseType::kBF16}) {
    const bool half = type == cuda::DenseType::kF16;
    const auto narrow = [&](float v) { return half ? simt::f32_to_f16(v) : simt::f32_to_bf16(v); };
    const auto widen = [&](uint16_t v) {
      return double{half ? simt::f16_to_f32(v) : simt::bf16_to_f32(v)};
    };
    for (const int mode : {0, 1, 2}) {   // f32, f32 accumulated, of the operands' type
      auto device = make_device();
      const Stream stream = must(device->create_stream());
      auto* const x = static_cast<uint16_t*>(must(device->allocate(x_stride * rows * 2, "x")));
      auto* const w = static_cast<uint16_t*>(must(device->allocate(w_stride * out * 2, "w")));
      void* const y = must(device->allocate(y_stride * rows * (mode == 2 ? 2 : 4), "y"));
      uint32_t state = 1;
      const auto draw = [&] {
        state = state * 1664525u + 1013904223u;
        return static_cast<float>(static_cast<int32_t>(state >> 8) % 2001 - 1000) / 500.0f;
      };
      // Between rows stays poison: nothing may read it.
      for (int32_t r = 0; r < rows; ++r) {
        for (int32_t c = 0; c < cols; ++c) x[r * x_stride + c] = narrow(draw());
      }
      for (int32_t o = 0; o < out; ++o) {
        for (int32_t c = 0; c < cols; ++c) w[o * w_stride + c] = narrow(draw());
      }
      for (int32_t r = 0; mode == 1 && r < rows; ++r) {
        for (int32_t o = 0; o < out; ++o) static_cast<float*>(y)[r * y_stride + o] = 10.0f;
      }
      cuda::DenseProduct product;
      product.type = type;
      product.x = x;
      product.x_stride = x_stride;
      product.w = w;
      product.w_stride = w_stride;
      product.y = y;
      product.y_stride = y_stride;
      product.y_is_f32 = mode != 2;
      product.accumulate = mode == 1;
      product.rows = rows;
      product.out = out;
      product.cols = cols;
      EXPECT_ERROR(device->dense(product, stream), kDevice, "no product was prepared");
      must(device->prepare_dense(product));
      must(device->dense(product, stream));
      EXPECT_EQ(device->num_queued(), 1);
      must(device->synchronize(stream));
      for (int32_t r = 0; r < rows; ++r) {
        for (int32_t o = 0; o < out; ++o) {
          double expected = mode == 1 ? 10.0 : 0.0;
          for (int32_t c = 0; c < cols; ++c) {
            expected += widen(x[r * x_stride + c]) * widen(w[o * w_stride + c]);
          }
          const int64_t at = r * y_stride + o;
          if (mode == 2) {
            EXPECT_EQ(static_cast<uint16_t*>(y)[at], narrow(static_cast<float>(expected)));
          } else {
            EXPECT_NEAR(static_cast<float*>(y)[at], expected, 1e-4);
          }
        }
        for (int64_t gap = r * y_stride + out; gap < (r + 1) * y_stride; ++gap) {
          const size_t size = mode == 2 ? 2 : 4;
          char poison[4];
          std::memcpy(poison, &simt::kPoison, 4);
          EXPECT_TRUE(std::memcmp(static_cast<char*>(y) + gap * int64_t(size), poison, size) == 0);
        }
      }
      // One row more than there is memory for.
      product.rows = rows + 1;
      EXPECT_ERROR(device->dense(product, stream), kDevice, "dense: x");
      product.rows = rows;
      product.accumulate = true;
      product.y_is_f32 = false;
      EXPECT_ERROR(device->dense(product, stream), kDevice, "accumulated");
      product.accumulate = false;
      product.x_stride = cols - 1;
      EXPECT_ERROR(device->prepare_dense(product), kDevice, "is not a product");
      product.x_stride = x_stride;
      product.y_is_f32 = mode != 2;
      const Stream other = must(device->create_stream());
      EXPECT_ERROR(device->dense(product, other), kDevice, "on one stream");
      product.rows = 0;
      must(device->dense(product, stream));
      EXPECT_EQ(device->num_queued(), 0);
    }
  }
}

// ---- opening

LH_TEST(open_device_reads_the_environment) {
  EXPECT_EQ(std::string(cuda::runtime_name()), "cuda-emulated");
  EXPECT_EQ(std::string(cuda::error_words(700)), "an illegal memory access was encountered");
  EXPECT_EQ(std::string(cuda::error_words(31337)), "unrecognized error code");
  EXPECT_ERROR(cuda::open_device(1).status(), kDevice, "no device 1");
  setenv("LONGHAUL_SIMT_MEMORY", "1.5MiB", 1);
  setenv("LONGHAUL_SIMT_CAPABILITY", "80", 1);
  setenv("LONGHAUL_SIMT_FAIL", "copy:2", 1);
  auto device = must(cuda::open_device(0));
  EXPECT_EQ(must(device->free_bytes()), 3 << 19);
  EXPECT_EQ(device->properties().memory_bytes, 3 << 19);
  EXPECT_EQ(device->properties().compute_capability, 80);
  EXPECT_EQ(device->properties().shared_bytes_max, 163 * 1024);
  const Stream stream = must(device->create_stream());
  void* const memory = must(device->allocate(16, "memory"));
  must(device->clear(memory, 16, stream));
  EXPECT_ERROR(device->clear(memory, 16, stream), kDevice, "injected");
  setenv("LONGHAUL_SIMT_FAIL", "nonsense:2", 1);
  EXPECT_ERROR(cuda::open_device(0).status(), kDevice, "expected call:n");
  unsetenv("LONGHAUL_SIMT_FAIL");
  setenv("LONGHAUL_SIMT_MEMORY", "12 apples", 1);
  EXPECT_ERROR(cuda::open_device(0).status(), kDevice, "expected a size");
  unsetenv("LONGHAUL_SIMT_MEMORY");
  unsetenv("LONGHAUL_SIMT_CAPABILITY");
}

}  // namespace

LH_TEST_MAIN
