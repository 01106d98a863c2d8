// Everything the CUDA backend asks of the driver: memory, streams, events, graphs and dense matrix
// products. Two implementations, chosen when a plug-in is linked: device_runtime_cuda.cc (CUDA
// runtime, cuBLASLt opened at run time) and test/simt/device_runtime_emulated.cc (host memory with
// guard bands; streams whose work runs as late as their events and waits allow). Nothing else
// in native/backend/cuda includes a CUDA header.
//
// A failed call returns kDevice with the call's name and the driver's words, or kOutOfMemory with
// bytes asked and free. After kDevice nothing more can be expected of the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "launch.h"
#include "status.h"

namespace longhaul::cuda {

using device::Stream;

struct Event {
  void* handle = nullptr;
};
struct Graph {
  void* handle = nullptr;   // an instantiated, launchable graph
};

struct DeviceProperties {
  std::string name;                   // "NVIDIA H100 80GB HBM3", "emulated"
  int32_t compute_capability = 0;     // 80, 90
  int32_t num_multiprocessors = 0;
  int32_t shared_bytes_max = 0;       // dynamic shared memory a block can have
  int64_t memory_bytes = 0;
  int64_t l2_bytes = 0;
  int32_t driver_version = 0;         // 13000 = 13.0; 0 = emulated
};

// Which of the two implementations this is: "cuda", "cuda-emulated".
const char* runtime_name();

// Words for what a launcher returned, a cudaError_t value.
const char* error_words(int number);

// Element types of dense products; the result is f32 or the type of the operands.
enum class DenseType { kF16, kBF16 };

// y = x w^T (+ y when accumulate): x [rows, cols], w [out, cols], y [rows, out], all row-major and
// contiguous but for the strides given, products accumulated in f32.
struct DenseProduct {
  DenseType type = DenseType::kBF16;
  const void* x = nullptr;
  int64_t x_stride = 0;     // elements
  const void* w = nullptr;
  int64_t w_stride = 0;
  void* y = nullptr;
  int64_t y_stride = 0;
  bool y_is_f32 = true;     // else of `type`
  bool accumulate = false;  // y += (f32 only)
  int32_t rows = 0;
  int32_t out = 0;
  int32_t cols = 0;
};

class DeviceRuntime {
 public:
  virtual ~DeviceRuntime() = default;   // waits for all streams, frees all memory

  virtual const DeviceProperties& properties() const = 0;
  virtual Result<int64_t> free_bytes() = 0;

  // Memory lives until the runtime does or release() is called. `what` names it in errors.
  virtual Result<void*> allocate(int64_t bytes, const char* what) = 0;         // 256-byte aligned
  virtual Result<void*> allocate_pinned(int64_t bytes, const char* what) = 0;  // host, page-locked
  virtual void release(void* memory) = 0;                                      // either kind; null is fine

  virtual Result<Stream> create_stream() = 0;
  virtual Result<Event> create_event() = 0;
  virtual Status record(Event event, Stream stream) = 0;
  virtual Status wait(Stream stream, Event event) = 0;      // work queued later waits
  virtual Status synchronize(Event event) = 0;              // the calling thread waits
  // Whether synchronize(event) would return at once. Asked again and again, it says true in the end.
  virtual Result<bool> is_done(Event event) = 0;
  virtual Status synchronize(Stream stream) = 0;

  // Queued on the stream. Host memory must be pinned and stay as it is until the copy is done.
  virtual Status copy_to_device(void* to, const void* from, int64_t bytes, Stream stream) = 0;
  virtual Status copy_to_host(void* to, const void* from, int64_t bytes, Stream stream) = 0;
  virtual Status copy_on_device(void* to, const void* from, int64_t bytes, Stream stream) = 0;
  virtual Status clear(void* memory, int64_t bytes, Stream stream) = 0;

  // Work queued on the stream between the two is recorded, not run. Copies from and to host memory
  // and dense products may be part of it; allocation and synchronization may not.
  virtual Status begin_capture(Stream stream) = 0;
  virtual Result<Graph> end_capture(Stream stream) = 0;     // on a failed capture the stream is usable again
  virtual Status launch(Graph graph, Stream stream) = 0;
  virtual void release(Graph graph) = 0;

  // Chooses and keeps an algorithm for the shape; may allocate, so call it outside of steps. The
  // first call opens the library: dense() before it is an error. A shape that was not prepared is
  // chosen for when it comes. All products are queued on one stream.
  virtual Status prepare_dense(const DenseProduct& product) = 0;
  virtual Status dense(const DenseProduct& product, Stream stream) = 0;
};

// Opens device `index`. kDevice says what is missing: no driver, a driver older than the toolkit,
// no device of that index, a compute capability below 8.0.
Result<std::unique_ptr<DeviceRuntime>> open_device(int32_t index);

}  // namespace longhaul::cuda
