// TensorTable: a model's tensors as ranges of files or as random values, checked and made readable.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "dtype.h"
#include "model/weights.h"
#include "status.h"

namespace longhaul {

constexpr int32_t kRandomTensorFile = -1;

struct TensorSource {
  std::string name;            // canonical
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int32_t file = kRandomTensorFile;  // index into the files
  int64_t offset = 0;          // bytes from the start of the file
  uint64_t seed = 0;           // of random values
};

// Maps the files and checks each source: file index, type, shape, range inside the file, name used
// once. kModelFormat names the tensor, its offset, what was expected and what was found.
// norm_weight_offset is the model's (random norms must come out near 1).
//
// The set owns the files. Bytes are in memory only while a view of them is held: random values are
// made when a tensor is asked for, and a file's pages leave the process with the view.
Result<WeightSet> load_tensors(std::span<const std::string> files,
                                   std::span<const TensorSource> sources,
                                   float norm_weight_offset);

}  // namespace longhaul
