// StepUpload: what a step sends to the device: page-locked memory on the host, a mirror of it on the
// device, and a copy stream that the compute stream waits for. One of each for every step that can
// be in flight, so that the lists of the next step are written and copied while one computes.
//
//   reserve(bytes) -> host bytes to write and where they will lie on the device
//   send(piece)    -> queues the copy; kernels queued on the compute stream afterwards may read it
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "backend/cuda/device_arena.h"
#include "backend/cuda/device_runtime.h"
#include "status.h"

namespace longhaul::cuda {

// Pairs of blocks that one upload names; more are copied one by one.
constexpr int32_t kCopyPairsMax = 4096;

class StepUpload {
 public:
  struct Piece {
    std::byte* host = nullptr;
    std::byte* device = nullptr;
    int64_t bytes = 0;
  };

  StepUpload(DeviceRuntime& runtime, Stream compute) : runtime_(runtime), compute_(compute) {}
  ~StepUpload();
  StepUpload(const StepUpload&) = delete;
  StepUpload& operator=(const StepUpload&) = delete;

  // Device memory that `capacity` bytes a step take.
  static int64_t device_bytes(int64_t capacity) { return kStepsInFlight * arena_bytes(capacity); }
  Status open(int64_t capacity, DeviceArena& arena);

  // The step that used this place before has been waited for.
  void begin_step(StepTicket ticket) {
    current_ = static_cast<size_t>(ticket) % kStepsInFlight;
    used_ = 0;
  }
  int64_t bytes_left() const { return capacity_ - used_; }
  // kInternal when the step's memory is used up; 256-byte aligned.
  Result<Piece> reserve(int64_t bytes);
  Status send(const Piece& piece);

 private:
  DeviceRuntime& runtime_;
  Stream compute_;
  Stream stream_;
  Event sent_;
  int64_t capacity_ = 0;
  std::array<std::byte*, kStepsInFlight> host_ = {};
  std::array<std::byte*, kStepsInFlight> device_ = {};
  size_t current_ = 0;
  int64_t used_ = 0;
};

}  // namespace longhaul::cuda
