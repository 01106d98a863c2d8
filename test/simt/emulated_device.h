// The emulated device as tests see it: a DeviceRuntime whose calls can be counted and made to fail.
//
// Environment, read by open_device():
//   LONGHAUL_SIMT_MEMORY           bytes of device memory, suffixes KiB, MiB, GiB (1GiB)
//   LONGHAUL_SIMT_STREAM_SEED      order of work between streams; 0 = as late as possible (1)
//   LONGHAUL_SIMT_MULTIPROCESSORS  what properties() says, hence sizes of persistent grids (4)
//   LONGHAUL_SIMT_CAPABILITY       80 or 90 (90)
//   LONGHAUL_SIMT_FAIL             call:n, e.g. launch:100 (Call below): that call fails
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backend/cuda/device_runtime.h"
#include "simt/device_memory.h"
#include "simt/device_streams.h"

namespace longhaul::simt {

enum class Call {
  kAllocate,         // "allocate": out of memory
  kAllocatePinned,   // "allocate_pinned": out of memory
  kRelease,          // "release"; cannot fail
  kCopy,             // "copy": all three directions and clear()
  kLaunch,           // "launch": the launch itself is refused
  kRun,              // "run": a kernel or product fails when it runs
  kDense,            // "dense"
  kRecord,           // "record"
  kWait,             // "wait"
  kSynchronize,      // "synchronize"
  kGraphLaunch,      // "graph_launch"
  kCapture,          // "capture": end_capture
};
constexpr size_t kNumCalls = 12;

class EmulatedDevice;

struct EmulatedStream {
  EmulatedDevice* device = nullptr;
  size_t index = 0;
};
struct EmulatedEvent {
  std::shared_ptr<Marker> recorded;   // null before the first record
};
struct EmulatedGraph {
  std::vector<Operation> operations;
};

class EmulatedDevice final : public cuda::DeviceRuntime {
 public:
  struct Options {
    int64_t memory_bytes = int64_t{1} << 30;
    uint64_t stream_seed = 1;
    int32_t num_multiprocessors = 4;
    int32_t compute_capability = 90;
  };
  explicit EmulatedDevice(const Options& options);
  // Runs what is queued. A failure that no call has told ends the process with its words.
  ~EmulatedDevice() override;

  // ---- for tests
  // The n-th such call from now on fails (1 = the next); 0 = none.
  void fail_call(Call call, int64_t nth);
  // Calls so far, refused ones included.
  int64_t num_calls(Call call) const;
  int64_t num_queued() const;   // operations that have not run
  void set_stream_seed(uint64_t seed);
  // The failure after which nothing runs; ok while there is none.
  Status failure();

  // ---- DeviceRuntime
  const cuda::DeviceProperties& properties() const override { return properties_; }
  Result<int64_t> free_bytes() override;
  Result<void*> allocate(int64_t bytes, const char* what) override;
  Result<void*> allocate_pinned(int64_t bytes, const char* what) override;
  void release(void* memory) override;
  Result<device::Stream> create_stream() override;
  Result<cuda::Event> create_event() override;
  Status record(cuda::Event event, device::Stream stream) override;
  Status wait(device::Stream stream, cuda::Event event) override;
  Status synchronize(cuda::Event event) override;
  Result<bool> is_done(cuda::Event event) override;
  Status synchronize(device::Stream stream) override;
  Status copy_to_device(void* to, const void* from, int64_t bytes, device::Stream stream) override;
  Status copy_to_host(void* to, const void* from, int64_t bytes, device::Stream stream) override;
  Status copy_on_device(void* to, const void* from, int64_t bytes, device::Stream stream) override;
  Status clear(void* memory, int64_t bytes, device::Stream stream) override;
  Status begin_capture(device::Stream stream) override;
  Result<cuda::Graph> end_capture(device::Stream stream) override;
  Status launch(cuda::Graph graph, device::Stream stream) override;
  void release(cuda::Graph graph) override;
  Status prepare_dense(const cuda::DenseProduct& product) override;
  Status dense(const cuda::DenseProduct& product, device::Stream stream) override;

  // What kernels' launches become (stream.h): 0 or an error number.
  int launch_kernel(EmulatedStream* stream, std::function<int()> kernel, const std::string& name);

 private:
  struct Counter {
    int64_t calls = 0;
    int64_t fails_at = 0;
  };

  // All need mutex_.
  bool injected(Call call);                // counts the call; true if it is to fail
  Status begin(Call call, const char* name);   // failure so far, or injected
  Status told(Status status);              // passes it on
  Status outside_capture(const char* name);    // spoils the capture that it is inside of
  Status find(device::Stream stream, EmulatedStream** found);
  Status find(cuda::Event event, EmulatedEvent** found);
  Status check_dense(const cuda::DenseProduct& product) const;
  void queue(const EmulatedStream& stream, Operation operation);
  Result<void*> allocate(cuda::MemoryKind kind, Call call, int64_t bytes, const char* what);

  mutable std::mutex mutex_;
  cuda::DeviceProperties properties_;
  DeviceMemory memory_;
  DeviceStreams streams_;
  bool failure_told_ = false;
  std::vector<std::unique_ptr<EmulatedStream>> stream_handles_;
  std::vector<std::unique_ptr<EmulatedEvent>> event_handles_;
  std::vector<std::unique_ptr<EmulatedGraph>> graph_handles_;
  std::array<Counter, kNumCalls> counters_;

  EmulatedStream* capturing_ = nullptr;
  std::vector<Operation> captured_;
  Status capture_failure_;
  EmulatedStream* dense_stream_ = nullptr;
  bool dense_prepared_ = false;
};

// Of a runtime that open_device() of this build gave.
EmulatedDevice& emulated(cuda::DeviceRuntime& runtime);

}  // namespace longhaul::simt
