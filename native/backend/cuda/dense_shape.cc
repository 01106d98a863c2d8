#include "backend/cuda/dense_shape.h"

namespace longhaul::cuda {

Status check_dense_shape(const DenseProduct& p) {
  if (p.rows < 0 || p.out < 0 || p.cols <= 0 || p.x_stride < p.cols || p.w_stride < p.cols ||
      p.y_stride < p.out) {
    return error(ErrorCode::kDevice,
                 "dense: [%d, %d] x [%d, %d] with strides %lld, %lld, %lld is not a product",
                 p.rows, p.cols, p.out, p.cols, static_cast<long long>(p.x_stride),
                 static_cast<long long>(p.w_stride), static_cast<long long>(p.y_stride));
  }
  if (p.accumulate && !p.y_is_f32) {
    return error(ErrorCode::kDevice, "dense: only an f32 result can be accumulated");
  }
  return {};
}

Status dense_on_two_streams() {
  return error(ErrorCode::kDevice, "dense: products of one runtime are queued on one stream");
}

Status dense_not_prepared() {
  return error(ErrorCode::kDevice, "dense: no product was prepared on this device yet");
}

}  // namespace longhaul::cuda
