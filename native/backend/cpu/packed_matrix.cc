// Repacking of stored rows into groups of 16, and reading single rows back. The block formats of
// files are described in docs/formats.md and taken apart by quant_block.h; here quants and scales
// are put together again in the planes of packed_matrix_layout.h.
#include "backend/cpu/packed_matrix.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "backend/cpu/matmul.h"
#include "backend/cpu/vector_math.h"
#include "quant_block.h"

namespace longhaul::cpu {
namespace {

int64_t align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Quants of one row and 32 columns into the planes of its group.
void put_quants(const PackFormat& format, const uint8_t* q, int64_t block, int row,
                uint8_t* low_plane, uint8_t* high_plane) {
  uint8_t* low = low_plane + block * format.low_block_bytes + 4 * row;
  if (format.bits == 8) {
    for (int s = 0; s < 8; ++s) std::memcpy(low + 64 * s, q + 4 * s, 4);
    return;
  }
  for (int j = 0; j < 4; ++j) {
    const uint32_t even = load32(q + 8 * j) & 0x0f0f0f0f;
    const uint32_t odd = load32(q + 8 * j + 4) & 0x0f0f0f0f;
    store32(low + 64 * j, even | odd << 4);
  }
  uint8_t* high = high_plane + block * format.high_block_bytes + 4 * row;
  if (format.bits == 5) {
    uint32_t bits = 0;
    for (int s = 0; s < 8; ++s) bits |= (load32(q + 4 * s) >> 4 & 0x01010101) << s;
    store32(high, bits);
  } else if (format.bits == 6) {
    for (int i = 0; i < 2; ++i) {
      uint32_t bits = 0;
      for (int t = 0; t < 4; ++t) {
        bits |= (load32(q + 16 * i + 4 * t) >> 4 & 0x03030303) << (2 * t);
      }
      store32(high + 64 * i, bits);
    }
  }
}

void put_scales(const PackFormat& format, const BlockParts& parts, int64_t unit, int row,
                uint8_t* scale_plane) {
  uint8_t* out = scale_plane + unit * format.scale_block_bytes;
  store16(out + 2 * row, parts.d);
  if (format.mode == ScaleMode::kMin) store16(out + 32 + 2 * row, parts.m);
  if (!format.super_blocks) return;
  if (format.mode == ScaleMode::kHalves) {
    for (int s = 0; s < 16; ++s) out[32 + 16 * s + row] = parts.scales[s];
  } else {
    for (int b = 0; b < 8; ++b) {
      out[64 + 16 * b + row] = parts.scales[b];
      out[192 + 16 * b + row] = parts.mins[b];
    }
  }
}

// Elements of kBytes bytes in units of kPack neighbors: [cols / kPack][16][kPack].
template <int kBytes, int kPack>
void pack_floats(const uint8_t* rows, int64_t stride, int64_t cols, int count, uint8_t* out) {
  for (int64_t k = 0; k < cols; k += kPack) {
    uint8_t* unit = out + k * kGroupRows * kBytes;
    if (k + kPack <= cols) {
      for (int row = 0; row < count; ++row) {
        std::memcpy(unit + row * kPack * kBytes, rows + row * stride + k * kBytes, kPack * kBytes);
      }
    } else {  // the last odd column
      for (int row = 0; row < count; ++row) {
        std::memcpy(unit + row * kPack * kBytes, rows + row * stride + k * kBytes, kBytes);
      }
    }
  }
}

// Rows [first, first + count) of a part into one zeroed group.
void pack_group(const TensorView& part, int64_t first, int count, std::byte* group) {
  const int64_t stride = row_bytes(part.dtype, part.cols);
  const auto* rows = reinterpret_cast<const uint8_t*>(part.data) + first * stride;
  auto* out = reinterpret_cast<uint8_t*>(group);
  const DTypeInfo& info = dtype_info(part.dtype);
  const PackFormat& format = pack_format(part.dtype);
  if (part.dtype == DType::kF32) return pack_floats<4, 1>(rows, stride, part.cols, count, out);
  if (part.dtype == DType::kF16) return pack_floats<2, 1>(rows, stride, part.cols, count, out);
  if (part.dtype == DType::kBF16) return pack_floats<2, 2>(rows, stride, part.cols, count, out);
  const GroupLayout layout = group_layout(part.dtype, part.cols);
  const int64_t units = part.cols / info.block_elements;
  const int blocks = info.block_elements / kBlockCols;
  BlockParts parts;
  for (int64_t unit = 0; unit < units; ++unit) {
    for (int row = 0; row < count; ++row) {
      split_block(part.dtype, rows + row * stride + unit * info.block_bytes, parts);
      for (int b = 0; b < blocks; ++b) {
        put_quants(format, parts.quants + kBlockCols * b, unit * blocks + b, row, out,
                   out + layout.high);
      }
      put_scales(format, parts, unit, row, out + layout.scales);
    }
  }
}

Status check_parts(std::span<const TensorView> parts, bool interleave) {
  if (parts.empty()) return error(ErrorCode::kModelFormat, "matrix of no tensors");
  const TensorView& first = parts[0];
  for (const TensorView& part : parts) {
    const DTypeInfo& info = dtype_info(part.dtype);
    if (part.rows <= 0 || part.cols <= 0 || part.data == nullptr) {
      return error(ErrorCode::kModelFormat, "tensor %s: expected a matrix, found %lld x %lld",
                   part.name.c_str(), static_cast<long long>(part.rows),
                   static_cast<long long>(part.cols));
    }
    if (part.cols % info.block_elements != 0) {
      return error(ErrorCode::kModelFormat,
                   "tensor %s: %s needs a multiple of %d columns, found %lld", part.name.c_str(),
                   info.name, info.block_elements, static_cast<long long>(part.cols));
    }
    if (part.cols != first.cols) {
      return error(ErrorCode::kModelFormat, "tensor %s: expected %lld columns as %s, found %lld",
                   part.name.c_str(), static_cast<long long>(first.cols), first.name.c_str(),
                   static_cast<long long>(part.cols));
    }
    // Keeps every byte count below within 64 bits (a group row takes at most 4.2 bytes a column).
    if (part.cols > int64_t{1} << 24 || part.rows > int64_t{1} << 31) {
      return error(ErrorCode::kModelFormat, "tensor %s: %lld x %lld is too large",
                   part.name.c_str(), static_cast<long long>(part.rows),
                   static_cast<long long>(part.cols));
    }
  }
  if (interleave &&
      (parts.size() != 2 || parts[1].rows != first.rows || parts[1].dtype != first.dtype)) {
    return error(ErrorCode::kModelFormat,
                 "tensor %s: interleaving needs two tensors of one type and shape",
                 first.name.c_str());
  }
  return {};
}

void add_strip(PackedMatrix& matrix, const PackedSegment& a, int64_t group_a,
               const PackedSegment& b, int64_t group_b) {
  Strip strip{};
  strip.dtype = a.dtype;
  const auto put = [&](int half, const PackedSegment& segment, int64_t group) {
    strip.groups[half] = segment.data + group * segment.group_stride;
    strip.first_row[half] = segment.first_row + group * kGroupRows;
    strip.num_rows[half] =
        static_cast<int32_t>(std::min<int64_t>(kGroupRows, segment.rows - group * kGroupRows));
  };
  put(0, a, group_a);
  if (group_b < b.groups) {
    put(1, b, group_b);
  } else {
    strip.groups[1] = strip.groups[0];  // readable; its results are dropped
    strip.first_row[1] = 0;
    strip.num_rows[1] = 0;
  }
  matrix.strips.push_back(strip);
}

}  // namespace

GroupLayout group_layout(DType dtype, int64_t cols) {
  const PackFormat& format = pack_format(dtype);
  GroupLayout layout;
  if (format.bits == 0) {
    layout.bytes = align64((cols + 1) / 2 * 2 * kGroupRows * dtype_info(dtype).block_bytes);
    return layout;
  }
  const int64_t blocks = cols / kBlockCols;
  const int64_t units = format.super_blocks ? cols / kChunkCols : blocks;
  layout.high = align64(blocks * format.low_block_bytes);
  layout.scales = layout.high + align64(blocks * format.high_block_bytes);
  layout.bytes = layout.scales + align64(units * format.scale_block_bytes);
  return layout;
}

void PackedMatrixDeleter::operator()(PackedMatrix* matrix) const { delete matrix; }

Result<PackedMatrixPtr> pack_matrix(std::span<const TensorView> parts, bool interleave,
                                    ThreadPool& pool) {
  LH_TRY(check_parts(parts, interleave));
  PackedMatrixPtr matrix(new PackedMatrix);
  matrix->cols = parts[0].cols;
  matrix->interleaved = interleave;

  int64_t bytes = 0, total_groups = 0;
  for (const TensorView& part : parts) {
    PackedSegment segment;
    segment.dtype = part.dtype;
    segment.rows = part.rows;
    segment.first_row = matrix->rows;
    segment.groups = (part.rows + kGroupRows - 1) / kGroupRows;
    segment.group_stride = group_layout(part.dtype, part.cols).bytes;
    matrix->rows += part.rows;
    (pack_format(part.dtype).bits == 0 ? matrix->any_float : matrix->any_quantized) = true;
    bytes += segment.groups * segment.group_stride;
    total_groups += segment.groups;
    matrix->segments.push_back(segment);
  }
  matrix->memory = PackedMemory::allocate(static_cast<size_t>(bytes));
  std::byte* data = matrix->memory.data();
  if (data == nullptr) {
    return error(ErrorCode::kOutOfMemory, "tensor %s: no memory for %lld bytes of weights",
                 parts[0].name.c_str(), static_cast<long long>(bytes));
  }
  for (PackedSegment& segment : matrix->segments) {
    segment.data = data;
    data += interleave ? segment.group_stride : segment.groups * segment.group_stride;
    if (interleave) segment.group_stride *= 2;
  }

  const std::vector<PackedSegment>& segments = matrix->segments;
  if (interleave) {
    for (int64_t g = 0; g < segments[0].groups; ++g) {
      add_strip(*matrix, segments[0], g, segments[1], g);
    }
  } else {
    for (const PackedSegment& segment : segments) {
      for (int64_t g = 0; g < segment.groups; g += 2) {
        add_strip(*matrix, segment, g, segment, g + 1);
      }
    }
  }

  pool.for_dynamic(total_groups, [&](int64_t index, int) {
    size_t p = 0;
    for (; index >= segments[p].groups; ++p) index -= segments[p].groups;
    const PackedSegment& segment = segments[p];
    const int64_t first = index * kGroupRows;
    pack_group(parts[p], first,
               static_cast<int>(std::min<int64_t>(kGroupRows, segment.rows - first)),
               segment.data + index * segment.group_stride);
  });
  return Result<PackedMatrixPtr>(std::move(matrix));
}

int64_t packed_rows(const PackedMatrix& matrix) { return matrix.rows; }
int64_t packed_cols(const PackedMatrix& matrix) { return matrix.cols; }
int64_t packed_bytes(const PackedMatrix& matrix) {
  return static_cast<int64_t>(matrix.memory.bytes());
}

namespace {

void gather_floats(DType dtype, const uint8_t* group, int lane, int64_t cols, float scale,
                   float* out) {
  for (int64_t k = 0; k < cols; ++k) {
    float value = 0;
    if (dtype == DType::kF32) {
      std::memcpy(&value, group + (k * kGroupRows + lane) * 4, 4);
    } else if (dtype == DType::kF16) {
      value = f16_to_f32(load16(group + (k * kGroupRows + lane) * 2));
    } else {
      value = bf16_to_f32(load16(group + (k / 2 * 32 + 2 * lane + k % 2) * 2));
    }
    out[k] = value * scale;
  }
}

void take_quants(const PackFormat& format, const uint8_t* low, const uint8_t* high, int lane,
                 uint8_t* q) {
  for (int s = 0; s < 8; ++s) {
    if (format.bits == 8) {
      std::memcpy(q + 4 * s, low + 64 * s + 4 * lane, 4);
      continue;
    }
    uint32_t word = load32(low + s / 2 * 64 + 4 * lane) >> (s % 2 * 4) & 0x0f0f0f0f;
    if (format.bits == 5) word |= (load32(high + 4 * lane) >> s & 0x01010101) << 4;
    if (format.bits == 6) {
      word |= (load32(high + s / 4 * 64 + 4 * lane) >> (s % 4 * 2) & 0x03030303) << 4;
    }
    store32(q + 4 * s, word);
  }
}

}  // namespace

void gather_row(const PackedMatrix& matrix, int64_t row, float scale, float* out) {
  size_t p = 0;
  while (row >= matrix.segments[p].first_row + matrix.segments[p].rows) ++p;
  const PackedSegment& segment = matrix.segments[p];
  const int64_t local = row - segment.first_row;
  const int lane = static_cast<int>(local % kGroupRows);
  const auto* group =
      reinterpret_cast<const uint8_t*>(segment.data + local / kGroupRows * segment.group_stride);
  const PackFormat& format = pack_format(segment.dtype);
  if (format.bits == 0) {
    return gather_floats(segment.dtype, group, lane, matrix.cols, scale, out);
  }
  const GroupLayout layout = group_layout(segment.dtype, matrix.cols);
  const uint8_t* scales = group + layout.scales;
  const int64_t blocks = matrix.cols / kBlockCols;
  for (int64_t b = 0; b < blocks; ++b) {
    uint8_t q[kBlockCols];
    take_quants(format, group + b * format.low_block_bytes,
                group + layout.high + b * format.high_block_bytes, lane, q);
    const int64_t unit = format.super_blocks ? b / kChunkBlocks : b;
    const int sub = static_cast<int>(b % kChunkBlocks);
    const uint8_t* s = scales + unit * format.scale_block_bytes;
    // Products of an f16 scale, a sub-scale and a quant fit in 24 bits; only the minimum rounds.
    float d[2] = {f16_to_f32(load16(s + 2 * lane)), 0};
    float m = 0;
    d[1] = d[0];
    if (format.mode == ScaleMode::kMin) m = f16_to_f32(load16(s + 32 + 2 * lane));
    if (format.mode == ScaleMode::kHalves) {
      d[0] *= static_cast<float>(static_cast<int8_t>(s[32 + 16 * (2 * sub) + lane]));
      d[1] *= static_cast<float>(static_cast<int8_t>(s[32 + 16 * (2 * sub + 1) + lane]));
    } else if (format.super_blocks) {
      d[0] *= static_cast<float>(s[64 + 16 * sub + lane]);
      d[1] = d[0];
      m *= -static_cast<float>(s[192 + 16 * sub + lane]);
    }
    for (int i = 0; i < kBlockCols; ++i) {
      const float value = static_cast<float>(q[i] - format.offset) * d[i / 16];
      out[b * kBlockCols + i] = (format.mode == ScaleMode::kMin ? value + m : value) * scale;
    }
  }
}

}  // namespace longhaul::cpu
