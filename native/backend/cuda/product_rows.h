// Where rows that matrix products read come from: the residual stream, normalized, or what another
// operation wrote. Both are put into one buffer in the form the product asks for, unless they are
// in that form already.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "backend/cuda/device_arena.h"
#include "backend/cuda/launch_status.h"
#include "backend/cuda/products.h"
#include "backend/cuda/row_bucket.h"
#include "product_input.h"
#include "rms_norm.h"

namespace longhaul::cuda {

// Memory of `rows` rows (a bucket) of `cols` columns seen in a form: numbers, then for q8 scales and
// sums.
inline device::ProductInput rows_in_form(device::InputForm form, void* data, int64_t rows,
                                         int64_t cols) {
  device::ProductInput input;
  input.form = form;
  input.data = data;
  input.stride = cols;
  if (form != device::InputForm::kQ8) return input;
  input.stride = (cols + 63) / 64 * 64;
  const int64_t scales = (rows * input.stride / 32 + 3) / 4 * 4;  // 16-byte aligned
  input.scales = reinterpret_cast<float*>(static_cast<std::byte*>(data) + rows * input.stride);
  input.sums = input.scales + scales;
  return input;
}

// Bytes that no form of such rows exceeds.
constexpr int64_t form_bytes_max(int64_t rows, int64_t cols) {
  return rows * ((cols + 63) / 64 * 64) * 2;
}

// A tensor's rows as it says they were written.
inline device::ProductInput tensor_rows(const DeviceTensor& tensor) {
  return rows_in_form(static_cast<device::InputForm>(tensor.form), tensor.data,
                      row_bucket(static_cast<int32_t>(tensor.rows)), tensor.cols);
}

// The buffer, for products of up to `rows` rows.
struct InputBuffer {
  std::byte* data = nullptr;
  int32_t rows = 0;
  device::ProductInput in_form(device::InputForm form, int64_t cols) const {
    return rows_in_form(form, data, rows, cols);
  }
};

class NormedRows final : public InputSource {
 public:
  // `norm` but for its output.
  NormedRows(const InputBuffer& buffer, Stream stream, const device::RmsNormParams& norm)
      : buffer_(buffer), stream_(stream), norm_(norm) {}
  Result<device::ProductInput> rows_as(device::InputForm form) override {
    norm_.out = buffer_.in_form(form, norm_.cols);
    LH_TRY(launched(device::launch_rms_norm(norm_, stream_), "rms_norm"));
    return norm_.out;
  }

 private:
  const InputBuffer& buffer_;
  Stream stream_;
  device::RmsNormParams norm_;
};

class TensorRows final : public InputSource {
 public:
  TensorRows(const InputBuffer& buffer, Stream stream, const DeviceTensor& tensor, int32_t rows)
      : buffer_(buffer), stream_(stream), tensor_(tensor), rows_(rows) {}
  Result<device::ProductInput> rows_as(device::InputForm form) override {
    if (static_cast<int32_t>(form) == tensor_.form) return tensor_rows(tensor_);
    if (tensor_.form != static_cast<int32_t>(device::InputForm::kF32)) {
      return error(ErrorCode::kInternal, "rows of form %d are read as form %d", tensor_.form,
                   static_cast<int>(form));
    }
    device::ConvertRowsParams convert;
    convert.x = static_cast<const float*>(tensor_.data);
    convert.x_stride = tensor_.cols;
    convert.rows = rows_;
    convert.cols = static_cast<int32_t>(tensor_.cols);
    convert.out = buffer_.in_form(form, tensor_.cols);
    LH_TRY(launched(device::launch_convert_rows(convert, stream_), "convert_rows"));
    return convert.out;
  }

 private:
  const InputBuffer& buffer_;
  Stream stream_;
  const DeviceTensor& tensor_;
  int32_t rows_;
};

// For preparing products: the place alone.
class UnwrittenRows final : public InputSource {
 public:
  UnwrittenRows(const InputBuffer& buffer, int64_t cols) : buffer_(buffer), cols_(cols) {}
  Result<device::ProductInput> rows_as(device::InputForm form) override {
    return buffer_.in_form(form, cols_);
  }

 private:
  const InputBuffer& buffer_;
  int64_t cols_;
};

}  // namespace longhaul::cuda
