// Byte layout of a packed weight matrix: plain data only, so that files compiled for one
// instruction set may include it.
//
// Rows come in groups of 16; a group holds all columns of its rows in planes, one after another,
// each 64-byte aligned:
//
//   low    quants, per 32 columns ("block") 8 slices of 4 columns; a slice is 64 bytes, byte
//          4 * row + i = column 4 * slice + i (the operand order of VPDPBUSD and of AMX tiles).
//          8 bit: the slices as they are. 4, 5 and 6 bit: four 64-byte vectors, vector j holds
//          slice 2j in its low and slice 2j + 1 in its high nibbles.
//   high   5 bit: one vector a block, bit s = bit 4 of slice s.
//          6 bit: two vectors a block, vector i holds bits 4-5 of slice 4i + t at bits 2t, 2t + 1.
//   scales Q8_0 Q4_0 Q5_0  per block: f16 d[16]
//          Q4_1 Q5_1       per block: f16 d[16], f16 m[16]
//          Q4_K Q5_K       per 256:   f16 d[16], f16 dmin[16], u8 scale[8][16], u8 min[8][16]
//          Q6_K            per 256:   f16 d[16], s8 scale[16][16]
//
// Quants are stored without sign: value = quant - offset (8, 16, 32 or 128), so that one unsigned
// by signed product serves every type. Float types have one plane, columns padded to an even
// number with zeros: F32 and F16 [cols][16], BF16 [cols / 2][16][2].
#pragma once

#include <cstddef>
#include <cstdint>

#include "dtype.h"

namespace longhaul::cpu {

constexpr int kGroupRows = 16;
constexpr int kBlockCols = 32;
constexpr int kChunkCols = 256;  // unit of expansion; the super-block of the K types
constexpr int kChunkBlocks = kChunkCols / kBlockCols;
constexpr int kStripRows = 2 * kGroupRows;

// How the float arithmetic of a block goes.
enum class ScaleMode : int {
  kPlain,   // one scale per 32 columns
  kMin,     // one scale and one minimum per 32 columns
  kHalves,  // one scale per 16 columns
};

struct PackFormat {
  int bits;    // 4, 5, 6, 8; 0 for float types
  int offset;  // value = quant - offset
  ScaleMode mode;
  bool super_blocks;    // sub-scales under one f16 per 256 columns
  int low_block_bytes;  // bytes of the low plane per block
  int high_block_bytes;
  int scale_block_bytes;  // bytes of the scale plane per block, or per 256 with super_blocks
};

// Where a group's planes are; the same for all groups of one dtype and width.
struct GroupLayout {
  int64_t high = 0;  // byte offset from the group's start
  int64_t scales = 0;
  int64_t bytes = 0;  // whole group, a multiple of 64
};

// Two groups that are computed together: neighbors, or a gate group and its up group. The last
// strip of a part may hold one group.
struct Strip {
  const std::byte* groups[2];
  int64_t first_row[2];  // row in stacked numbering = column of the result
  int32_t num_rows[2];   // rows that exist, 1 .. 16; 0 = no second group
  DType dtype;
};

constexpr PackFormat kPackFormats[kNumDTypes] = {
    /* F32  */ {0, 0, ScaleMode::kPlain, false, 0, 0, 0},
    /* F16  */ {0, 0, ScaleMode::kPlain, false, 0, 0, 0},
    /* BF16 */ {0, 0, ScaleMode::kPlain, false, 0, 0, 0},
    /* Q8_0 */ {8, 128, ScaleMode::kPlain, false, 512, 0, 32},
    /* Q4_0 */ {4, 8, ScaleMode::kPlain, false, 256, 0, 32},
    /* Q4_1 */ {4, 0, ScaleMode::kMin, false, 256, 0, 64},
    /* Q5_0 */ {5, 16, ScaleMode::kPlain, false, 256, 64, 32},
    /* Q5_1 */ {5, 0, ScaleMode::kMin, false, 256, 64, 64},
    /* Q4_K */ {4, 0, ScaleMode::kMin, true, 256, 0, 320},
    /* Q5_K */ {5, 0, ScaleMode::kMin, true, 256, 64, 320},
    /* Q6_K */ {6, 32, ScaleMode::kHalves, true, 256, 128, 288},
};

constexpr const PackFormat& pack_format(DType dtype) {
  return kPackFormats[static_cast<int>(dtype)];
}

}  // namespace longhaul::cpu
