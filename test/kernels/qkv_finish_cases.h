// Shapes for qkv_finish.
#pragma once

#include <cstdint>

#include "cache_layer.h"

namespace lh_test {

using longhaul::device::CacheType;

struct QkvShape {
  int32_t head_dim;
  int32_t num_heads;
  int32_t num_kv_heads;
  int32_t half_dim;    // half the rotated channels
  bool interleaved;
  bool bias;
  bool norms;
  int32_t rows;
  int32_t block_size;
};
constexpr QkvShape kQkvShapes[] = {
    {64, 2, 1, 32, false, false, false, 0, 32},     // no work
    {16, 1, 1, 8, false, false, false, 1, 32},      // the smallest head
    {16, 3, 1, 8, true, true, true, 5, 32},
    {48, 4, 2, 24, true, false, true, 3, 32},       // rotated by 16 (Hadamard)
    {64, 9, 3, 32, false, false, false, 4, 32},     // SmolLM: two blocks a row, one not full
    {64, 14, 2, 32, false, true, false, 3, 64},     // Qwen 2: bias
    {80, 4, 4, 10, false, true, false, 4, 32},      // partial, half not a multiple of 4
    {80, 4, 2, 16, true, false, false, 3, 32},      // partial, adjacent pairs
    {96, 4, 4, 48, false, false, false, 3, 32},     // Phi 3
    {112, 2, 1, 5, true, false, false, 2, 32},      // half odd: a lane with one pair
    {112, 2, 2, 5, false, false, false, 2, 32},
    {128, 16, 1, 64, false, false, true, 3, 128},   // Qwen 3: norms; a group of 16
    {128, 8, 8, 64, true, false, false, 3, 32},     // GGUF order
    {128, 4, 2, 0, false, false, false, 2, 32},     // no rotation at all
    {192, 3, 1, 96, false, false, false, 2, 32},
    {256, 4, 1, 128, false, false, true, 4, 32},    // Gemma 3
    {256, 2, 2, 64, true, true, false, 2, 512},
    {320, 2, 1, 160, false, false, false, 2, 32},
    {512, 2, 1, 256, false, true, true, 3, 32},
    {512, 1, 1, 128, true, false, false, 2, 32},
};

constexpr CacheType kCacheTypes[] = {CacheType::kF16, CacheType::kBF16, CacheType::kQ8,
                                     CacheType::kFp8};

}  // namespace lh_test
