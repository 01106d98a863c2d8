// Matrix fragments of one warp, with the lane layouts of the PTX ISA: ldmatrix (9.7.14.5.15), mma
// m16n8k16 for f16 and bf16 (9.7.14.5.8) and m16n8k32 for signed bytes (9.7.14.5.10). Lane l is in
// group l / 4 with number l % 4 in it.
//
// The order in which hardware sums the products of one mma is not specified; here it is ascending
// k, each product exact and each sum rounded to f32.
#pragma once

#include <cstddef>
#include <cstdint>

namespace longhaul::simt {

// One lane's operands.
struct LoadMatrixLane {
  const std::byte* row = nullptr;  // address this lane gives: row l % 8 of matrix l / 8
  uint32_t result[4] = {};
};
struct MmaLane {
  const uint32_t* a = nullptr;  // 4 registers
  const uint32_t* b = nullptr;  // 2 registers
  void* c = nullptr;            // 4 f32 or int32, updated
};

// `lanes` are 32 pointers to the structs above.
void load_matrix(void* const* lanes, int num_matrices, bool transposed);
void mma_16816_f16(void* const* lanes);
void mma_16816_bf16(void* const* lanes);
void mma_16832_s8(void* const* lanes);

}  // namespace longhaul::simt
