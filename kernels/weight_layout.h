// How weight matrices lie in device memory; plain data and arithmetic, for host and device code.
//
// Dense formats (f16, bf16): plain row-major [rows, cols], so that cuBLASLt reads them too.
//
// Quantized formats: tiles of 16 rows, a tile's K in steps of 64 columns (two blocks of 32, the
// last one padded with zero weights where cols is an odd multiple of 32). A step of a tile is one
// contiguous record in the order in which a warp multiplies it with mma.m16n8k32 (PTX ISA
// 9.7.14.5.11): lane l = 4 g + t owns rows g and g + 8 and, of each block of 32, columns
// 16 h + 4 t + i (h = 0, 1; i = 0 .. 3). So every lane's share is a vector load, a weight is read
// by one lane of one warp, and no shared memory is needed between memory and the tensor core.
//
//   record = low | high | scales
//   low     8 bit: per block b, lane: 4 words j, byte i = the weight of row g + 8 (j % 2), column
//           16 (j / 2) + 4 t + i. [2][32][16] bytes.
//           4, 5, 6 bit: per lane 4 words j like those; low nibbles are the low four bits of block
//           0's weights, high nibbles of block 1's. [32][16] bytes.
//   high    5 bit: per lane a word, bit 8 i + 4 b + j = bit 4 of byte i, word j, block b. [32][4].
//           6 bit: per lane two words b, bits 8 i + 2 j + {0, 1} = bits 4, 5. [32][8].
//   scales  per g:
//           Q8_0 Q4_0 Q5_0  f16 d[row half][block]                                       8 bytes
//           Q4_1 Q5_1       f16 d[row half][block], f16 m[row half][block]              16 bytes
//           Q4_K Q5_K       u8 scale[row half][block], u8 min[row half][block]           8 bytes
//           Q6_K            s8 scale[row half][block][h]                                 8 bytes
//
//   tile = records of all steps, then for the K types per 256 columns and g:
//           Q4_K Q5_K       f16 d, dmin of row g, f16 d, dmin of row g + 8               8 bytes
//           Q6_K            f16 d of row g, f16 d of row g + 8                           4 bytes
//
// Symmetric types are stored in two's complement of their width (Q4_0: q - 8, Q5_0: q - 16, Q6_K:
// q - 32), the others as the unsigned quant. Bits a weight: as in the file, Q4_K and Q5_K 2.8 and
// 2.3 % more (their 6-bit scales become bytes).
//
// Paired matrices (a gate and an up projection of equal shape): rows [0, rows / 2) are the gate's,
// the rest the up's. A quantized tile then holds 8 gate rows and the 8 up rows of the same index
// as its lower half, so that the lane that has a gate element has its up element too. Dense ones
// stay stacked; kernels read 8 rows of each.
#pragma once

#include <cstdint>

namespace longhaul::device {

enum class WeightFormat : int32_t {
  kF16, kBF16, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ4_K, kQ5_K, kQ6_K
};
constexpr int kNumWeightFormats = 10;

constexpr int kTileRows = 16;
constexpr int kStepCols = 64;
constexpr int kBlockCols = 32;
constexpr int kSuperCols = 256;                       // what the K types' f16 scales cover
constexpr int kSuperSteps = kSuperCols / kStepCols;

// What a format's arithmetic needs; bytes are those of one tile.
struct WeightFormatInfo {
  const char* name;
  int bits;           // 16 = dense
  bool has_min;       // weight = scale * quant + min
  bool halves;        // a scale for each 16 columns (Q6_K)
  int low_bytes;      // of a record
  int high_bytes;
  int scale_bytes;
  int super_bytes;    // per 256 columns; 0 = not a K type
};

constexpr WeightFormatInfo kWeightFormats[kNumWeightFormats] = {
    {"F16", 16, false, false, 0, 0, 0, 0},
    {"BF16", 16, false, false, 0, 0, 0, 0},
    {"Q8_0", 8, false, false, 1024, 0, 64, 0},
    {"Q4_0", 4, false, false, 512, 0, 64, 0},
    {"Q4_1", 4, true, false, 512, 0, 128, 0},
    {"Q5_0", 5, false, false, 512, 128, 64, 0},
    {"Q5_1", 5, true, false, 512, 128, 128, 0},
    {"Q4_K", 4, true, false, 512, 0, 64, 64},
    {"Q5_K", 5, true, false, 512, 128, 64, 64},
    {"Q6_K", 6, false, true, 512, 256, 64, 32},
};

inline const WeightFormatInfo& weight_format_info(WeightFormat format) {
  return kWeightFormats[static_cast<int>(format)];
}
inline bool is_dense(WeightFormat format) { return weight_format_info(format).bits == 16; }
// cols must be a multiple of this.
inline int32_t col_multiple(WeightFormat format) {
  return weight_format_info(format).super_bytes > 0 ? kSuperCols : kBlockCols;
}
inline int32_t record_bytes(WeightFormat format) {
  const WeightFormatInfo& info = weight_format_info(format);
  return info.low_bytes + info.high_bytes + info.scale_bytes;
}

// A matrix (or one piece of one) in device memory. cols is a multiple of 32, of the K types 256.
struct WeightMatrix {
  const void* data = nullptr;  // 16-byte aligned; of the layout above
  WeightFormat format = WeightFormat::kBF16;
  int32_t rows = 0;            // = columns of the product; of a paired matrix both halves together
  int32_t cols = 0;
  bool paired = false;
};

inline int32_t num_steps(int32_t cols) { return (cols + kStepCols - 1) / kStepCols; }

// Tiles of 16 weight rows; of a paired matrix 8 rows and their 8 partners.
inline int32_t num_tiles(const WeightMatrix& w) {
  const int32_t rows = w.paired ? w.rows / 2 : w.rows;
  const int32_t tile = w.paired ? kTileRows / 2 : kTileRows;
  return (rows + tile - 1) / tile;
}

// Bytes of one tile of a quantized format: a multiple of 16, tiles lie one after another.
inline int64_t tile_bytes(WeightFormat format, int32_t cols) {
  const WeightFormatInfo& info = weight_format_info(format);
  return int64_t{num_steps(cols)} * record_bytes(format) +
         int64_t{cols} / kSuperCols * info.super_bytes;
}

}  // namespace longhaul::device
