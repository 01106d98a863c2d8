#include "backend/cuda/step_upload.h"

namespace longhaul::cuda {

StepUpload::~StepUpload() {
  for (std::byte* const memory : host_) runtime_.release(memory);
}

Status StepUpload::open(int64_t capacity, DeviceArena& arena) {
  capacity_ = arena_bytes(capacity);
  LH_ASSIGN_OR_RETURN(stream_, runtime_.create_stream());
  LH_ASSIGN_OR_RETURN(sent_, runtime_.create_event());
  for (size_t i = 0; i < host_.size(); ++i) {
    LH_ASSIGN_OR_RETURN(void* const memory, runtime_.allocate_pinned(capacity_, "step inputs"));
    host_[i] = static_cast<std::byte*>(memory);
    LH_ASSIGN_OR_RETURN(device_[i], arena.take(capacity_));
  }
  return {};
}

Result<StepUpload::Piece> StepUpload::reserve(int64_t bytes) {
  const int64_t taken = arena_bytes(bytes);
  if (taken > bytes_left()) {
    return error(ErrorCode::kInternal, "step inputs: %lld bytes planned, %lld used, %lld more asked for",
                 static_cast<long long>(capacity_), static_cast<long long>(used_),
                 static_cast<long long>(bytes));
  }
  const Piece piece{host_[current_] + used_, device_[current_] + used_, bytes};
  used_ += taken;
  return piece;
}

Status StepUpload::send(const Piece& piece) {
  if (piece.bytes == 0) return {};
  LH_TRY(runtime_.copy_to_device(piece.device, piece.host, piece.bytes, stream_));
  LH_TRY(runtime_.record(sent_, stream_));
  // Orders the copy before everything that reads it: kernels queued from here on.
  return runtime_.wait(compute_, sent_);
}

}  // namespace longhaul::cuda
