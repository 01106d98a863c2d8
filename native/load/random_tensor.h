// Random weights for synthetic models: any shape can be run and timed without a download.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "dtype.h"
#include "status.h"

namespace longhaul {

// What the values should look like.
enum class RandomKind {
  kMatrix,  // about N(0, 1 / cols): activations keep their size through a projection
  kNorm,    // uniform in [0.9, 1.1] + norm_offset
  kBias,    // about N(0, 0.02^2)
};

// Chosen from the last part of a canonical name: "..norm" and "..bias"; a matrix otherwise.
RandomKind random_kind_of(const char* name);

struct RandomTensor {
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;           // a multiple of the type's block
  uint64_t seed = 0;
  RandomKind kind = RandomKind::kMatrix;
  float norm_offset = 0;      // kNorm: minus ModelConfig::norm_weight_offset
};

// Bytes as a file would hold them: rows * row_bytes(dtype, cols). The same request gives the same
// bytes on every machine. kModelFormat for sizes the type cannot hold, kOutOfMemory otherwise.
Result<std::unique_ptr<std::byte[]>> make_random_tensor(const RandomTensor& request);

}  // namespace longhaul
