#include "backend/cuda/device_matrix_layout.h"

namespace longhaul::cuda {
namespace {

using device::WeightFormat;

// Keeps rows and byte counts within the types that kernels index with.
constexpr int64_t kRowsMax = int64_t{1} << 30;
constexpr int64_t kColsMax = int64_t{1} << 24;

WeightFormat weight_format(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return WeightFormat::kF16;
    case DType::kQ8_0:
      return WeightFormat::kQ8_0;
    case DType::kQ4_0:
      return WeightFormat::kQ4_0;
    case DType::kQ4_1:
      return WeightFormat::kQ4_1;
    case DType::kQ5_0:
      return WeightFormat::kQ5_0;
    case DType::kQ5_1:
      return WeightFormat::kQ5_1;
    case DType::kQ4_K:
      return WeightFormat::kQ4_K;
    case DType::kQ5_K:
      return WeightFormat::kQ5_K;
    case DType::kQ6_K:
      return WeightFormat::kQ6_K;
    case DType::kF32:
    case DType::kBF16:
      break;
  }
  return WeightFormat::kBF16;
}

Status check_part(const TensorView& part, const TensorView& first) {
  const auto n = [](int64_t value) { return static_cast<long long>(value); };
  const char* name = part.name.c_str();
  if (part.rows <= 0 || part.cols <= 0) {
    return error(ErrorCode::kModelFormat, "tensor %s: expected a matrix, found %lld x %lld", name,
                 n(part.rows), n(part.cols));
  }
  if (part.cols != first.cols) {
    return error(ErrorCode::kModelFormat, "tensor %s: expected %lld columns as %s, found %lld",
                 name, n(first.cols), first.name.c_str(), n(part.cols));
  }
  if (part.rows > kRowsMax || part.cols > kColsMax) {
    return error(ErrorCode::kModelFormat, "tensor %s: %lld x %lld is too large", name, n(part.rows),
                 n(part.cols));
  }
  const DTypeInfo& info = dtype_info(part.dtype);
  if (part.cols % info.block_elements != 0) {
    return error(ErrorCode::kModelFormat,
                 "tensor %s: %s needs a multiple of %d columns, found %lld", name, info.name,
                 info.block_elements, n(part.cols));
  }
  const int32_t multiple = device::col_multiple(weight_format(part.dtype));
  if (part.cols % multiple != 0) {
    return error(ErrorCode::kUnsupported,
                 "tensor %s: the CUDA backend needs a multiple of %d columns, found %lld", name,
                 multiple, n(part.cols));
  }
  return {};
}

void add_piece(DeviceMatrixLayout& layout, DevicePiece piece) {
  const device::WeightMatrix matrix = piece_matrix(piece, nullptr);
  const bool dense = device::is_dense(piece.format);
  piece.num_units = dense ? piece.rows : device::num_tiles(matrix);
  piece.unit_bytes = dense ? int64_t{2} * piece.cols : device::tile_bytes(piece.format, piece.cols);
  piece.offset = layout.bytes;
  layout.bytes += (piece.num_units * piece.unit_bytes + 255) / 256 * 256;
  layout.pieces.push_back(piece);
}

}  // namespace

device::WeightMatrix piece_matrix(const DevicePiece& piece, const void* data) {
  device::WeightMatrix matrix;
  if (data != nullptr) matrix.data = static_cast<const std::byte*>(data) + piece.offset;
  matrix.format = piece.format;
  matrix.rows = piece.rows;
  matrix.cols = piece.cols;
  matrix.paired = piece.paired;
  return matrix;
}

Result<DeviceMatrixLayout> plan_device_matrix(std::span<const TensorView> parts, bool paired) {
  if (parts.empty()) return error(ErrorCode::kModelFormat, "matrix of no tensors");
  DeviceMatrixLayout layout;
  layout.cols = parts[0].cols;
  for (const TensorView& part : parts) {
    LH_TRY(check_part(part, parts[0]));
    layout.rows += part.rows;
  }
  if (layout.rows > kRowsMax) {
    return error(ErrorCode::kModelFormat, "tensor %s: %lld stacked rows are too many",
                 parts[0].name.c_str(), static_cast<long long>(layout.rows));
  }
  if (paired && (parts.size() != 2 || parts[0].rows != parts[1].rows)) {
    return error(ErrorCode::kModelFormat, "tensor %s: gate and up must be two tensors of one shape",
                 parts[0].name.c_str());
  }
  paired = paired && weight_format(parts[0].dtype) == weight_format(parts[1].dtype);

  DevicePiece piece;
  int64_t row = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const WeightFormat format = weight_format(parts[i].dtype);
    if (piece.num_parts > 0 && format != piece.format) {
      add_piece(layout, piece);
      piece = {};
    }
    if (piece.num_parts == 0) {
      piece.format = format;
      piece.paired = paired;
      piece.cols = static_cast<int32_t>(layout.cols);
      piece.first_row = static_cast<int32_t>(row);
      piece.first_part = static_cast<int32_t>(i);
    }
    piece.rows += static_cast<int32_t>(parts[i].rows);
    ++piece.num_parts;
    row += parts[i].rows;
  }
  add_piece(layout, piece);
  return layout;
}

}  // namespace longhaul::cuda
