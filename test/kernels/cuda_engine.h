// Engines over the CUDA backend and over the CPU's for the same tiny model, so that what one
// computes can be held against the other.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/device_runtime.h"
#include "engine_harness.h"
#include "tiny_model.h"

#ifdef LONGHAUL_SIMT
#include "simt/emulated_device.h"
#endif

namespace lh_test {

// Passes everything on. Notes what the backend promises of a step: that nothing is allocated in it,
// and that each dense product has a shape that was prepared.
class WatchedRuntime final : public longhaul::cuda::DeviceRuntime {
 public:
  using Status = longhaul::Status;
  using Stream = longhaul::device::Stream;
  using Event = longhaul::cuda::Event;
  using Graph = longhaul::cuda::Graph;
  using DenseProduct = longhaul::cuda::DenseProduct;
  template <typename T>
  using Result = longhaul::Result<T>;

  explicit WatchedRuntime(std::unique_ptr<DeviceRuntime> inner) : inner_(std::move(inner)) {}

  DeviceRuntime& inner() { return *inner_; }
  int64_t num_allocations() const { return num_allocations_; }
  int64_t num_waits() const { return num_waits_; }          // of the calling thread
  int64_t num_unprepared() const { return num_unprepared_; }
  int64_t num_products() const { return num_products_; }

  const longhaul::cuda::DeviceProperties& properties() const override { return inner_->properties(); }
  Result<int64_t> free_bytes() override { return inner_->free_bytes(); }
  Result<void*> allocate(int64_t bytes, const char* what) override {
    ++num_allocations_;
    return inner_->allocate(bytes, what);
  }
  Result<void*> allocate_pinned(int64_t bytes, const char* what) override {
    ++num_allocations_;
    return inner_->allocate_pinned(bytes, what);
  }
  void release(void* memory) override { inner_->release(memory); }
  Result<Stream> create_stream() override { return inner_->create_stream(); }
  Result<Event> create_event() override { return inner_->create_event(); }
  Status record(Event event, Stream stream) override { return inner_->record(event, stream); }
  Status wait(Stream stream, Event event) override { return inner_->wait(stream, event); }
  Status synchronize(Event event) override {
    ++num_waits_;
    return inner_->synchronize(event);
  }
  Result<bool> is_done(Event event) override { return inner_->is_done(event); }
  Status synchronize(Stream stream) override {
    ++num_waits_;
    return inner_->synchronize(stream);
  }
  Status copy_to_device(void* to, const void* from, int64_t bytes, Stream stream) override {
    return inner_->copy_to_device(to, from, bytes, stream);
  }
  Status copy_to_host(void* to, const void* from, int64_t bytes, Stream stream) override {
    return inner_->copy_to_host(to, from, bytes, stream);
  }
  Status copy_on_device(void* to, const void* from, int64_t bytes, Stream stream) override {
    return inner_->copy_on_device(to, from, bytes, stream);
  }
  Status clear(void* memory, int64_t bytes, Stream stream) override {
    return inner_->clear(memory, bytes, stream);
  }
  Status begin_capture(Stream stream) override { return inner_->begin_capture(stream); }
  Result<Graph> end_capture(Stream stream) override { return inner_->end_capture(stream); }
  Status launch(Graph graph, Stream stream) override { return inner_->launch(graph, stream); }
  void release(Graph graph) override { inner_->release(graph); }
  Status prepare_dense(const DenseProduct& product) override {
    prepared_.insert(shape_of(product));
    return inner_->prepare_dense(product);
  }
  Status dense(const DenseProduct& product, Stream stream) override {
    ++num_products_;
    if (prepared_.count(shape_of(product)) == 0) ++num_unprepared_;
    return inner_->dense(product, stream);
  }

 private:
  using Shape = std::tuple<int, int32_t, int32_t, int32_t, int64_t, int64_t, int64_t, bool, bool>;
  static Shape shape_of(const DenseProduct& p) {
    return {static_cast<int>(p.type), p.rows, p.out, p.cols, p.x_stride, p.w_stride, p.y_stride,
            p.y_is_f32, p.accumulate};
  }

  std::unique_ptr<DeviceRuntime> inner_;
  std::set<Shape> prepared_;
  std::atomic<int64_t> num_allocations_{0}, num_waits_{0}, num_unprepared_{0}, num_products_{0};
};

// A device with little memory, so that clearing it takes no time.
constexpr int64_t kTestDeviceBytes = int64_t{256} << 20;

// `seed`: order of work between streams, on the emulated device.
inline std::unique_ptr<longhaul::cuda::DeviceRuntime> test_runtime(
    uint64_t seed = 1, int64_t memory_bytes = kTestDeviceBytes) {
#ifdef LONGHAUL_SIMT
  longhaul::simt::EmulatedDevice::Options options;
  options.stream_seed = seed;
  options.memory_bytes = memory_bytes;
  options.num_multiprocessors = 2;
  return std::make_unique<longhaul::simt::EmulatedDevice>(options);
#else
  (void)seed;
  (void)memory_bytes;
  auto runtime = longhaul::cuda::open_device(0);
  if (!runtime.ok()) fail(__FILE__, __LINE__, runtime.status().message());
  return std::move(runtime.value());
#endif
}

// The models here have heads of 64 channels, the smallest that the kernels serve, and otherwise
// little of everything.
inline longhaul::ModelConfig cuda_config(const std::string& family, int32_t hidden = 64) {
  using namespace longhaul;
  ModelConfig config = tiny_config(family);
  config.hidden_size = hidden;
  config.intermediate_size = hidden == 64 ? 96 : 256;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 64;
  config.max_position = 512;
  config.softmax_scale = 0.125f;
  const RopeStyle style = config.ropes[0].style;
  config.ropes = {tiny_rope(style, 64, 100)};
  if (family == "gemma3") {
    config.ropes.push_back(tiny_rope(RopeStyle::kHalf, 64, 1000));
    config.ropes[1].attention_factor = 1.1f;
    config.layers = {{40, 0}, {0, 1}, {40, 0}};
  }
  return config;
}

inline TinyTypes all_of(longhaul::DType dtype) {
  return [dtype](const std::string&) { return dtype; };
}

inline longhaul::EngineOptions cuda_options() {
  longhaul::EngineOptions options = tiny_options();
  options.kv_memory_bytes = 4 << 20;
  options.max_num_seqs = 6;
  options.max_num_batched_tokens = 96;
  return options;
}

struct CudaEngine {
  explicit CudaEngine(const TinyModel& model, const longhaul::EngineOptions& options = cuda_options(),
                      uint64_t seed = 1)
      : CudaEngine(model, options, new WatchedRuntime(test_runtime(seed))) {}

  // Both live as long as the harness's engine.
  WatchedRuntime* runtime;
  longhaul::cuda::CudaBackend* backend;
  Harness harness;

#ifdef LONGHAUL_SIMT
  longhaul::simt::EmulatedDevice& device() { return longhaul::simt::emulated(runtime->inner()); }
#endif

 private:
  CudaEngine(const TinyModel& model, const longhaul::EngineOptions& options, WatchedRuntime* watched)
      : runtime(watched),
        backend(make_backend(watched)),
        harness(model, options, std::unique_ptr<longhaul::Backend>(backend)) {}

  static longhaul::cuda::CudaBackend* make_backend(WatchedRuntime* runtime) {
    auto made = longhaul::cuda::make_cuda_backend_on(
        std::unique_ptr<longhaul::cuda::DeviceRuntime>(runtime), {});
    if (!made.ok()) fail(__FILE__, __LINE__, made.status().message());
    return static_cast<longhaul::cuda::CudaBackend*>(made.value().release());
  }
};

}  // namespace lh_test
