// Reading back rows that a kernel wrote as a ProductInput, and comparing them with numbers in
// double. Formats are spelled out here again, from their descriptions.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "device_array.h"
#include "product_input.h"

namespace lh_test {

using longhaul::device::InputForm;
using longhaul::device::ProductInput;

inline double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const double mantissa = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return mantissa != 0 ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}
inline double bfloat_value(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// Output rows in device memory, of any form, with spare columns after each row.
class ProductRows {
 public:
  ProductRows(InputForm form, int64_t rows, int64_t cols, int64_t spare)
      : form_(form), rows_(rows), cols_(cols) {
    const int64_t unit = form == InputForm::kQ8 ? 64 : 8;
    stride_ = (cols + unit - 1) / unit * unit + spare * unit;
    const int64_t element = form == InputForm::kF32 ? 4 : form == InputForm::kQ8 ? 1 : 2;
    data_ = std::make_unique<DeviceArray<uint8_t>>(static_cast<size_t>(rows * stride_ * element));
    const bool q8 = form == InputForm::kQ8;
    const auto blocks = static_cast<size_t>(q8 ? rows * stride_ / 32 : 0);
    scales_ = std::make_unique<DeviceArray<float>>(blocks);
    sums_ = std::make_unique<DeviceArray<float>>(blocks);
  }

  ProductInput input() {
    ProductInput out;
    out.form = form_;
    out.data = data_->data();
    out.stride = stride_;
    if (form_ == InputForm::kQ8) {
      out.scales = scales_->data();
      out.sums = sums_->data();
    }
    return out;
  }

  // Compares with expected [rows, cols]. `relative` and `absolute` are what f32 arithmetic may be
  // off, beside the rounding of the form itself. Columns beyond must be untouched (of q8: zero up
  // to the next 64).
  void expect(const std::vector<double>& expected, double relative, double absolute,
              const std::string& what) {
    const std::vector<uint8_t> data = data_->download();
    const std::vector<float> scales = scales_->download(), sums = sums_->download();
    int wrong = 0;
    const auto miss = [&](int64_t row, int64_t col, double want, double found) {
      if (++wrong > 3) return;
      fail(__FILE__, __LINE__, what + ": row " + std::to_string(row) + ", column " +
                                   std::to_string(col) + ": expected " + std::to_string(want) +
                                   ", found " + std::to_string(found));
    };
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t col = 0; col < stride_ && form_ != InputForm::kQ8; ++col) {
        const auto at = static_cast<size_t>(row * stride_ + col);
        const size_t bytes = form_ == InputForm::kF32 ? 4 : 2;
        if (col >= cols_) {
          for (size_t i = 0; i < bytes; ++i) {
            if (data[at * bytes + i] != kPoisonByte) miss(row, col, NAN, data[at * bytes + i]);
          }
          continue;
        }
        const double want = expected[static_cast<size_t>(row * cols_ + col)];
        double found = 0, step = 0;
        if (form_ == InputForm::kF32) {
          float value;
          std::memcpy(&value, &data[at * 4], 4);
          found = value;
        } else {
          uint16_t bits;
          std::memcpy(&bits, &data[at * 2], 2);
          const bool f16 = form_ == InputForm::kF16;
          found = f16 ? half_value(bits) : bfloat_value(bits);
          step = f16 ? std::max(std::fabs(want) * 0x1p-11, 0x1p-25) : std::fabs(want) * 0x1p-8;
          if (f16 && std::fabs(want) >= 65520) step = INFINITY;
        }
        if (std::isnan(want) != std::isnan(found)) {
          miss(row, col, want, found);
        } else if (!std::isnan(want) && !(want == found) &&
                   !(std::fabs(want - found) <= step + relative * std::fabs(want) + absolute)) {
          miss(row, col, want, found);
        }
      }
      for (int64_t block = 0; block < stride_ / 32 && form_ == InputForm::kQ8; ++block) {
        check_block(row, block, expected, data, scales, sums, relative, absolute, miss);
      }
    }
    if (wrong > 3) fail(__FILE__, __LINE__, what + ": " + std::to_string(wrong) + " differ in all");
  }

 private:
  template <typename Miss>
  void check_block(int64_t row, int64_t block, const std::vector<double>& expected,
                   const std::vector<uint8_t>& data, const std::vector<float>& scales,
                   const std::vector<float>& sums, double relative, double absolute,
                   const Miss& miss) {
    const auto entry = static_cast<size_t>(row * (stride_ / 32) + block);
    const int64_t padded = (cols_ + 63) / 64 * 64, first = block * 32;
    // Byte 8 t + 4 h + i of a block holds column 16 h + 4 t + i.
    const auto quant = [&](int64_t col) {
      const int64_t c = col % 32;
      const int64_t h = c / 16, t = c / 4 % 4, i = c % 4;
      const int64_t at = row * stride_ + col / 32 * 32 + 8 * t + 4 * h + i;
      return static_cast<int8_t>(data[static_cast<size_t>(at)]);
    };
    if (first >= padded) {
      for (int64_t col = first; col < first + 32; ++col) {
        if (static_cast<uint8_t>(quant(col)) != kPoisonByte) miss(row, col, NAN, quant(col));
      }
      if (!is_poison(scales[entry])) miss(row, first, NAN, scales[entry]);
      return;
    }
    double largest = 0;
    bool finite = true;
    for (int64_t col = first; col < first + 32; ++col) {
      const double want = col < cols_ ? expected[static_cast<size_t>(row * cols_ + col)] : 0;
      if (!std::isfinite(want)) finite = false;
      largest = std::max(largest, std::fabs(want));
    }
    if (!finite) {
      if (!std::isnan(scales[entry])) miss(row, first, NAN, scales[entry]);
      if (!std::isnan(sums[entry])) miss(row, first, NAN, sums[entry]);
      return;
    }
    const double scale = largest / 127;
    if (std::fabs(scales[entry] - scale) > (relative + 1e-6) * scale + absolute) {
      miss(row, first, scale, scales[entry]);
    }
    int sum = 0;
    for (int64_t col = first; col < first + 32; ++col) {
      const double want = col < cols_ ? expected[static_cast<size_t>(row * cols_ + col)] : 0;
      sum += quant(col);
      const double exact = scale > 0x1p-100 ? want / scale : 0;
      const double slack = 127 * (relative + 1e-6) + absolute / std::max(scale, 1e-30);
      if (std::fabs(quant(col) - exact) > 0.5 + slack) {
        miss(row, col, exact, quant(col));
      }
    }
    const double weighed = static_cast<double>(scales[entry]) * sum;
    if (std::fabs(sums[entry] - weighed) > 1e-6 * std::fabs(weighed)) {
      miss(row, first, weighed, sums[entry]);
    }
  }

  InputForm form_;
  int64_t rows_, cols_, stride_;
  std::unique_ptr<DeviceArray<uint8_t>> data_;
  std::unique_ptr<DeviceArray<float>> scales_, sums_;
};

inline const char* form_name(InputForm form) {
  switch (form) {
    case InputForm::kF32: return "f32";
    case InputForm::kF16: return "f16";
    case InputForm::kBF16: return "bf16";
    case InputForm::kQ8: return "q8";
  }
  return "?";
}
constexpr InputForm kAllForms[] = {InputForm::kF32, InputForm::kF16, InputForm::kBF16,
                                   InputForm::kQ8};

}  // namespace lh_test
