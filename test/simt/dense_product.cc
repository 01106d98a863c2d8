#include "simt/dense_product.h"

#include <cstdint>
#include <vector>

#include "simt/numbers.h"

namespace longhaul::simt {
namespace {

// Independent sums, so that the compiler may use vectors; added up in one order.
constexpr int kLanes = 8;

float widen(cuda::DenseType type, uint16_t bits) {
  return type == cuda::DenseType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

void widen_row(cuda::DenseType type, const uint16_t* row, int32_t cols, float* out) {
  for (int32_t i = 0; i < cols; ++i) out[i] = widen(type, row[i]);
}

float dot(const float* a, const float* b, int32_t count) {
  float sums[kLanes] = {};
  int32_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  for (; i < count; ++i) sums[i % kLanes] += a[i] * b[i];
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

}  // namespace

void dense_product(const cuda::DenseProduct& p) {
  const auto* const x = static_cast<const uint16_t*>(p.x);
  const auto* const w = static_cast<const uint16_t*>(p.w);
  std::vector<float> x_rows(static_cast<size_t>(p.rows) * static_cast<size_t>(p.cols));
  for (int32_t row = 0; row < p.rows; ++row) {
    widen_row(p.type, x + row * p.x_stride, p.cols, x_rows.data() + int64_t{row} * p.cols);
  }
  std::vector<float> w_row(static_cast<size_t>(p.cols));
  for (int32_t out = 0; out < p.out; ++out) {
    widen_row(p.type, w + out * p.w_stride, p.cols, w_row.data());
    for (int32_t row = 0; row < p.rows; ++row) {
      const float sum = dot(x_rows.data() + int64_t{row} * p.cols, w_row.data(), p.cols);
      const int64_t at = row * p.y_stride + out;
      if (p.y_is_f32) {
        float* const y = static_cast<float*>(p.y) + at;
        *y = p.accumulate ? *y + sum : sum;
      } else {
        static_cast<uint16_t*>(p.y)[at] =
            p.type == cuda::DenseType::kF16 ? f32_to_f16(sum) : f32_to_bf16(sum);
      }
    }
  }
}

}  // namespace longhaul::simt
