// Shapes for the matrix products and what feeds them. Every format runs every case: `cols` is for
// formats of blocks of 32 (and dense ones), `super_cols` for the K types.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "matmul.h"

namespace lh_test {

using longhaul::DType;
using longhaul::device::Epilogue;

constexpr DType kQuantTypes[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0,
                                 DType::kQ5_1, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};
constexpr DType kDenseTypes[] = {DType::kF16, DType::kBF16, DType::kF32};

struct MatmulCase {
  int32_t rows;
  int32_t out;  // weight rows; paired: of each half
  int32_t cols;
  int32_t super_cols;
  bool paired;
  Epilogue epilogue;
  int32_t spare;  // columns of y past its last, and steps of x past its last
};

constexpr MatmulCase kGemvCases[] = {
    {0, 16, 64, 256, false, Epilogue::kStore, 0},     // no work
    {1, 1, 32, 256, false, Epilogue::kStore, 0},      // one row, half a step
    {1, 33, 96, 512, false, Epilogue::kAdd, 3},       // a tile with one row; a step and a half
    {1, 24, 2592, 2304, false, Epilogue::kStore, 1},  // rings of loads turn over
    {2, 5, 2592, 2304, false, Epilogue::kSoftcap, 0},
    {2, 17, 544, 768, false, Epilogue::kStore, 0},  // nine steps for eight warps
    {3, 16, 64, 256, true, Epilogue::kStore, 1},    // a pair, ungated: stacked results
    {7, 20, 288, 256, false, Epilogue::kAdd, 0},
    {8, 33, 1056, 512, false, Epilogue::kStore, 2},
    {8, 12, 256, 256, true, Epilogue::kSiluMul, 1},  // half a tile
    {1, 9, 96, 512, true, Epilogue::kGeluMul, 0},
};

// 16, 32 and 64 tokens a block; more than one block of tokens and of rows; K of less than a stage
// (256 columns), of whole ones, of a part at the end; K split between blocks (from 1024 on).
constexpr MatmulCase kQuantCases[] = {
    {0, 16, 64, 256, false, Epilogue::kStore, 0},
    {1, 1, 32, 256, false, Epilogue::kStore, 0},
    {9, 33, 96, 512, false, Epilogue::kAdd, 3},
    {16, 70, 288, 256, false, Epilogue::kStore, 0},
    {17, 20, 256, 512, false, Epilogue::kSoftcap, 1},
    {32, 36, 320, 256, true, Epilogue::kSiluMul, 1},
    {33, 17, 544, 512, false, Epilogue::kStore, 2},
    {64, 65, 64, 256, false, Epilogue::kStore, 0},
    {65, 8, 96, 256, true, Epilogue::kGeluMul, 0},
    {9, 65, 1056, 1280, false, Epilogue::kAdd, 1},
    {17, 9, 1568, 1536, true, Epilogue::kSiluMul, 0},
    {40, 33, 1024, 1024, false, Epilogue::kStore, 0},
};

}  // namespace lh_test
