// Stored blocks of the quantized types (docs/formats.md) taken apart into unsigned quants and scales,
// for the packers of the backends. (static: files of several instruction sets may include it.)
#pragma once

#include <cstdint>
#include <cstring>

#include "dtype.h"

namespace longhaul {

static inline uint32_t load32(const uint8_t* p) {
  uint32_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}
static inline uint16_t load16(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}
static inline void store32(uint8_t* p, uint32_t value) { std::memcpy(p, &value, sizeof(value)); }
static inline void store16(uint8_t* p, uint16_t value) { std::memcpy(p, &value, sizeof(value)); }

// One stored block (32 or 256 columns) taken apart.
struct BlockParts {
  uint8_t quants[256];  // 0 .. 2^bits - 1; Q8_0: value + 128
  uint16_t d = 0;       // f16
  uint16_t m = 0;       // f16: Q4_1's and Q5_1's m, the K types' dmin
  uint8_t scales[16];   // K types; Q6_K's are signed
  uint8_t mins[8];
};

static inline void split_nibbles(const uint8_t* in, int count, uint8_t* low, uint8_t* high) {
  for (int i = 0; i < count; ++i) {
    low[i] = in[i] & 15;
    high[i] = in[i] >> 4;
  }
}

// Bit i of `bits` becomes bit 4 of quant i. The product spreads four bits to four bytes.
static inline void add_fifth_bits(uint32_t bits, uint8_t* quants) {
  for (int s = 0; s < 8; ++s, quants += 4, bits >>= 4) {
    const uint32_t spread = (bits & 15) * 0x00204081u & 0x01010101u;
    store32(quants, load32(quants) | spread << 4);
  }
}

// Q4_K's and Q5_K's 12 bytes: eight 6-bit scales and eight 6-bit minimums.
static inline void split_scales(const uint8_t* in, BlockParts& out) {
  for (int j = 0; j < 4; ++j) {
    out.scales[j] = in[j] & 63;
    out.mins[j] = in[j + 4] & 63;
    out.scales[j + 4] = static_cast<uint8_t>((in[j + 8] & 15) | in[j] >> 6 << 4);
    out.mins[j + 4] = static_cast<uint8_t>(in[j + 8] >> 4 | in[j + 4] >> 6 << 4);
  }
}

static inline void split_block(DType dtype, const uint8_t* in, BlockParts& out) {
  uint8_t* quants = out.quants;
  switch (dtype) {
    case DType::kQ4_0:
      out.d = load16(in);
      split_nibbles(in + 2, 16, quants, quants + 16);
      break;
    case DType::kQ4_1:
      out.d = load16(in);
      out.m = load16(in + 2);
      split_nibbles(in + 4, 16, quants, quants + 16);
      break;
    case DType::kQ5_0:
      out.d = load16(in);
      split_nibbles(in + 6, 16, quants, quants + 16);
      add_fifth_bits(load32(in + 2), quants);
      break;
    case DType::kQ5_1:
      out.d = load16(in);
      out.m = load16(in + 2);
      split_nibbles(in + 8, 16, quants, quants + 16);
      add_fifth_bits(load32(in + 4), quants);
      break;
    case DType::kQ8_0:
      out.d = load16(in);
      for (int i = 0; i < 32; ++i) quants[i] = in[2 + i] ^ 0x80;  // + 128
      break;
    case DType::kQ4_K:
      out.d = load16(in);
      out.m = load16(in + 2);
      split_scales(in + 4, out);
      for (int j = 0; j < 4; ++j) {
        split_nibbles(in + 16 + 32 * j, 32, quants + 64 * j, quants + 64 * j + 32);
      }
      break;
    case DType::kQ5_K:
      out.d = load16(in);
      out.m = load16(in + 2);
      split_scales(in + 4, out);
      for (int j = 0; j < 4; ++j) {
        split_nibbles(in + 48 + 32 * j, 32, quants + 64 * j, quants + 64 * j + 32);
      }
      for (int i = 0; i < 32; ++i) {
        for (int b = 0; b < 8; ++b) {
          uint8_t& q = quants[32 * b + i];
          q = static_cast<uint8_t>(q | (in[16 + i] >> b & 1) << 4);
        }
      }
      break;
    case DType::kQ6_K:
      out.d = load16(in + 208);
      std::memcpy(out.scales, in + 192, 16);
      for (int half = 0; half < 2; ++half) {
        const uint8_t* low = in + 64 * half;
        const uint8_t* high = in + 128 + 32 * half;
        uint8_t* q = quants + 128 * half;
        for (int i = 0; i < 32; ++i) {
          q[i] = static_cast<uint8_t>((low[i] & 15) | (high[i] & 3) << 4);
          q[i + 32] = static_cast<uint8_t>((low[i + 32] & 15) | (high[i] & 12) << 2);
          q[i + 64] = static_cast<uint8_t>(low[i] >> 4 | (high[i] & 48));
          q[i + 96] = static_cast<uint8_t>(low[i + 32] >> 4 | (high[i] & 192) >> 2);
        }
      }
      break;
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      break;
  }
}

}  // namespace longhaul
