// Byte orders are those of kernels/weight_layout.h: rows g and g + 8 of a tile, words j = 2 h + row
// half, lane 4 g + t.
#include "backend/cuda/pack_device_matrix.h"

#include <cstring>

#include "quant_block.h"

namespace longhaul::cuda {
namespace {

using device::kStepCols;
using device::kTileRows;
using device::WeightFormat;
using device::WeightFormatInfo;

// One row of a tile: g and the row half.
struct TileRow {
  int g;
  int half;
};

// Row `row` of the piece's stacked parts.
const uint8_t* source_row(std::span<const TensorView> parts, const DevicePiece& piece, int64_t row,
                          DType* dtype) {
  size_t p = static_cast<size_t>(piece.first_part);
  for (; row >= parts[p].rows; ++p) row -= parts[p].rows;
  *dtype = parts[p].dtype;
  return reinterpret_cast<const uint8_t*>(parts[p].data) + row * row_bytes(*dtype, piece.cols);
}

uint16_t bf16_of(uint32_t bits) {
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);  // quiet
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void pack_dense_row(const uint8_t* in, DType dtype, int32_t cols, uint8_t* out) {
  if (dtype != DType::kF32) {
    std::memcpy(out, in, static_cast<size_t>(cols) * 2);
    return;
  }
  for (int32_t i = 0; i < cols; ++i) store16(out + 2 * i, bf16_of(load32(in + 4 * i)));
}

// Two's complement of the format's width where it is symmetric; the unsigned quant elsewhere.
// (Q8_0's unsigned form is value + 128.)
uint32_t sign_flip(WeightFormat format) {
  switch (format) {
    case WeightFormat::kQ8_0:
      return 0x80808080;
    case WeightFormat::kQ4_0:
      return 0x08080808;
    case WeightFormat::kQ5_0:
      return 0x10101010;
    case WeightFormat::kQ6_K:
      return 0x20202020;
    default:
      return 0;
  }
}

// Quants of one row, 64 columns of one step.
void put_quants(const WeightFormatInfo& info, const uint8_t* q, uint32_t flip, TileRow row,
                uint8_t* record) {
  for (int t = 0; t < 4; ++t) {
    const int lane = 4 * row.g + t;
    uint32_t high[2] = {0, 0};
    for (int h = 0; h < 2; ++h) {
      const int j = 2 * h + row.half;
      const uint32_t first = load32(q + 16 * h + 4 * t) ^ flip;
      const uint32_t second = load32(q + 32 + 16 * h + 4 * t) ^ flip;
      if (info.bits == 8) {
        store32(record + 16 * lane + 4 * j, first);
        store32(record + 512 + 16 * lane + 4 * j, second);
        continue;
      }
      store32(record + 16 * lane + 4 * j, (first & 0x0f0f0f0f) | (second & 0x0f0f0f0f) << 4);
      if (info.bits == 5) {
        high[0] |= (first >> 4 & 0x01010101) << j | (second >> 4 & 0x01010101) << (4 + j);
      } else if (info.bits == 6) {
        high[0] |= (first >> 4 & 0x03030303) << (2 * j);
        high[1] |= (second >> 4 & 0x03030303) << (2 * j);
      }
    }
    // The other row half's bits are in the same words.
    uint8_t* out = record + info.low_bytes + lane * (info.high_bytes / 32);
    if (info.bits == 5) store32(out, load32(out) | high[0]);
    if (info.bits == 6) {
      store32(out, load32(out) | high[0]);
      store32(out + 4, load32(out + 4) | high[1]);
    }
  }
}

// Scales of block `block` (0, 1) of a step; `sub` is the block's number within the stored one.
void put_scales(const WeightFormatInfo& info, const BlockParts& parts, int block, int sub,
                TileRow row, uint8_t* scales) {
  uint8_t* out = scales + row.g * (info.scale_bytes / 8);
  const int at = 2 * row.half + block;
  if (info.super_bytes == 0) {
    store16(out + 2 * at, parts.d);
    if (info.has_min) store16(out + 8 + 2 * at, parts.m);
  } else if (info.halves) {
    out[2 * at] = parts.scales[2 * sub];
    out[2 * at + 1] = parts.scales[2 * sub + 1];
  } else {
    out[at] = parts.scales[sub];
    out[4 + at] = parts.mins[sub];
  }
}

// A row of a K type: its quants come 256 columns at a time.
void pack_tile_row(DType dtype, WeightFormat format, const uint8_t* in, int32_t cols, TileRow row,
                   uint8_t* tile) {
  const WeightFormatInfo& info = device::weight_format_info(format);
  const DTypeInfo& stored = dtype_info(dtype);
  const int record_bytes = device::record_bytes(format);
  const int32_t steps = device::num_steps(cols);
  const uint32_t flip = sign_flip(format);
  uint8_t* supers = tile + int64_t{steps} * record_bytes;
  BlockParts parts;
  for (int32_t step = 0; step < steps; ++step) {
    uint8_t* record = tile + int64_t{step} * record_bytes;
    uint8_t* scales = record + info.low_bytes + info.high_bytes;
    if (info.super_bytes > 0) {
      const int32_t super = step / device::kSuperSteps;
      const int in_super = step % device::kSuperSteps;
      if (in_super == 0) {
        split_block(dtype, in + int64_t{super} * stored.block_bytes, parts);
        uint8_t* out = supers + int64_t{super} * info.super_bytes + row.g * (info.super_bytes / 8);
        if (info.has_min) {
          store16(out + 4 * row.half, parts.d);
          store16(out + 4 * row.half + 2, parts.m);
        } else {
          store16(out + 2 * row.half, parts.d);
        }
      }
      put_quants(info, parts.quants + kStepCols * in_super, flip, row, record);
      for (int b = 0; b < 2; ++b) put_scales(info, parts, b, 2 * in_super + b, row, scales);
      continue;
    }
    uint8_t quants[kStepCols];
    for (int b = 0; b < 2; ++b) {
      const int32_t block = 2 * step + b;
      if (block * device::kBlockCols < cols) {
        split_block(dtype, in + int64_t{block} * stored.block_bytes, parts);
        std::memcpy(quants + 32 * b, parts.quants, 32);
        put_scales(info, parts, b, 0, row, scales);
      } else {
        // Padding: scales stay zero, quants are zero after the flip.
        std::memset(quants + 32 * b, static_cast<int>(flip & 255), 32);
      }
    }
    put_quants(info, quants, flip, row, record);
  }
}

}  // namespace

void pack_device_units(std::span<const TensorView> parts, const DevicePiece& piece, int64_t first,
                       int64_t end, std::byte* out) {
  auto* bytes = reinterpret_cast<uint8_t*>(out);
  DType dtype;
  if (device::is_dense(piece.format)) {
    for (int64_t row = first; row < end; ++row, bytes += piece.unit_bytes) {
      const uint8_t* in = source_row(parts, piece, row, &dtype);
      pack_dense_row(in, dtype, piece.cols, bytes);
    }
    return;
  }
  std::memset(bytes, 0, static_cast<size_t>((end - first) * piece.unit_bytes));
  const int64_t half_rows = piece.rows / 2;
  for (int64_t tile = first; tile < end; ++tile, bytes += piece.unit_bytes) {
    for (int r = 0; r < kTileRows; ++r) {
      const TileRow where{r % 8, r / 8};
      int64_t row = tile * kTileRows + r;
      bool exists = row < piece.rows;
      if (piece.paired) {
        row = tile * 8 + where.g;
        exists = row < half_rows;
        row += where.half * half_rows;
      }
      if (!exists) continue;
      const uint8_t* in = source_row(parts, piece, row, &dtype);
      pack_tile_row(dtype, piece.format, in, piece.cols, where, bytes);
    }
  }
}

}  // namespace longhaul::cuda
