// Shapes and batches for the attention kernels, the same on the emulator and on a device.
#pragma once

#include <cstdint>
#include <vector>

#include "attention_params.h"

namespace lh_test {

using longhaul::device::CacheType;
using longhaul::device::InputForm;

constexpr CacheType kCacheTypes[] = {CacheType::kF16, CacheType::kBF16, CacheType::kQ8,
                                     CacheType::kFp8};
inline const char* cache_type_name(CacheType type) {
  constexpr const char* kNames[] = {"f16", "bf16", "q8", "fp8"};
  return kNames[static_cast<int>(type)];
}

struct AttentionShape {
  int32_t head_dim = 64;
  int32_t num_heads = 4;
  int32_t num_kv_heads = 1;
  int32_t block_size = 32;
  int32_t window = 0;
  float softcap = 0;
  InputForm out = InputForm::kF32;
};

// Rows first_position .. first_position + num_rows - 1 of a sequence whose earlier tokens are in the
// cache. The first `shared_blocks` blocks of its table are those of sequence `shared_with`.
struct BatchEntry {
  int32_t num_rows = 1;
  int32_t first_position = 0;
  int32_t shared_with = -1;
  int32_t shared_blocks = 0;
};
using Batch = std::vector<BatchEntry>;

struct AttentionCase {
  const char* name;
  AttentionShape shape;
  Batch batch;
};

// At most 16 packed rows a sequence.
inline std::vector<AttentionCase> decode_cases() {
  return {
      {"one token", {64, 1, 1, 32, 0, 0, InputForm::kF32}, {{1, 0}}},
      {"block borders", {64, 2, 2, 32, 0, 0, InputForm::kF32}, {{1, 30}, {1, 31}, {1, 32}, {1, 63}, {1, 64}}},
      {"uneven", {64, 4, 1, 32, 0, 0, InputForm::kF16}, {{1, 3}, {1, 300}, {1, 0}, {1, 97}}},
      {"group of 16", {64, 16, 1, 64, 0, 0, InputForm::kF32}, {{1, 150}}},
      {"group of 7", {64, 14, 2, 32, 0, 0, InputForm::kBF16}, {{1, 66}, {2, 130}}},
      {"rows in one tile", {64, 6, 2, 32, 0, 0, InputForm::kF32}, {{5, 0}, {5, 62}, {3, 100}}},
      {"no group", {80, 2, 2, 32, 0, 0, InputForm::kF32}, {{16, 40}, {1, 129}}},
      {"window", {64, 4, 2, 32, 50, 0, InputForm::kF32}, {{1, 20}, {1, 49}, {1, 50}, {3, 160}, {1, 333}}},
      {"window of one block", {96, 2, 1, 32, 32, 0, InputForm::kF32}, {{1, 95}, {1, 96}, {4, 126}}},
      {"window of one", {64, 2, 1, 32, 1, 0, InputForm::kF32}, {{1, 0}, {3, 64}}},
      {"softcap", {64, 4, 2, 32, 0, 5, InputForm::kF32}, {{1, 100}, {2, 40}}},
      {"softcap and window", {64, 4, 1, 64, 70, 20, InputForm::kF16}, {{1, 190}}},
      {"shared prefix", {64, 4, 2, 32, 0, 0, InputForm::kF32}, {{1, 140}, {1, 170, 0, 4}, {2, 128, 0, 4}}},
      {"large blocks", {64, 4, 1, 512, 0, 0, InputForm::kF32}, {{1, 511}, {1, 512}, {1, 40}}},
      {"no rows", {64, 4, 1, 32, 0, 0, InputForm::kF32}, {{0, 77}, {1, 33}, {0, 0}}},
  };
}

// Any number of rows: items of up to 128 (64) packed rows each.
inline std::vector<AttentionCase> prefill_cases() {
  return {
      {"whole prompt", {64, 1, 1, 32, 0, 0, InputForm::kF32}, {{70, 0}}},
      {"one block and one", {64, 2, 1, 32, 0, 0, InputForm::kF16}, {{33, 0}, {31, 0}, {32, 0}}},
      {"chunk from mid block", {64, 4, 1, 32, 0, 0, InputForm::kF32}, {{40, 45}, {20, 130}}},
      {"group of 3", {64, 9, 3, 32, 0, 0, InputForm::kBF16}, {{50, 17}}},
      {"group of 16", {64, 16, 1, 64, 0, 0, InputForm::kF32}, {{11, 90}}},
      {"few rows, long context", {64, 8, 1, 32, 0, 0, InputForm::kF32}, {{3, 400}}},
      {"window", {64, 4, 2, 32, 40, 0, InputForm::kF32}, {{60, 0}, {37, 150}}},
      {"window of one block", {64, 2, 1, 32, 32, 0, InputForm::kF32}, {{70, 96}}},
      {"window that begins at a tile's second key", {64, 2, 1, 32, 200, 0, InputForm::kF32}, {{20, 245}}},
      {"softcap", {64, 4, 2, 32, 0, 5, InputForm::kF32}, {{30, 50}}},
      {"window and softcap", {64, 2, 1, 64, 100, 30, InputForm::kF16}, {{80, 222}}},
      {"shared prefix", {64, 4, 2, 32, 0, 0, InputForm::kF32}, {{20, 96}, {25, 96, 0, 3}}},
      {"large blocks", {64, 2, 1, 512, 0, 0, InputForm::kF32}, {{40, 490}}},
      {"no rows", {64, 4, 1, 32, 0, 0, InputForm::kF32}, {{0, 40}, {24, 31}}},
  };
}

}  // namespace lh_test
