// What the tests of matrix products share: weights as files hold them, planned, packed and uploaded
// by the backend's own functions; rows in the form a product reads; the product in double, from the
// files' bytes (stored_weights.h) and the numbers that the rows stand for.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "backend/cuda/device_matrix_layout.h"
#include "backend/cuda/pack_device_matrix.h"
#include "device_array.h"
#include "matmul.h"
#include "matmul_cases.h"
#include "stored_weights.h"

namespace lh_test {

// Round to nearest even, as numbers.
inline double rounded_to_bf16(float value) {
  if (!std::isfinite(value) || value == 0) return value;
  const int exponent = std::max(std::ilogb(value), -126) - 7;
  return std::ldexp(std::nearbyint(std::ldexp(static_cast<double>(value), -exponent)), exponent);
}
inline double rounded_to_f16(float value) {
  if (!std::isfinite(value) || value == 0) return value;
  const int exponent = std::max(std::ilogb(value), -14) - 10;
  const double number =
      std::ldexp(std::nearbyint(std::ldexp(static_cast<double>(value), -exponent)), exponent);
  return std::fabs(number) > 65504 ? std::copysign(INFINITY, number) : number;
}

inline bool is_super(DType type) { return longhaul::dtype_info(type).block_elements == 256; }

// A weight that the device holds: exact, but for F32, which becomes bf16.
inline double device_value(const Stored& stored, int64_t row, int64_t col) {
  const float value = stored.value(row, col);
  return stored.dtype == DType::kF32 ? rounded_to_bf16(value) : value;
}

// Parts of a matrix, resident.
class TestMatrix {
 public:
  TestMatrix(std::vector<Stored> parts, bool paired) : parts_(std::move(parts)) {
    std::vector<longhaul::TensorView> views;
    for (const Stored& part : parts_) views.push_back(part.view());
    longhaul::Result<longhaul::cuda::DeviceMatrixLayout> planned =
        longhaul::cuda::plan_device_matrix(views, paired);
    TestDevice::check(planned.status(), "plan_device_matrix");
    layout_ = std::move(planned.value());
    std::vector<uint8_t> bytes(static_cast<size_t>(layout_.bytes), kPoisonByte);
    for (const longhaul::cuda::DevicePiece& piece : layout_.pieces) {
      // In ranges of uneven length, as an uploader would.
      for (int64_t first = 0, count = 1; first < piece.num_units; first += count, ++count) {
        const int64_t end = std::min(first + count, piece.num_units);
        auto* out =
            reinterpret_cast<std::byte*>(bytes.data()) + piece.offset + first * piece.unit_bytes;
        longhaul::cuda::pack_device_units(views, piece, first, end, out);
      }
    }
    memory_ = std::make_unique<DeviceArray<uint8_t>>(bytes);
  }

  const longhaul::cuda::DeviceMatrixLayout& layout() const { return layout_; }
  longhaul::device::WeightMatrix piece(size_t index = 0) {
    return longhaul::cuda::piece_matrix(layout_.pieces[index], memory_->data());
  }
  // Of the stacked matrix.
  double value(int64_t row, int64_t col) const {
    size_t part = 0;
    for (; row >= parts_[part].rows; ++part) row -= parts_[part].rows;
    return device_value(parts_[part], row, col);
  }
  // [rows, cols], for repeated use.
  std::vector<double> values() const {
    std::vector<double> all;
    all.reserve(static_cast<size_t>(layout_.rows * layout_.cols));
    for (int64_t row = 0; row < layout_.rows; ++row) {
      for (int64_t col = 0; col < layout_.cols; ++col) all.push_back(value(row, col));
    }
    return all;
  }

 private:
  std::vector<Stored> parts_;
  longhaul::cuda::DeviceMatrixLayout layout_;
  std::unique_ptr<DeviceArray<uint8_t>> memory_;
};

// Scales that make every product and every sum of a few hundred columns exact in f32: powers of
// two.
inline void make_scales_exact(Stored& stored) {
  const longhaul::DTypeInfo& info = longhaul::dtype_info(stored.dtype);
  const auto put = [](uint8_t* at, uint16_t bits) { std::memcpy(at, &bits, 2); };
  for (int64_t row = 0; row < stored.rows; ++row) {
    for (int64_t block = 0; block < stored.cols / info.block_elements; ++block) {
      uint8_t* at = stored.row(row) + block * info.block_bytes;
      const uint16_t d = static_cast<uint16_t>(0x2c00 | (row + block) % 2 * 0x8000);  // +- 1 / 16
      put(at + (stored.dtype == DType::kQ6_K ? 208 : 0), d);
      if (stored.has_min()) put(at + 2, 0xb000);  // - 1 / 8
    }
  }
}

enum class RowKind { kRandom, kExact };

// Rows of x in a product's form, and the numbers they stand for. The space after a row's last
// column (q8: last step) is poison.
class TestRows {
 public:
  TestRows(longhaul::device::InputForm form, int64_t rows, int64_t cols, int64_t spare_steps,
           RowKind kind, uint32_t seed)
      : form_(form), rows_(rows), cols_(cols) {
    const bool q8 = form == longhaul::device::InputForm::kQ8;
    stride_ = ((q8 ? (cols + 63) / 64 : (cols + 31) / 32) + spare_steps) * (q8 ? 64 : 32);
    numbers_.resize(static_cast<size_t>(rows * cols));
    std::mt19937 random(seed);
    if (q8) {
      make_q8(random, kind);
    } else {
      make_half(random, kind);
    }
  }

  longhaul::device::ProductInput input() {
    longhaul::device::ProductInput x;
    x.form = form_;
    x.data = data_->data();
    x.stride = stride_;
    if (scales_) {
      x.scales = scales_->data();
      x.sums = sums_->data();
    }
    return x;
  }
  double number(int64_t row, int64_t col) const {
    return numbers_[static_cast<size_t>(row * cols_ + col)];
  }
  // Replaces a row by what a row with a NaN becomes.
  void spoil(int64_t row) {
    std::vector<float> scales = scales_->download(), sums = sums_->download();
    scales[static_cast<size_t>(row * (stride_ / 32))] = NAN;
    sums[static_cast<size_t>(row * (stride_ / 32))] = NAN;
    scales_ = std::make_unique<DeviceArray<float>>(scales);
    sums_ = std::make_unique<DeviceArray<float>>(sums);
  }

 private:
  void make_q8(std::mt19937& random, RowKind kind) {
    std::vector<uint8_t> bytes(static_cast<size_t>(rows_ * stride_), kPoisonByte);
    const auto blocks = static_cast<size_t>(rows_ * stride_ / 32);
    std::vector<float> scales(blocks, NAN), sums(blocks, NAN);
    const bool exact = kind == RowKind::kExact;
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t block = 0; block < (cols_ + 63) / 64 * 2; ++block) {
        const bool exists = block * 32 < cols_;
        float scale = exact ? 0.25f : static_cast<float>(random() % 1000 + 1) / 8191.0f;
        if (!exists) scale = 0;
        int sum = 0;
        for (int64_t i = 0; i < 32; ++i) {
          int quant =
              exact ? static_cast<int>(random() % 7) - 3 : static_cast<int>(random() % 255) - 127;
          if (!exists) quant = 0;
          sum += quant;
          // Byte 8 t + 4 h + j of a block holds column 16 h + 4 t + j.
          const int64_t h = i / 16, t = i / 4 % 4, j = i % 4;
          bytes[static_cast<size_t>(row * stride_ + 32 * block + 8 * t + 4 * h + j)] =
              static_cast<uint8_t>(quant);
          if (exists) {
            numbers_[static_cast<size_t>(row * cols_ + 32 * block + i)] =
                static_cast<double>(scale) * quant;
          }
        }
        scales[static_cast<size_t>(row * (stride_ / 32) + block)] = scale;
        sums[static_cast<size_t>(row * (stride_ / 32) + block)] = scale * static_cast<float>(sum);
      }
    }
    data_ = std::make_unique<DeviceArray<uint8_t>>(bytes);
    scales_ = std::make_unique<DeviceArray<float>>(scales);
    sums_ = std::make_unique<DeviceArray<float>>(sums);
  }
  void make_half(std::mt19937& random, RowKind kind) {
    std::vector<uint8_t> bytes(static_cast<size_t>(rows_ * stride_ * 2), kPoisonByte);
    const bool f16 = form_ == longhaul::device::InputForm::kF16;
    std::normal_distribution<float> normal(0, 1);
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t col = 0; col < cols_; ++col) {
        const float value = kind == RowKind::kExact
                                ? static_cast<float>(static_cast<int>(random() % 7) - 3)
                                : normal(random);
        const double number = f16 ? rounded_to_f16(value) : rounded_to_bf16(value);
        numbers_[static_cast<size_t>(row * cols_ + col)] = number;
        uint16_t bits =
            static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(number)) >> 16);
        if (f16) {
          const auto wide = std::bit_cast<uint32_t>(static_cast<float>(number));
          // Normal halves only, which N(0, 1) rounded to 11 bits nearly always is.
          const int exponent = static_cast<int>(wide >> 23 & 255) - 127 + 15;
          bits = static_cast<uint16_t>((wide >> 16 & 0x8000) |
                                       static_cast<uint32_t>(exponent) << 10 | (wide >> 13 & 1023));
          if (exponent <= 0) {
            bits = 0;
            numbers_[static_cast<size_t>(row * cols_ + col)] = 0;
          }
        }
        std::memcpy(&bytes[static_cast<size_t>((row * stride_ + col) * 2)], &bits, 2);
      }
    }
    data_ = std::make_unique<DeviceArray<uint8_t>>(bytes);
  }

  longhaul::device::InputForm form_;
  int64_t rows_, cols_, stride_ = 0;
  std::vector<double> numbers_;
  std::unique_ptr<DeviceArray<uint8_t>> data_;
  std::unique_ptr<DeviceArray<float>> scales_, sums_;
};

constexpr float kTestSoftcap = 500.0f;  // sums reach some thousands: bent, not all at the limit

// A product to run: matrix, rows, y.
class TestProduct {
 public:
  TestProduct(DType type, const MatmulCase& shape, RowKind kind, uint32_t seed)
      : shape_(shape), kind_(kind) {
    const int32_t cols = is_super(type) ? shape.super_cols : shape.cols;
    const int num_parts = shape.paired ? 2 : 1;
    std::vector<Stored> parts;
    for (int i = 0; i < num_parts; ++i) {
      parts.emplace_back(type, shape.out, cols, seed + static_cast<uint32_t>(i));
      const bool dense = longhaul::dtype_info(type).block_elements == 1;
      if (kind == RowKind::kExact && !dense) make_scales_exact(parts.back());
    }
    matrix_ = std::make_unique<TestMatrix>(std::move(parts), shape.paired);
    x_ = std::make_unique<TestRows>(input_form(matrix_->piece().format), shape.rows, cols,
                                    shape.spare, kind, seed + 100);
    gated_ = shape.epilogue == Epilogue::kSiluMul || shape.epilogue == Epilogue::kGeluMul;
    out_ = shape.paired && !gated_ ? 2 * shape.out : shape.out;
    stride_ = out_ + shape.spare;
    std::vector<float> before(static_cast<size_t>(shape.rows * stride_));
    std::memset(before.data(), kPoisonByte, before.size() * sizeof(float));
    if (shape.epilogue == Epilogue::kAdd) {
      for (int64_t row = 0; row < shape.rows; ++row) {
        for (int64_t i = 0; i < out_; ++i) before[at(row, i)] = initial(row, i);
      }
    }
    y_ = std::make_unique<DeviceArray<float>>(before);
    description_ = std::string(longhaul::dtype_info(type).name) + " " + std::to_string(shape.rows) +
                   " x " + std::to_string(cols) + " to " + std::to_string(shape.out) +
                   (shape.paired ? " paired" : "") + ", epilogue " +
                   std::to_string(static_cast<int>(shape.epilogue)) +
                   (kind == RowKind::kExact ? ", exact" : "");
  }

  longhaul::device::MatmulParams params() {
    longhaul::device::MatmulParams p;
    p.w = matrix_->piece();
    p.x = x_->input();
    p.rows = shape_.rows;
    p.epilogue = shape_.epilogue;
    p.softcap = shape_.epilogue == Epilogue::kSoftcap ? kTestSoftcap : 0;
    p.y = y_->data();
    p.y_stride = stride_;
    return p;
  }
  TestRows& x() { return *x_; }
  std::vector<float> y() { return y_->download(); }
  int64_t stride() const { return stride_; }

  // y against the product in double. Of exact operands the sums must be exact too (and what only
  // adds them up); an epilogue with a transcendental is within f32 of it.
  void expect() {
    const std::vector<float> found = y_->download();
    const std::vector<double> w = matrix_->values();
    const int64_t cols = matrix_->layout().cols;
    int wrong = 0;
    for (int64_t row = 0; row < shape_.rows; ++row) {
      for (int64_t i = 0; i < stride_; ++i) {
        const float value = found[at(row, i)];
        if (i >= out_) {
          if (!is_poison(value) && ++wrong <= 3)
            fail(__FILE__, __LINE__, description_ + ": y written past its columns");
          continue;
        }
        double magnitude = 0;
        const auto dot = [&](int64_t weight_row) {
          double sum = 0;
          for (int64_t k = 0; k < cols; ++k) {
            const double product =
                w[static_cast<size_t>(weight_row * cols + k)] * x_->number(row, k);
            sum += product;
            magnitude += std::fabs(product);
          }
          return sum;
        };
        double want = dot(i), slack = 1e-5;
        if (gated_) {
          const double up = dot(shape_.out + i), gate = want;
          const double inner = std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate);
          want = (shape_.epilogue == Epilogue::kSiluMul ? gate / (1 + std::exp(-gate))
                                                        : 0.5 * gate * (1 + std::tanh(inner))) *
                 up;
          magnitude *= 1 + std::fabs(up) + std::fabs(gate);
        } else if (shape_.epilogue == Epilogue::kSoftcap) {
          want = kTestSoftcap * std::tanh(want / kTestSoftcap);
        } else if (shape_.epilogue == Epilogue::kAdd) {
          want += initial(row, i);
        }
        const bool is_exact =
            kind_ == RowKind::kExact && !gated_ && shape_.epilogue != Epilogue::kSoftcap;
        if (is_exact) slack = 0;
        if (!(std::fabs(value - want) <= slack * magnitude) && ++wrong <= 3) {
          fail(__FILE__, __LINE__,
               description_ + ": row " + std::to_string(row) + ", column " + std::to_string(i) +
                   ": expected " + std::to_string(want) + ", found " + std::to_string(value));
        }
      }
    }
    if (wrong > 3)
      fail(__FILE__, __LINE__, description_ + ": " + std::to_string(wrong) + " differ in all");
  }

 private:
  size_t at(int64_t row, int64_t i) const { return static_cast<size_t>(row * stride_ + i); }
  static float initial(int64_t row, int64_t i) {
    return static_cast<float>((row * 7 + i * 3) % 11) - 5;
  }

  MatmulCase shape_;
  RowKind kind_;
  bool gated_ = false;
  int64_t out_ = 0, stride_ = 0;
  std::unique_ptr<TestMatrix> matrix_;
  std::unique_ptr<TestRows> x_;
  std::unique_ptr<DeviceArray<float>> y_;
  std::string description_;
};

}  // namespace lh_test
