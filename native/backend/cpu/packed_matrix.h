// PackedMatrix: the one resident copy of a weight matrix. Parts (for example q, k and v) keep
// their own dtypes; each is padded to whole groups of 16 rows with zero weights. Bytes are
// described in packed_matrix_layout.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/cpu/packed_matrix_layout.h"
#include "backend/cpu/packed_matrix_memory.h"

namespace longhaul::cpu {

// One part: groups lie group_stride bytes apart (twice their size when interleaved).
struct PackedSegment {
  DType dtype = DType::kF32;
  int64_t first_row = 0;  // in stacked numbering
  int64_t rows = 0;
  int64_t groups = 0;
  int64_t group_stride = 0;
  std::byte* data = nullptr;
};

class PackedMatrix {
 public:
  int64_t rows = 0;
  int64_t cols = 0;
  bool interleaved = false;
  bool any_quantized = false;
  bool any_float = false;
  std::vector<PackedSegment> segments;
  std::vector<Strip> strips;
  PackedMemory memory;
};

GroupLayout group_layout(DType dtype, int64_t cols);

}  // namespace longhaul::cpu
