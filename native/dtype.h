// Element and block-quantized types of weights and caches. Names are GGUF's; block layouts are
// described in docs/formats.md. Numeric values are ours and cross the N-API border (src/types.ts,
// DTYPES): append only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace longhaul {

enum class DType : int32_t {
  kF32 = 0,
  kF16 = 1,
  kBF16 = 2,
  kQ8_0 = 3,
  kQ4_0 = 4,
  kQ4_1 = 5,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ4_K = 8,
  kQ5_K = 9,
  kQ6_K = 10,
};
constexpr int kNumDTypes = 11;

struct DTypeInfo {
  const char* name;      // "Q4_1"
  int block_elements;    // elements a block covers along the innermost dimension (1, 32 or 256)
  int block_bytes;       // bytes of one block as stored in files
};

const DTypeInfo& dtype_info(DType dtype);
std::optional<DType> dtype_from_name(std::string_view name);  // case-sensitive, as in DTypeInfo

// Bytes of one row of `cols` elements; cols must be a multiple of block_elements.
inline int64_t row_bytes(DType dtype, int64_t cols) {
  const DTypeInfo& info = dtype_info(dtype);
  return cols / info.block_elements * info.block_bytes;
}

}  // namespace longhaul
