#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "backend/cuda/dense_shape.h"
#include "backend/cuda/device_runtime.h"
#include "backend/cuda/device_status.h"
#include "simt/dense_product.h"
#include "simt/emulated_device.h"
#include "simt/simt.h"

namespace longhaul::simt {
namespace {

using cuda::DenseProduct;
using cuda::Event;
using cuda::Graph;
using cuda::MemoryKind;
using cuda::device_error;
using device::Stream;

constexpr const char* kCallNames[kNumCalls] = {
    "allocate", "allocate_pinned", "release", "copy",        "launch",       "run",
    "dense",    "record",          "wait",    "synchronize", "graph_launch", "capture"};

const char* const kInjected = "failure injected by a test";

Result<int64_t> bytes_of(const char* text, const char* variable) {
  char* end = nullptr;
  const double number = std::strtod(text, &end);
  const std::string suffix = end;
  const double unit = suffix == "KiB" ? 1024.0
                      : suffix == "MiB" ? 1048576.0
                      : suffix == "GiB" ? 1073741824.0
                      : suffix.empty() ? 1.0
                                       : -1.0;
  if (end == text || unit < 0 || number < 0) {
    return error(ErrorCode::kDevice, "%s: expected a size such as 512MiB, received \"%s\"",
                 variable, text);
  }
  return static_cast<int64_t>(number * unit);
}

int64_t shared_bytes_max(int32_t compute_capability) {
  return (compute_capability >= 90 ? 227 : 163) * 1024;
}

Operation copy(Operation::Kind kind, void* to, const void* from, int64_t bytes) {
  Operation operation;
  operation.kind = kind;
  operation.to = to;
  operation.from = from;
  operation.bytes = bytes;
  return operation;
}

Operation work(std::string name, std::function<Status()> run) {
  Operation operation;
  operation.name = std::move(name);
  operation.run = std::move(run);
  return operation;
}

// Of bytes that rows of this many elements, a stride apart, span.
int64_t span_bytes(int64_t rows, int64_t stride, int64_t elements, int64_t element_bytes) {
  return rows == 0 ? 0 : ((rows - 1) * stride + elements) * element_bytes;
}

}  // namespace

EmulatedDevice::EmulatedDevice(const Options& options)
    : memory_(options.memory_bytes),
      streams_(options.stream_seed, [this] { return memory_.check_guards(); }) {
  properties_.name = "emulated";
  properties_.compute_capability = options.compute_capability;
  properties_.num_multiprocessors = options.num_multiprocessors;
  properties_.shared_bytes_max = static_cast<int32_t>(shared_bytes_max(options.compute_capability));
  properties_.memory_bytes = options.memory_bytes;
  properties_.l2_bytes = int64_t{50} << 20;
}

EmulatedDevice::~EmulatedDevice() {
  const std::lock_guard lock(mutex_);
  Status status = streams_.finish_all();
  if (status.ok()) status = memory_.check_guards();
  if (!status.ok() && !failure_told_) {
    std::fprintf(stderr, "emulated device closed: %s\n", status.message().c_str());
    std::abort();
  }
}

// ---- for tests

void EmulatedDevice::fail_call(Call call, int64_t nth) {
  const std::lock_guard lock(mutex_);
  Counter& counter = counters_[static_cast<size_t>(call)];
  counter.fails_at = nth > 0 ? counter.calls + nth : 0;
}

int64_t EmulatedDevice::num_calls(Call call) const {
  const std::lock_guard lock(mutex_);
  return counters_[static_cast<size_t>(call)].calls;
}

int64_t EmulatedDevice::num_queued() const {
  const std::lock_guard lock(mutex_);
  return streams_.num_queued();
}

void EmulatedDevice::set_stream_seed(uint64_t seed) {
  const std::lock_guard lock(mutex_);
  streams_.set_seed(seed);
}

Status EmulatedDevice::failure() {
  const std::lock_guard lock(mutex_);
  return told(streams_.failure());
}

// ---- common to calls

bool EmulatedDevice::injected(Call call) {
  Counter& counter = counters_[static_cast<size_t>(call)];
  return ++counter.calls == counter.fails_at;
}

Status EmulatedDevice::told(Status status) {
  if (!status.ok()) failure_told_ = true;
  return status;
}

Status EmulatedDevice::begin(Call call, const char* name) {
  if (injected(call)) streams_.fail(device_error(name, kLaunchFailure, kInjected));
  return told(streams_.failure());
}

Status EmulatedDevice::outside_capture(const char* name) {
  if (!capturing_) return {};
  capture_failure_ = cuda::not_in_capture(name);
  return capture_failure_;
}

Status EmulatedDevice::find(Stream stream, EmulatedStream** found) {
  for (const auto& handle : stream_handles_) {
    if (handle.get() == stream.handle) {
      *found = handle.get();
      return {};
    }
  }
  return error(ErrorCode::kDevice, "%p is not a stream of this device", stream.handle);
}

Status EmulatedDevice::find(Event event, EmulatedEvent** found) {
  for (const auto& handle : event_handles_) {
    if (handle.get() == event.handle) {
      *found = handle.get();
      return {};
    }
  }
  return error(ErrorCode::kDevice, "%p is not an event of this device", event.handle);
}

void EmulatedDevice::queue(const EmulatedStream& stream, Operation operation) {
  if (capturing_ == &stream) {
    captured_.push_back(std::move(operation));
  } else {
    streams_.queue(stream.index, std::move(operation));
  }
}

// ---- memory

Result<int64_t> EmulatedDevice::free_bytes() {
  const std::lock_guard lock(mutex_);
  return memory_.free_bytes();
}

Result<void*> EmulatedDevice::allocate(MemoryKind kind, Call call, int64_t bytes,
                                       const char* what) {
  const std::lock_guard lock(mutex_);
  const bool fails = injected(call);
  LH_TRY(told(streams_.failure()));
  LH_TRY(outside_capture(kCallNames[static_cast<size_t>(call)]));
  if (fails) return cuda::out_of_memory(kind, what, bytes, 0, memory_.budget_bytes());
  return memory_.allocate(kind, bytes, what);
}

Result<void*> EmulatedDevice::allocate(int64_t bytes, const char* what) {
  return allocate(MemoryKind::kDevice, Call::kAllocate, bytes, what);
}

Result<void*> EmulatedDevice::allocate_pinned(int64_t bytes, const char* what) {
  return allocate(MemoryKind::kPinned, Call::kAllocatePinned, bytes, what);
}

// Waits for the device, as the driver does. What goes wrong is told by the next call.
void EmulatedDevice::release(void* memory) {
  if (!memory) return;
  const std::lock_guard lock(mutex_);
  injected(Call::kRelease);
  if (!outside_capture("release").ok()) return;
  if (!streams_.finish_all().ok()) return;
  if (Status status = memory_.release(memory); !status.ok()) streams_.fail(std::move(status));
}

// ---- streams and events

Result<Stream> EmulatedDevice::create_stream() {
  const std::lock_guard lock(mutex_);
  stream_handles_.push_back(std::make_unique<EmulatedStream>());
  EmulatedStream& stream = *stream_handles_.back();
  stream.device = this;
  stream.index = streams_.add_stream();
  return Stream{&stream};
}

Result<Event> EmulatedDevice::create_event() {
  const std::lock_guard lock(mutex_);
  event_handles_.push_back(std::make_unique<EmulatedEvent>());
  return Event{event_handles_.back().get()};
}

// Recording and waiting inside of a capture would tie other streams to it; the backend has no use
// for that, so both runtimes refuse it.
Status EmulatedDevice::record(Event event, Stream stream) {
  const std::lock_guard lock(mutex_);
  LH_TRY(begin(Call::kRecord, "record"));
  EmulatedStream* on = nullptr;
  EmulatedEvent* which = nullptr;
  LH_TRY(find(stream, &on));
  LH_TRY(find(event, &which));
  if (capturing_ == on) return outside_capture("record");
  which->recorded = streams_.record(on->index);
  return {};
}

Status EmulatedDevice::wait(Stream stream, Event event) {
  const std::lock_guard lock(mutex_);
  LH_TRY(begin(Call::kWait, "wait"));
  EmulatedStream* on = nullptr;
  EmulatedEvent* which = nullptr;
  LH_TRY(find(stream, &on));
  LH_TRY(find(event, &which));
  if (capturing_ == on) return outside_capture("wait");
  if (which->recorded) streams_.wait(on->index, which->recorded);
  return {};
}

Status EmulatedDevice::synchronize(Event event) {
  const std::lock_guard lock(mutex_);
  LH_TRY(begin(Call::kSynchronize, "synchronize"));
  LH_TRY(outside_capture("synchronize"));
  EmulatedEvent* which = nullptr;
  LH_TRY(find(event, &which));
  return which->recorded ? told(streams_.finish(which->recorded)) : Status();
}

Result<bool> EmulatedDevice::is_done(Event event) {
  const std::lock_guard lock(mutex_);
  LH_TRY(told(streams_.failure()));
  LH_TRY(outside_capture("is_done"));
  EmulatedEvent* which = nullptr;
  LH_TRY(find(event, &which));
  if (which->recorded && !which->recorded->reached) LH_TRY(told(streams_.advance(which->recorded)));
  return !which->recorded || which->recorded->reached;
}

Status EmulatedDevice::synchronize(Stream stream) {
  const std::lock_guard lock(mutex_);
  LH_TRY(begin(Call::kSynchronize, "synchronize"));
  LH_TRY(outside_capture("synchronize"));
  EmulatedStream* on = nullptr;
  LH_TRY(find(stream, &on));
  return told(streams_.finish(on->index));
}

// ---- copies

Status EmulatedDevice::copy_to_device(void* to, const void* from, int64_t bytes, Stream stream) {
  const std::lock_guard lock(mutex_);
  LH_TRY(begin(Call::kCopy, "copy_to_device"));
  EmulatedStream* on = nullptr;
  LH_TRY(find(stream, &on));
  if (bytes == 0) return {};
  LH_TRY(memory_.check_range(MemoryKind::kDevice, "copy_to_device", to, bytes));
  LH_TRY(memory_.check_range(MemoryKind::kPinned, "copy_to_device", from, bytes));
  queue(*on, copy(Operation::Kind::kCopyToDevice, to, from, bytes));
  return {};
}

Status EmulatedDevice::copy_to_host(void* to, const void* from, int64_t bytes, Stream stream) {
  const std::lock_guard lock(mutex_);
  LH_TRY(begin(Call::kCopy, "copy_to_host"));
  EmulatedStream* on = nullptr;
  LH_TRY(find(stream, &on));
  if (bytes == 0) return {};
  LH_TRY(memory_.check_range(MemoryKind::kPinned, "copy_to_host", to, bytes));
  LH_TRY(memory_.check_range(MemoryKind::kDevice, "copy_to_host", from, bytes));
  queue(*on, copy(Operation::Kind::kCopyToHost, to, from, bytes));
  return {};
}

Status EmulatedDevice::copy_on_device(void* to, const void* from, int64_t bytes, Stream stream) {
  const std::lock_guard lock(mutex_);
  LH_TRY(begin(Call::kCopy, "copy_on_device"));
  EmulatedStream* on = nullptr;
  LH_TRY(find(stream, &on));
  if (bytes == 0) return {};
  LH_TRY(memory_.check_range(MemoryKind::kDevice, "copy_on_device", to, bytes));
  LH_TRY(memory_.check_range(MemoryKind::kDevice, "copy_on_device", from, bytes));
  const auto* const a = static_cast<const std::byte*>(to);
  const auto* const b = static_cast<const std::byte*>(from);
  if (a < b + bytes && b < a + bytes) {
    return error(ErrorCode::kDevice, "copy_on_device: source and destination overlap");
  }
  queue(*on, work("copy_on_device", [=] {
    std::memcpy(to, from, static_cast<size_t>(bytes));
    return Status();
  }));
  return {};
}

Status EmulatedDevice::clear(void* memory, int64_t bytes, Stream stream) {
  const std::lock_guard lock(mutex_);
  LH_TRY(begin(Call::kCopy, "clear"));
  EmulatedStream* on = nullptr;
  LH_TRY(find(stream, &on));
  if (bytes == 0) return {};
  LH_TRY(memory_.check_range(MemoryKind::kDevice, "clear", memory, bytes));
  queue(*on, work("clear", [=] {
    std::memset(memory, 0, static_cast<size_t>(bytes));
    return Status();
  }));
  return {};
}

// ---- kernels

int EmulatedDevice::launch_kernel(EmulatedStream* stream, std::function<int()> kernel,
                                  const std::string& name) {
  const std::lock_guard lock(mutex_);
  if (!begin(Call::kLaunch, "kernel launch").ok()) return kLaunchFailure;
  queue(*stream, work(name, [this, kernel = std::move(kernel)] {
    if (injected(Call::kRun)) return told(device_error("kernel", kLaunchFailure, kInjected));
    const int number = kernel();
    if (number == 0) return Status();
    return device_error("kernel", number, take_fault().c_str());
  }));
  return 0;
}

// ---- graphs

Status EmulatedDevice::begin_capture(Stream stream) {
  const std::lock_guard lock(mutex_);
  LH_TRY(told(streams_.failure()));
  LH_TRY(outside_capture("begin_capture"));
  EmulatedStream* on = nullptr;
  LH_TRY(find(stream, &on));
  capturing_ = on;
  captured_.clear();
  capture_failure_ = {};
  return {};
}

Result<Graph> EmulatedDevice::end_capture(Stream stream) {
  const std::lock_guard lock(mutex_);
  EmulatedStream* on = nullptr;
  LH_TRY(find(stream, &on));
  if (capturing_ != on) {
    return error(ErrorCode::kDevice, "end_capture: the stream is not being captured");
  }
  capturing_ = nullptr;
  std::vector<Operation> operations = std::exchange(captured_, {});
  if (Status status = std::exchange(capture_failure_, {}); !status.ok()) return status;
  LH_TRY(begin(Call::kCapture, "end_capture"));
  graph_handles_.push_back(std::make_unique<EmulatedGraph>());
  graph_handles_.back()->operations = std::move(operations);
  return Graph{graph_handles_.back().get()};
}

Status EmulatedDevice::launch(Graph graph, Stream stream) {
  const std::lock_guard lock(mutex_);
  LH_TRY(begin(Call::kGraphLaunch, "launch of a graph"));
  EmulatedStream* on = nullptr;
  LH_TRY(find(stream, &on));
  if (capturing_ == on) return outside_capture("launch of a graph");
  for (const auto& handle : graph_handles_) {
    if (handle.get() != graph.handle) continue;
    for (const Operation& operation : handle->operations) queue(*on, operation);
    return {};
  }
  return error(ErrorCode::kDevice, "launch of a graph: %p is no graph of this device",
               graph.handle);
}

void EmulatedDevice::release(Graph graph) {
  const std::lock_guard lock(mutex_);
  std::erase_if(graph_handles_, [&](const auto& handle) { return handle.get() == graph.handle; });
}

// ---- dense products

Status EmulatedDevice::check_dense(const DenseProduct& p) const {
  LH_TRY(cuda::check_dense_shape(p));
  if (p.rows == 0 || p.out == 0) return {};
  const int64_t y_bytes = p.y_is_f32 ? 4 : 2;
  LH_TRY(memory_.check_range(MemoryKind::kDevice, "dense: x", p.x,
                             span_bytes(p.rows, p.x_stride, p.cols, 2)));
  LH_TRY(memory_.check_range(MemoryKind::kDevice, "dense: w", p.w,
                             span_bytes(p.out, p.w_stride, p.cols, 2)));
  return memory_.check_range(MemoryKind::kDevice, "dense: y", p.y,
                             span_bytes(p.rows, p.y_stride, p.out, y_bytes));
}

Status EmulatedDevice::prepare_dense(const DenseProduct& product) {
  const std::lock_guard lock(mutex_);
  LH_TRY(told(streams_.failure()));
  LH_TRY(outside_capture("prepare_dense"));
  LH_TRY(cuda::check_dense_shape(product));
  dense_prepared_ = true;
  return {};
}

Status EmulatedDevice::dense(const DenseProduct& product, Stream stream) {
  const std::lock_guard lock(mutex_);
  LH_TRY(begin(Call::kDense, "dense"));
  EmulatedStream* on = nullptr;
  LH_TRY(find(stream, &on));
  LH_TRY(check_dense(product));
  if (!dense_prepared_) return cuda::dense_not_prepared();
  if (!dense_stream_) dense_stream_ = on;
  if (dense_stream_ != on) return cuda::dense_on_two_streams();
  if (product.rows == 0 || product.out == 0) return {};
  queue(*on, work("dense", [this, product] {
    if (injected(Call::kRun)) return told(device_error("dense", kLaunchFailure, kInjected));
    dense_product(product);
    return Status();
  }));
  return {};
}

EmulatedDevice& emulated(cuda::DeviceRuntime& runtime) {
  return static_cast<EmulatedDevice&>(runtime);
}

}  // namespace longhaul::simt

namespace longhaul::cuda {

const char* runtime_name() { return "cuda-emulated"; }

const char* error_words(int number) {
  switch (number) {
    case 0: return "no error";
    case device::kInvalidLaunch: return "invalid argument";
    case simt::kInvalidConfiguration: return "invalid configuration argument";
    case simt::kIllegalAddress: return "an illegal memory access was encountered";
    case simt::kDeadlock: return "the launch timed out and was terminated";
    case simt::kMisalignedAddress: return "misaligned address";
    case simt::kLaunchFailure: return "unspecified launch failure";
    default: return "unrecognized error code";
  }
}

Result<std::unique_ptr<DeviceRuntime>> open_device(int32_t index) {
  if (index != 0) {
    return error(ErrorCode::kDevice, "no device %d: there is 1, numbered from 0", index);
  }
  simt::EmulatedDevice::Options options;
  if (const char* text = std::getenv("LONGHAUL_SIMT_MEMORY")) {
    LH_ASSIGN_OR_RETURN(options.memory_bytes, simt::bytes_of(text, "LONGHAUL_SIMT_MEMORY"));
  }
  if (const char* text = std::getenv("LONGHAUL_SIMT_STREAM_SEED")) {
    options.stream_seed = std::strtoull(text, nullptr, 10);
  }
  if (const char* text = std::getenv("LONGHAUL_SIMT_MULTIPROCESSORS")) {
    options.num_multiprocessors = std::max(1, std::atoi(text));
  }
  if (const char* text = std::getenv("LONGHAUL_SIMT_CAPABILITY")) {
    options.compute_capability = std::atoi(text);
  }
  auto device = std::make_unique<simt::EmulatedDevice>(options);
  if (const char* text = std::getenv("LONGHAUL_SIMT_FAIL")) {
    const char* const colon = std::strchr(text, ':');
    const std::string call = colon ? std::string(text, colon) : std::string(text);
    size_t which = 0;
    while (which < simt::kNumCalls && call != simt::kCallNames[which]) ++which;
    if (!colon || which == simt::kNumCalls) {
      return error(ErrorCode::kDevice, "LONGHAUL_SIMT_FAIL: expected call:n, received \"%s\"",
                   text);
    }
    device->fail_call(static_cast<simt::Call>(which), std::atoll(colon + 1));
  }
  return std::unique_ptr<DeviceRuntime>(std::move(device));
}

}  // namespace longhaul::cuda
