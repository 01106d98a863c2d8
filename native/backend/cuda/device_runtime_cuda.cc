// The device runtime over the CUDA runtime API. Compiled by the host compiler; cudart is linked
// statically, so that the plug-in needs the driver and nothing else.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/cuda/cublas_lt.h"
#include "backend/cuda/dense_shape.h"
#include "backend/cuda/device_runtime.h"
#include "backend/cuda/device_status.h"

namespace longhaul::cuda {
namespace {

constexpr int32_t kCapabilityMin = 80;

Status check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return {};
  cudaGetLastError();   // errors that do not stick would be taken for the next launch's
  return device_error(call, static_cast<int>(code), cudaGetErrorString(code));
}

cudaStream_t native(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }
cudaEvent_t native(Event event) { return static_cast<cudaEvent_t>(event.handle); }
cudaGraphExec_t native(Graph graph) { return static_cast<cudaGraphExec_t>(graph.handle); }

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

class CudaDevice final : public DeviceRuntime {
 public:
  CudaDevice(int32_t index, DeviceProperties properties)
      : index_(index), properties_(std::move(properties)) {}
  ~CudaDevice() override;

  const DeviceProperties& properties() const override { return properties_; }
  Result<int64_t> free_bytes() override;
  Result<void*> allocate(int64_t bytes, const char* what) override;
  Result<void*> allocate_pinned(int64_t bytes, const char* what) override;
  void release(void* memory) override;
  Result<Stream> create_stream() override;
  Result<Event> create_event() override;
  Status record(Event event, Stream stream) override;
  Status wait(Stream stream, Event event) override;
  Status synchronize(Event event) override;
  Result<bool> is_done(Event event) override;
  Status synchronize(Stream stream) override;
  Status copy_to_device(void* to, const void* from, int64_t bytes, Stream stream) override;
  Status copy_to_host(void* to, const void* from, int64_t bytes, Stream stream) override;
  Status copy_on_device(void* to, const void* from, int64_t bytes, Stream stream) override;
  Status clear(void* memory, int64_t bytes, Stream stream) override;
  Status begin_capture(Stream stream) override;
  Result<Graph> end_capture(Stream stream) override;
  Status launch(Graph graph, Stream stream) override;
  void release(Graph graph) override;
  Status prepare_dense(const DenseProduct& product) override;
  Status dense(const DenseProduct& product, Stream stream) override;

 private:
  // Makes the device the calling thread's; kernels launched by this thread from then on go there.
  Status use();
  // Outside of a capture; inside, spoils it. Needs mutex_.
  Status outside_capture(const char* call);
  Status outside_capture_of(Stream stream, const char* call);
  Status copy(const char* call, void* to, const void* from, int64_t bytes, cudaMemcpyKind kind,
              Stream stream);

  const int32_t index_;
  const DeviceProperties properties_;

  std::mutex mutex_;   // guards all below
  std::unordered_map<void*, MemoryKind> memory_;
  std::vector<cudaStream_t> streams_;
  std::vector<cudaEvent_t> events_;
  std::vector<cudaGraphExec_t> graphs_;
  cudaStream_t capturing_ = nullptr;
  Status capture_failure_;
  std::unique_ptr<CublasLt> blas_;
  void* blas_workspace_ = nullptr;
  cudaStream_t blas_stream_ = nullptr;
};

Status CudaDevice::use() {
  thread_local int32_t current = -1;
  if (current == index_) return {};
  LH_TRY(check(cudaSetDevice(index_), "cudaSetDevice"));
  current = index_;
  return {};
}

CudaDevice::~CudaDevice() {
  if (!use().ok()) return;
  // Failures have been told by the calls that met them; after one nothing more can be freed anyway.
  cudaDeviceSynchronize();
  blas_.reset();
  for (const cudaGraphExec_t graph : graphs_) cudaGraphExecDestroy(graph);
  for (const cudaEvent_t event : events_) cudaEventDestroy(event);
  for (const cudaStream_t stream : streams_) cudaStreamDestroy(stream);
  for (const auto& [memory, kind] : memory_) {
    kind == MemoryKind::kDevice ? cudaFree(memory) : cudaFreeHost(memory);
  }
  cudaGetLastError();
}

Status CudaDevice::outside_capture(const char* call) {
  if (!capturing_) return {};
  capture_failure_ = not_in_capture(call);
  return capture_failure_;
}

Status CudaDevice::outside_capture_of(Stream stream, const char* call) {
  return capturing_ == native(stream) ? outside_capture(call) : Status();
}

// ---- memory

Result<int64_t> CudaDevice::free_bytes() {
  LH_TRY(use());
  size_t free = 0, total = 0;
  LH_TRY(check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo"));
  return static_cast<int64_t>(free);
}

Result<void*> CudaDevice::allocate(int64_t bytes, const char* what) {
  LH_TRY(use());
  const std::lock_guard lock(mutex_);
  LH_TRY(outside_capture("allocate"));
  void* memory = nullptr;
  const cudaError_t code = cudaMalloc(&memory, static_cast<size_t>(std::max<int64_t>(bytes, 1)));
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    LH_TRY(check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo"));
    return out_of_memory(MemoryKind::kDevice, what, bytes, static_cast<int64_t>(free),
                         static_cast<int64_t>(total));
  }
  LH_TRY(check(code, "cudaMalloc"));
  memory_.emplace(memory, MemoryKind::kDevice);
  return memory;
}

Result<void*> CudaDevice::allocate_pinned(int64_t bytes, const char* what) {
  LH_TRY(use());
  const std::lock_guard lock(mutex_);
  LH_TRY(outside_capture("allocate_pinned"));
  void* memory = nullptr;
  const cudaError_t code = cudaHostAlloc(
      &memory, static_cast<size_t>(std::max<int64_t>(bytes, 1)), cudaHostAllocDefault);
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return out_of_memory(MemoryKind::kPinned, what, bytes, -1, -1);
  }
  LH_TRY(check(code, "cudaHostAlloc"));
  memory_.emplace(memory, MemoryKind::kPinned);
  return memory;
}

void CudaDevice::release(void* memory) {
  if (!memory || !use().ok()) return;
  const std::lock_guard lock(mutex_);
  if (!outside_capture("release").ok()) return;
  const auto found = memory_.find(memory);
  if (found == memory_.end()) return;
  // Work queued on any stream may still use it.
  cudaDeviceSynchronize();
  found->second == MemoryKind::kDevice ? cudaFree(memory) : cudaFreeHost(memory);
  memory_.erase(found);
}

// ---- streams and events

Result<Stream> CudaDevice::create_stream() {
  LH_TRY(use());
  cudaStream_t stream = nullptr;
  LH_TRY(check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate"));
  const std::lock_guard lock(mutex_);
  streams_.push_back(stream);
  return Stream{stream};
}

Result<Event> CudaDevice::create_event() {
  LH_TRY(use());
  cudaEvent_t event = nullptr;
  LH_TRY(check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate"));
  const std::lock_guard lock(mutex_);
  events_.push_back(event);
  return Event{event};
}

Status CudaDevice::record(Event event, Stream stream) {
  LH_TRY(use());
  const std::lock_guard lock(mutex_);
  LH_TRY(outside_capture_of(stream, "record"));
  return check(cudaEventRecord(native(event), native(stream)), "cudaEventRecord");
}

Status CudaDevice::wait(Stream stream, Event event) {
  LH_TRY(use());
  const std::lock_guard lock(mutex_);
  LH_TRY(outside_capture_of(stream, "wait"));
  return check(cudaStreamWaitEvent(native(stream), native(event), 0), "cudaStreamWaitEvent");
}

Status CudaDevice::synchronize(Event event) {
  LH_TRY(use());
  {
    const std::lock_guard lock(mutex_);
    LH_TRY(outside_capture("synchronize"));
  }
  return check(cudaEventSynchronize(native(event)), "cudaEventSynchronize");
}

Result<bool> CudaDevice::is_done(Event event) {
  LH_TRY(use());
  {
    const std::lock_guard lock(mutex_);
    LH_TRY(outside_capture("is_done"));
  }
  const cudaError_t code = cudaEventQuery(native(event));
  if (code == cudaErrorNotReady) return false;
  LH_TRY(check(code, "cudaEventQuery"));
  return true;
}

Status CudaDevice::synchronize(Stream stream) {
  LH_TRY(use());
  {
    const std::lock_guard lock(mutex_);
    LH_TRY(outside_capture("synchronize"));
  }
  return check(cudaStreamSynchronize(native(stream)), "cudaStreamSynchronize");
}

// ---- copies

Status CudaDevice::copy(const char* call, void* to, const void* from, int64_t bytes,
                        cudaMemcpyKind kind, Stream stream) {
  if (bytes == 0) return {};
  LH_TRY(use());
  return check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, native(stream)), call);
}

Status CudaDevice::copy_to_device(void* to, const void* from, int64_t bytes, Stream stream) {
  return copy("copy_to_device", to, from, bytes, cudaMemcpyHostToDevice, stream);
}

Status CudaDevice::copy_to_host(void* to, const void* from, int64_t bytes, Stream stream) {
  return copy("copy_to_host", to, from, bytes, cudaMemcpyDeviceToHost, stream);
}

Status CudaDevice::copy_on_device(void* to, const void* from, int64_t bytes, Stream stream) {
  return copy("copy_on_device", to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}

Status CudaDevice::clear(void* memory, int64_t bytes, Stream stream) {
  if (bytes == 0) return {};
  LH_TRY(use());
  return check(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), native(stream)), "clear");
}

// ---- graphs

// Relaxed: a kernel's first launch may load its module, which the stricter modes count as unsafe.
// What must not happen inside of a capture is refused by this class.
Status CudaDevice::begin_capture(Stream stream) {
  LH_TRY(use());
  const std::lock_guard lock(mutex_);
  LH_TRY(outside_capture("begin_capture"));
  LH_TRY(check(cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeRelaxed),
               "cudaStreamBeginCapture"));
  capturing_ = native(stream);
  capture_failure_ = {};
  return {};
}

Result<Graph> CudaDevice::end_capture(Stream stream) {
  LH_TRY(use());
  const std::lock_guard lock(mutex_);
  if (!capturing_ || capturing_ != native(stream)) {
    return error(ErrorCode::kDevice, "end_capture: the stream is not being captured");
  }
  capturing_ = nullptr;
  cudaGraph_t graph = nullptr;
  Status status = check(cudaStreamEndCapture(native(stream), &graph), "cudaStreamEndCapture");
  if (Status spoilt = std::exchange(capture_failure_, {}); !spoilt.ok()) status = spoilt;
  cudaGraphExec_t executable = nullptr;
  if (status.ok()) {
    status = check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  }
  if (graph) cudaGraphDestroy(graph);
  LH_TRY(status);
  graphs_.push_back(executable);
  // The first launch would do this inside of a step.
  LH_TRY(check(cudaGraphUpload(executable, native(stream)), "cudaGraphUpload"));
  return Graph{executable};
}

Status CudaDevice::launch(Graph graph, Stream stream) {
  LH_TRY(use());
  {
    const std::lock_guard lock(mutex_);
    LH_TRY(outside_capture_of(stream, "launch of a graph"));
  }
  return check(cudaGraphLaunch(native(graph), native(stream)), "cudaGraphLaunch");
}

void CudaDevice::release(Graph graph) {
  if (!graph.handle || !use().ok()) return;
  const std::lock_guard lock(mutex_);
  if (std::erase(graphs_, native(graph)) > 0) cudaGraphExecDestroy(native(graph));
}

// ---- dense products

Status CudaDevice::prepare_dense(const DenseProduct& product) {
  LH_TRY(use());
  LH_TRY(check_dense_shape(product));
  {
    const std::lock_guard lock(mutex_);
    LH_TRY(outside_capture("prepare_dense"));
    if (!blas_) {
      LH_ASSIGN_OR_RETURN(blas_, CublasLt::open());
    }
  }
  if (!blas_workspace_) {
    LH_ASSIGN_OR_RETURN(blas_workspace_,
                        allocate(CublasLt::kWorkspaceBytes, "workspace of matrix products"));
  }
  if (product.rows == 0 || product.out == 0) return {};
  const std::lock_guard lock(mutex_);
  return blas_->prepare(product);
}

Status CudaDevice::dense(const DenseProduct& product, Stream stream) {
  LH_TRY(use());
  LH_TRY(check_dense_shape(product));
  const std::lock_guard lock(mutex_);
  if (!blas_ || !blas_workspace_) return dense_not_prepared();
  if (!blas_stream_) blas_stream_ = native(stream);
  if (blas_stream_ != native(stream)) return dense_on_two_streams();
  if (product.rows == 0 || product.out == 0) return {};
  return blas_->run(product, blas_workspace_, native(stream));
}

// ---- opening

Status no_device(cudaError_t code) {
  cudaGetLastError();
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (code == cudaErrorInsufficientDriver && driver == 0) {
    return error(ErrorCode::kDevice, "no NVIDIA driver was found (libcuda.so.1)");
  }
  if (code == cudaErrorInsufficientDriver) {
    return error(ErrorCode::kDevice,
                 "the NVIDIA driver supports CUDA %s, this build needs %s: update the driver",
                 version_text(driver).c_str(), version_text(runtime).c_str());
  }
  if (code == cudaErrorNoDevice) {
    const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
    return error(ErrorCode::kDevice, "no CUDA device is visible%s%s%s",
                 visible ? " (CUDA_VISIBLE_DEVICES=" : "", visible ? visible : "",
                 visible ? ")" : "");
  }
  return check(code, "cudaGetDeviceCount");
}

Result<DeviceProperties> properties_of(int32_t index) {
  DeviceProperties properties;
  cudaDeviceProp native_properties{};
  LH_TRY(check(cudaGetDeviceProperties(&native_properties, index), "cudaGetDeviceProperties"));
  properties.name = native_properties.name;
  properties.memory_bytes = static_cast<int64_t>(native_properties.totalGlobalMem);
  int major = 0, minor = 0, l2_bytes = 0;
  for (const auto& [attribute, value] :
       {std::pair(cudaDevAttrComputeCapabilityMajor, &major),
        std::pair(cudaDevAttrComputeCapabilityMinor, &minor),
        std::pair(cudaDevAttrMultiProcessorCount, &properties.num_multiprocessors),
        std::pair(cudaDevAttrMaxSharedMemoryPerBlockOptin, &properties.shared_bytes_max),
        std::pair(cudaDevAttrL2CacheSize, &l2_bytes)}) {
    LH_TRY(check(cudaDeviceGetAttribute(value, attribute, index), "cudaDeviceGetAttribute"));
  }
  properties.compute_capability = major * 10 + minor;
  properties.l2_bytes = l2_bytes;
  LH_TRY(check(cudaDriverGetVersion(&properties.driver_version), "cudaDriverGetVersion"));
  return properties;
}

}  // namespace

const char* runtime_name() { return "cuda"; }

const char* error_words(int number) {
  return cudaGetErrorString(static_cast<cudaError_t>(number));
}

Result<std::unique_ptr<DeviceRuntime>> open_device(int32_t index) {
  int count = 0;
  if (const cudaError_t code = cudaGetDeviceCount(&count); code != cudaSuccess) {
    return no_device(code);
  }
  if (index < 0 || index >= count) {
    return error(ErrorCode::kDevice, "no device %d: there %s %d, numbered from 0", index,
                 count == 1 ? "is" : "are", count);
  }
  LH_ASSIGN_OR_RETURN(DeviceProperties properties, properties_of(index));
  if (properties.compute_capability < kCapabilityMin) {
    return error(ErrorCode::kDevice, "%s: compute capability %d.%d, at least %d.%d is needed",
                 properties.name.c_str(), properties.compute_capability / 10,
                 properties.compute_capability % 10, kCapabilityMin / 10, kCapabilityMin % 10);
  }
  auto device = std::make_unique<CudaDevice>(index, std::move(properties));
  // Creates the context, which takes hundreds of milliseconds: not inside of the first step.
  LH_TRY(device->free_bytes().status());
  return std::unique_ptr<DeviceRuntime>(std::move(device));
}

}  // namespace longhaul::cuda
