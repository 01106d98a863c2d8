#include "tensor_floats.h"

#include <cstring>

#include "backend/cpu/kv_store_convert.h"

namespace longhaul {

Result<std::vector<float>> tensor_floats(const TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.rows * tensor.cols));
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t narrow = 0;
    float& value = values[i];
    switch (tensor.dtype) {
      case DType::kF32: std::memcpy(&value, tensor.data + 4 * i, 4); break;
      case DType::kF16:
        std::memcpy(&narrow, tensor.data + 2 * i, 2);
        value = cpu::half_to_float(narrow);
        break;
      case DType::kBF16:
        std::memcpy(&narrow, tensor.data + 2 * i, 2);
        value = cpu::bf16_to_float(narrow);
        break;
      default:
        return error(ErrorCode::kModelFormat, "tensor %s: expected F32, F16 or BF16, found %s",
                     tensor.name.c_str(), dtype_info(tensor.dtype).name);
    }
  }
  return values;
}

}  // namespace longhaul
