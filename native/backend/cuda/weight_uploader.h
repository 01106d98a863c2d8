// WeightUploader: weights from mapped files to the device. Host threads pack a range of a matrix
// into one page-locked buffer while the range before it is copied from another, so that packing,
// the PCIe bus and reading the file overlap. What was packed is not needed any more: its pages can
// be given back before its copy is done.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "backend/cpu/thread_pool.h"
#include "backend/cuda/device_matrix_layout.h"
#include "backend/cuda/device_runtime.h"
#include "status.h"
#include "tensor.h"

namespace longhaul::cuda {

class WeightUploader {
 public:
  explicit WeightUploader(DeviceRuntime& runtime) : runtime_(runtime) {}
  ~WeightUploader();
  WeightUploader(const WeightUploader&) = delete;
  WeightUploader& operator=(const WeightUploader&) = delete;

  // Buffers of a size that suits a model of this many bytes, at least `unit_bytes_max`, the largest
  // unit of its matrices; threads; a stream of its own.
  Status open(int64_t total_bytes, int64_t unit_bytes_max, int num_threads);

  // layout.bytes to `device`. The parts may go when this returns.
  Status upload(std::span<const TensorView> parts, const DeviceMatrixLayout& layout,
                std::byte* device);
  // Bytes as they are. They may go when this returns.
  Status upload_bytes(const void* bytes, int64_t size, std::byte* device);

  // Waits until everything is on the device.
  Status finish();

 private:
  struct Buffer {
    std::byte* data = nullptr;
    Event copied;
    bool in_use = false;   // a copy from it may not be done
  };

  Status upload_piece(std::span<const TensorView> parts, const DevicePiece& piece,
                      std::byte* device);
  // The buffer whose copy is the oldest, once that is done.
  Result<Buffer*> next_buffer();
  Status send(Buffer& buffer, std::byte* device, int64_t bytes);

  DeviceRuntime& runtime_;
  Stream stream_;
  std::array<Buffer, 2> buffers_;
  size_t next_ = 0;
  int64_t buffer_bytes_ = 0;
  std::unique_ptr<cpu::ThreadPool> pool_;
};

}  // namespace longhaul::cuda
