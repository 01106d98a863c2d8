#include "model/weights.h"

namespace longhaul {

const TensorView* WeightSet::find(std::string_view name) const {
  const auto found = tensors_.find(std::string(name));
  return found == tensors_.end() ? nullptr : &found->second.tensor;
}

Result<TensorView> WeightSet::require(std::string_view name, int64_t rows, int64_t cols) const {
  const std::string text(name);
  const auto found = tensors_.find(text);
  if (found == tensors_.end()) {
    return error(ErrorCode::kModelFormat, "tensor %s: expected [%lld, %lld], found none",
                 text.c_str(), static_cast<long long>(rows), static_cast<long long>(cols));
  }
  const TensorView* const tensor = &found->second.tensor;
  if (tensor->rows != rows || tensor->cols != cols) {
    return error(ErrorCode::kModelFormat, "tensor %s: expected [%lld, %lld], found [%lld, %lld]",
                 text.c_str(), static_cast<long long>(rows), static_cast<long long>(cols),
                 static_cast<long long>(tensor->rows), static_cast<long long>(tensor->cols));
  }
  const DTypeInfo& info = dtype_info(tensor->dtype);
  if (cols % info.block_elements != 0) {
    return error(ErrorCode::kModelFormat,
                 "tensor %s: %s needs rows of a multiple of %d elements, found %lld", text.c_str(),
                 info.name, info.block_elements, static_cast<long long>(cols));
  }
  TensorView view = *tensor;
  if (found->second.open) {
    LH_ASSIGN_OR_RETURN(LeasedBytes bytes, found->second.open());
    view.data = bytes.data;
    view.lease = std::move(bytes.lease);
  }
  return view;
}

}  // namespace longhaul
