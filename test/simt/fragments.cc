#include "simt/fragments.h"

#include <cstring>

#include "simt/numbers.h"

namespace longhaul::simt {
namespace {

// Four lanes of the host's vector unit: mma is most of the emulator's arithmetic.
typedef uint32_t Bits4 __attribute__((vector_size(16)));
typedef float Float4 __attribute__((vector_size(16)));

const MmaLane& lane_of(void* const* lanes, int lane) {
  return *static_cast<const MmaLane*>(lanes[lane]);
}

struct WidenF16 {  // f16_to_f32 of numbers.h, four at a time
  static Float4 widen(Bits4 half) {
    const Bits4 magnitude = (half & 0x7fffu) << 13;
    const Bits4 scaled = (Bits4)((Float4)magnitude * std::bit_cast<float>(0x77800000u));
    const Bits4 special = (Bits4)(magnitude >= 0x0f800000u);
    return (Float4)((special & (magnitude | 0x7f800000u)) | (~special & scaled) |
                    (half & 0x8000u) << 16);
  }
  static Float4 low(Bits4 pairs) { return widen(pairs & 0xffffu); }
  static Float4 high(Bits4 pairs) { return widen(pairs >> 16); }
};
struct WidenBf16 {
  static Float4 low(Bits4 pairs) { return (Float4)(pairs << 16); }
  static Float4 high(Bits4 pairs) { return (Float4)(pairs & 0xffff0000u); }
};

// Eight registers, two numbers each, to f32: those of even k and those of odd k.
template <typename Widen>
void widen_pairs(const uint32_t (&pairs)[8], float (&even)[8], float (&odd)[8]) {
  for (int i = 0; i < 8; i += 4) {
    Bits4 bits;
    std::memcpy(&bits, pairs + i, sizeof(bits));
    const Float4 low = Widen::low(bits), high = Widen::high(bits);
    std::memcpy(even + i, &low, sizeof(low));
    std::memcpy(odd + i, &high, sizeof(high));
  }
}

template <typename Widen>
void mma_16816(void* const* lanes) {
  uint32_t a_pairs[16][8];  // row, pair of k
  uint32_t b_pairs[8][8];   // pair of k, column
  alignas(16) float c[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const MmaLane& operands = lane_of(lanes, lane);
    const int group = lane / 4, number = lane % 4;
    const float* const sums = static_cast<const float*>(operands.c);
    // a0: row group, k 2n and 2n+1; a1: row group + 8; a2, a3: the same 8 further in k.
    for (int r = 0; r < 4; ++r) a_pairs[group + 8 * (r & 1)][number + 4 * (r >> 1)] = operands.a[r];
    // b0: k 2n and 2n+1 of column group; b1: 8 further in k.
    for (int r = 0; r < 2; ++r) b_pairs[number + 4 * r][group] = operands.b[r];
    // c0, c1: row group, columns 2n, 2n+1; c2, c3: row group + 8.
    for (int i = 0; i < 4; ++i) c[group + 8 * (i / 2)][2 * number + i % 2] = sums[i];
  }
  alignas(16) float b_even[8][8], b_odd[8][8];
  for (int k = 0; k < 8; ++k) widen_pairs<Widen>(b_pairs[k], b_even[k], b_odd[k]);
  for (int row = 0; row < 16; ++row) {
    float a_even[8], a_odd[8];
    widen_pairs<Widen>(a_pairs[row], a_even, a_odd);
    for (int column = 0; column < 8; column += 4) {
      Float4 sums;
      std::memcpy(&sums, &c[row][column], sizeof(sums));
      for (int k = 0; k < 8; ++k) {
        Float4 even, odd;
        std::memcpy(&even, &b_even[k][column], sizeof(even));
        std::memcpy(&odd, &b_odd[k][column], sizeof(odd));
        sums += a_even[k] * even;
        sums += a_odd[k] * odd;
      }
      std::memcpy(&c[row][column], &sums, sizeof(sums));
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, number = lane % 4;
    float* const sums = static_cast<float*>(lane_of(lanes, lane).c);
    for (int i = 0; i < 4; ++i) sums[i] = c[group + 8 * (i / 2)][2 * number + i % 2];
  }
}

}  // namespace

void mma_16816_f16(void* const* lanes) { mma_16816<WidenF16>(lanes); }
void mma_16816_bf16(void* const* lanes) { mma_16816<WidenBf16>(lanes); }

void mma_16832_s8(void* const* lanes) {
  typedef int32_t Int4 __attribute__((vector_size(16)));
  int8_t a[16][32];              // row, k
  alignas(16) int32_t b[32][8];  // k, column
  for (int lane = 0; lane < 32; ++lane) {
    const MmaLane& operands = lane_of(lanes, lane);
    const int group = lane / 4, number = lane % 4;
    // Register r holds k 4n .. 4n+3, lowest byte first; a1, a3: row + 8; a2, a3, b1: 16 further.
    for (int r = 0; r < 4; ++r) {
      std::memcpy(&a[group + 8 * (r & 1)][4 * number + 16 * (r >> 1)], &operands.a[r], 4);
    }
    for (int r = 0; r < 2; ++r) {
      int8_t four[4];
      std::memcpy(four, &operands.b[r], 4);
      for (int i = 0; i < 4; ++i) b[4 * number + 16 * r + i][group] = four[i];
    }
  }
  // At most 32 * 2^14: no overflow before the addition to c, which wraps as the hardware's does.
  alignas(16) int32_t products[16][8];
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; column += 4) {
      Int4 sums = {};
      for (int k = 0; k < 32; ++k) {
        Int4 factors;
        std::memcpy(&factors, &b[k][column], sizeof(factors));
        sums += int32_t{a[row][k]} * factors;
      }
      std::memcpy(&products[row][column], &sums, sizeof(sums));
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, number = lane % 4;
    uint32_t* const sums = static_cast<uint32_t*>(lane_of(lanes, lane).c);
    for (int i = 0; i < 4; ++i) {
      sums[i] += static_cast<uint32_t>(products[group + 8 * (i / 2)][2 * number + i % 2]);
    }
  }
}

void load_matrix(void* const* lanes, int num_matrices, bool transposed) {
  for (int matrix = 0; matrix < num_matrices; ++matrix) {
    uint16_t elements[8][8];
    for (int row = 0; row < 8; ++row) {
      const auto* const giver = static_cast<const LoadMatrixLane*>(lanes[8 * matrix + row]);
      std::memcpy(elements[row], giver->row, 16);
    }
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane / 4, number = lane % 4;
      const uint32_t lo = transposed ? elements[2 * number][group] : elements[group][2 * number];
      const uint32_t hi =
          transposed ? elements[2 * number + 1][group] : elements[group][2 * number + 1];
      static_cast<LoadMatrixLane*>(lanes[lane])->result[matrix] = lo | hi << 16;
    }
  }
}

}  // namespace longhaul::simt
