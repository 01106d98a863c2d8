#include "simt/fragments.h"

#include <cstring>

#include "simt/numbers.h"

namespace longhaul::simt {
namespace {

const MmaLane& lane_of(void* const* lanes, int lane) {
  return *static_cast<const MmaLane*>(lanes[lane]);
}

template <float (*Widen)(uint16_t)>
void mma_16816(void* const* lanes) {
  uint16_t a_bits[16][16], b_bits[16][8];   // a: row, k; b: k, column
  float c[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const MmaLane& operands = lane_of(lanes, lane);
    const int group = lane / 4, number = lane % 4;
    const float* const sums = static_cast<const float*>(operands.c);
    for (int i = 0; i < 2; ++i) {
      for (int half = 0; half < 2; ++half) {
        // a0: row group, k 2n, 2n+1; a1: row group + 8; a2, a3: the same 8 further in k.
        for (int r = 0; r < 4; ++r) {
          a_bits[group + 8 * (r & 1)][2 * number + half + 8 * (r >> 1)] =
              static_cast<uint16_t>(operands.a[r] >> (16 * half));
        }
        // b0: k 2n, 2n+1 of column group; b1: 8 further in k.
        b_bits[2 * number + half + 8 * i][group] =
            static_cast<uint16_t>(operands.b[i] >> (16 * half));
        // c0, c1: row group, columns 2n, 2n+1; c2, c3: row group + 8.
        c[group + 8 * i][2 * number + half] = sums[2 * i + half];
      }
    }
  }
  float a[16][16], b[16][8];
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) a[row][k] = Widen(a_bits[row][k]);
  }
  for (int k = 0; k < 16; ++k) {
    for (int column = 0; column < 8; ++column) b[k][column] = Widen(b_bits[k][column]);
  }
  for (int row = 0; row < 16; ++row) {
    float sums[8];
    std::memcpy(sums, c[row], sizeof(sums));
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) sums[column] += a[row][k] * b[k][column];
    }
    std::memcpy(c[row], sums, sizeof(sums));
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, number = lane % 4;
    float* const sums = static_cast<float*>(lane_of(lanes, lane).c);
    for (int i = 0; i < 4; ++i) sums[i] = c[group + 8 * (i / 2)][2 * number + i % 2];
  }
}

}  // namespace

void mma_16816_f16(void* const* lanes) { mma_16816<f16_to_f32>(lanes); }
void mma_16816_bf16(void* const* lanes) { mma_16816<bf16_to_f32>(lanes); }

void mma_16832_s8(void* const* lanes) {
  int8_t a[16][32];   // row, k
  int8_t b[8][32];    // column, k
  for (int lane = 0; lane < 32; ++lane) {
    const MmaLane& operands = lane_of(lanes, lane);
    const int group = lane / 4, number = lane % 4;
    // Register r holds k 4n .. 4n+3, lowest byte first; a1, a3: row + 8; a2, a3, b1: 16 further.
    for (int r = 0; r < 4; ++r) {
      std::memcpy(&a[group + 8 * (r & 1)][4 * number + 16 * (r >> 1)], &operands.a[r], 4);
    }
    for (int r = 0; r < 2; ++r) std::memcpy(&b[group][4 * number + 16 * r], &operands.b[r], 4);
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, number = lane % 4;
    int32_t* const sums = static_cast<int32_t*>(lane_of(lanes, lane).c);
    for (int i = 0; i < 4; ++i) {
      const int8_t* const row = a[group + 8 * (i / 2)];
      const int8_t* const column = b[2 * number + i % 2];
      // At most 32 * 2^14: no overflow before the addition, which wraps as the hardware's does.
      int32_t sum = 0;
      for (int k = 0; k < 32; ++k) sum += int32_t{row[k]} * int32_t{column[k]};
      sums[i] = static_cast<int32_t>(static_cast<uint32_t>(sums[i]) + static_cast<uint32_t>(sum));
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
      const uint32_t hi = transposed ? elements[2 * number + 1][group] : elements[group][2 * number + 1];
      static_cast<LoadMatrixLane*>(lanes[lane])->result[matrix] = lo | hi << 16;
    }
  }
}

}  // namespace longhaul::simt
