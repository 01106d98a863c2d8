#include "backend/cuda/weight_uploader.h"

#include <algorithm>
#include <cstring>

#include "backend/cuda/pack_device_matrix.h"

namespace longhaul::cuda {
namespace {

// Large enough for the bus to run at its rate (a copy of 16 MiB takes about 0.7 ms at 25 GB/s, its
// start about 10 us), small enough to be page-locked quickly.
constexpr int64_t kBufferBytesMax = int64_t{16} << 20;
// Threads take this much at a time: some tens of shares a buffer, so that they end together.
constexpr int64_t kShareBytes = int64_t{256} << 10;

}  // namespace

WeightUploader::~WeightUploader() {
  for (Buffer& buffer : buffers_) runtime_.release(buffer.data);
}

Status WeightUploader::open(int64_t total_bytes, int64_t unit_bytes_max, int num_threads) {
  buffer_bytes_ = std::max(std::min(total_bytes, kBufferBytesMax), unit_bytes_max);
  LH_ASSIGN_OR_RETURN(stream_, runtime_.create_stream());
  for (Buffer& buffer : buffers_) {
    LH_ASSIGN_OR_RETURN(void* const memory,
                        runtime_.allocate_pinned(buffer_bytes_, "buffers of the weight upload"));
    buffer.data = static_cast<std::byte*>(memory);
    LH_ASSIGN_OR_RETURN(buffer.copied, runtime_.create_event());
  }
  pool_ = std::make_unique<cpu::ThreadPool>(num_threads);
  return {};
}

Status WeightUploader::upload(std::span<const TensorView> parts, const DeviceMatrixLayout& layout,
                              std::byte* device) {
  for (const DevicePiece& piece : layout.pieces) {
    LH_TRY(upload_piece(parts, piece, device + piece.offset));
  }
  return {};
}

Status WeightUploader::upload_piece(std::span<const TensorView> parts, const DevicePiece& piece,
                                    std::byte* device) {
  const int64_t units_a_buffer = buffer_bytes_ / piece.unit_bytes;
  const int64_t units_a_share = std::max<int64_t>(1, kShareBytes / piece.unit_bytes);
  for (int64_t first = 0; first < piece.num_units; first += units_a_buffer) {
    const int64_t end = std::min(first + units_a_buffer, piece.num_units);
    LH_ASSIGN_OR_RETURN(Buffer* const buffer, next_buffer());
    const int64_t shares = (end - first + units_a_share - 1) / units_a_share;
    pool_->for_dynamic(shares, [&](int64_t share, int) {
      const int64_t begin = first + share * units_a_share;
      pack_device_units(parts, piece, begin, std::min(begin + units_a_share, end),
                        buffer->data + (begin - first) * piece.unit_bytes);
    });
    LH_TRY(send(*buffer, device + first * piece.unit_bytes, (end - first) * piece.unit_bytes));
  }
  return {};
}

Status WeightUploader::upload_bytes(const void* bytes, int64_t size, std::byte* device) {
  const auto* const from = static_cast<const std::byte*>(bytes);
  for (int64_t at = 0; at < size; at += buffer_bytes_) {
    const int64_t count = std::min(buffer_bytes_, size - at);
    LH_ASSIGN_OR_RETURN(Buffer* const buffer, next_buffer());
    std::memcpy(buffer->data, from + at, static_cast<size_t>(count));
    LH_TRY(send(*buffer, device + at, count));
  }
  return {};
}

Result<WeightUploader::Buffer*> WeightUploader::next_buffer() {
  Buffer& buffer = buffers_[next_];
  next_ = (next_ + 1) % buffers_.size();
  if (buffer.in_use) LH_TRY(runtime_.synchronize(buffer.copied));
  buffer.in_use = false;
  return &buffer;
}

Status WeightUploader::send(Buffer& buffer, std::byte* device, int64_t bytes) {
  LH_TRY(runtime_.copy_to_device(device, buffer.data, bytes, stream_));
  LH_TRY(runtime_.record(buffer.copied, stream_));
  buffer.in_use = true;
  return {};
}

Status WeightUploader::finish() { return runtime_.synchronize(stream_); }

}  // namespace longhaul::cuda
