#include "model/weights.h"

namespace longhaul {

const TensorView* WeightSet::find(std::string_view name) const {
  const auto found = tensors_.find(std::string(name));
  return found == tensors_.end() ? nullptr : &found->second.tensor;
}

Result<TensorView> WeightSet::check(std::string_view name, int64_t rows, int64_t cols) const {
  const std::string text(name);
  const TensorView* const tensor = find(name);
  if (tensor == nullptr) {
    return error(ErrorCode::kModelFormat, "tensor %s: expected [%lld, %lld], found none",
                 text.c_str(), static_cast<long long>(rows), static_cast<long long>(cols));
  }
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
  return *tensor;
}

Result<TensorView> WeightSet::require(std::string_view name, int64_t rows, int64_t cols) const {
  LH_ASSIGN_OR_RETURN(TensorView view, check(name, rows, cols));
  const Open& open = tensors_.find(std::string(name))->second.open;
  if (open) {
    LH_ASSIGN_OR_RETURN(LeasedBytes bytes, open());
    view.data = bytes.data;
    view.lease = std::move(bytes.lease);
  }
  return view;
}

}  // namespace longhaul
