// rms_norm, add_norm and convert_rows against their definitions in double.
#include "rms_norm.h"

#include <random>

#include "product_rows.h"
#include "rms_norm_cases.h"

using namespace longhaul::device;
using namespace lh_test;

namespace {

std::vector<float> random_floats(size_t count, uint32_t seed, float deviation = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(count);
  for (float& x : values) x = normal(random);
  return values;
}

// [rows, cols] of a strided matrix.
std::vector<double> normalized(const std::vector<double>& x, const std::vector<float>& weight,
                               int64_t rows, int64_t cols, double eps) {
  std::vector<double> out(static_cast<size_t>(rows * cols));
  for (int64_t row = 0; row < rows; ++row) {
    double squares = 0;
    for (int64_t i = 0; i < cols; ++i) {
      const double value = x[static_cast<size_t>(row * cols + i)];
      squares += value * value;
    }
    const double factor = 1 / std::sqrt(squares / static_cast<double>(cols) + eps);
    for (int64_t i = 0; i < cols; ++i) {
      const auto at = static_cast<size_t>(row * cols + i);
      out[at] = x[at] * factor * weight[static_cast<size_t>(i)];
    }
  }
  return out;
}

std::vector<double> packed(const std::vector<float>& x, int64_t rows, int64_t cols,
                           int64_t stride) {
  std::vector<double> out;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < cols; ++i) out.push_back(x[static_cast<size_t>(row * stride + i)]);
  }
  return out;
}

// Rows with something in them that must not stay inside.
void plant_special(std::vector<float>& x, int64_t rows, int64_t cols, int64_t stride) {
  if (rows > 1) x[static_cast<size_t>(stride + cols / 2)] = NAN;
  if (rows > 2) {
    for (int64_t i = 0; i < cols; ++i) x[static_cast<size_t>(2 * stride + i)] = 0;
  }
}

std::string describe(const char* name, const RowShape& shape, InputForm form) {
  return std::string(name) + " " + std::to_string(shape.rows) + " x " + std::to_string(shape.cols) +
         " to " + form_name(form);
}

bool fits(const RowShape& shape, InputForm form) {
  return form != InputForm::kQ8 || shape.cols % 32 == 0;
}

}  // namespace

LH_TEST(rms_norm_is_its_definition) {
  for (const RowShape& shape : kRowShapes) {
    for (const InputForm form : kAllForms) {
      if (!fits(shape, form)) continue;
      const int64_t rows = shape.rows, cols = shape.cols, stride = cols + 4 * shape.spare;
      std::vector<float> x = random_floats(static_cast<size_t>(rows * stride), 1, 3.0f);
      plant_special(x, rows, cols, stride);
      const std::vector<float> weight = random_floats(static_cast<size_t>(cols), 2);
      DeviceArray<float> x_device(x), weight_device(weight);
      ProductRows out(form, rows, cols, shape.spare % 2);
      RmsNormParams params;
      params.x = x_device.data();
      params.x_stride = stride;
      params.weight = weight_device.data();
      params.eps = 1e-5f;
      params.rows = shape.rows;
      params.cols = shape.cols;
      params.out = out.input();
      EXPECT_EQ(launch_rms_norm(params, TestDevice::get().stream()), 0);
      out.expect(normalized(packed(x, rows, cols, stride), weight, rows, cols, 1e-5), 2e-6, 0,
                 describe("rms_norm", shape, form));
    }
  }
}

LH_TEST(rms_norm_gathers_rows) {
  const int32_t cols = 96, stride = 100;
  const std::vector<float> x = random_floats(9 * stride, 3);
  const std::vector<int32_t> indices = {1, 4, 5, 8};
  const std::vector<float> weight = random_floats(static_cast<size_t>(cols), 4);
  std::vector<double> rows;
  for (const int32_t index : indices) {
    for (int32_t i = 0; i < cols; ++i) rows.push_back(x[static_cast<size_t>(index * stride + i)]);
  }
  DeviceArray<float> x_device(x), weight_device(weight);
  DeviceArray<int32_t> indices_device(indices);
  for (const InputForm form : kAllForms) {
    ProductRows out(form, 4, cols, 0);
    RmsNormParams params;
    params.x = x_device.data();
    params.x_stride = stride;
    params.row_indices = indices_device.data();
    params.weight = weight_device.data();
    params.eps = 1e-6f;
    params.rows = 4;
    params.cols = cols;
    params.out = out.input();
    EXPECT_EQ(launch_rms_norm(params, TestDevice::get().stream()), 0);
    out.expect(normalized(rows, weight, 4, cols, 1e-6), 2e-6, 0,
               std::string("gather to ") + form_name(form));
  }
}

LH_TEST(add_norm_adds_and_normalizes) {
  for (const RowShape& shape : kRowShapes) {
    for (const InputForm form : kAllForms) {
      for (const bool post : {false, true}) {
        for (const bool next : {false, true}) {
          if (!fits(shape, form) || (!next && form != InputForm::kF32)) continue;
          const int64_t rows = shape.rows, cols = shape.cols, stride = cols + 4 * shape.spare;
          std::vector<float> x = random_floats(static_cast<size_t>(rows * stride), 5);
          std::vector<float> y = random_floats(static_cast<size_t>(rows * (stride + 4)), 6, 2.0f);
          plant_special(y, rows, cols, stride + 4);
          const std::vector<float> post_weight = random_floats(static_cast<size_t>(cols), 7);
          const std::vector<float> weight = random_floats(static_cast<size_t>(cols), 8);
          DeviceArray<float> x_device(x), y_device(y);
          DeviceArray<float> post_device(post_weight), weight_device(weight);
          ProductRows out(form, rows, cols, shape.spare % 2);
          AddNormParams params;
          params.x = x_device.data();
          params.x_stride = stride;
          params.y = y_device.data();
          params.y_stride = stride + 4;
          params.post_weight = post ? post_device.data() : nullptr;
          params.weight = next ? weight_device.data() : nullptr;
          params.post_eps = 1e-3f;
          params.eps = 1e-5f;
          params.rows = shape.rows;
          params.cols = shape.cols;
          params.out = out.input();
          EXPECT_EQ(launch_add_norm(params, TestDevice::get().stream()), 0);

          std::vector<double> added = packed(y, rows, cols, stride + 4);
          if (post) added = normalized(added, post_weight, rows, cols, 1e-3);
          const std::vector<double> before = packed(x, rows, cols, stride);
          for (size_t i = 0; i < added.size(); ++i) added[i] += before[i];
          const std::string what =
              describe("add_norm", shape, form) + (post ? " post" : "") + (next ? " next" : "");
          const std::vector<float> after = x_device.download();
          for (int64_t row = 0; row < rows; ++row) {
            for (int64_t i = 0; i < stride; ++i) {
              const float found = after[static_cast<size_t>(row * stride + i)];
              if (i >= cols) {
                EXPECT_EQ(found, x[static_cast<size_t>(row * stride + i)]);
                continue;
              }
              const double want = added[static_cast<size_t>(row * cols + i)];
              EXPECT_EQ(std::isnan(found), std::isnan(want));
              if (!std::isnan(want)) EXPECT_NEAR(found, want, 1e-5);
            }
          }
          // A sum that nearly vanishes carries the error of what was added.
          if (next) {
            out.expect(normalized(added, weight, rows, cols, 1e-5), 2e-6, 2e-6, what);
          }
        }
      }
    }
  }
}

LH_TEST(convert_rows_rounds) {
  for (const RowShape& shape : kRowShapes) {
    for (const InputForm form : kAllForms) {
      if (!fits(shape, form)) continue;
      const int64_t rows = shape.rows, cols = shape.cols, stride = cols + 4 * shape.spare;
      std::vector<float> x = random_floats(static_cast<size_t>(rows * stride), 9, 100.0f);
      plant_special(x, rows, cols, stride);
      if (rows > 4) x[static_cast<size_t>(4 * stride)] = -INFINITY;
      if (rows > 4) x[static_cast<size_t>(3 * stride + 1)] = 1e6f;  // beyond f16
      DeviceArray<float> x_device(x);
      ProductRows out(form, rows, cols, shape.spare % 2);
      ConvertRowsParams params;
      params.x = x_device.data();
      params.x_stride = stride;
      params.rows = shape.rows;
      params.cols = shape.cols;
      params.out = out.input();
      EXPECT_EQ(launch_convert_rows(params, TestDevice::get().stream()), 0);
      out.expect(packed(x, rows, cols, stride), 0, 0, describe("convert_rows", shape, form));
    }
  }
}

LH_TEST(shapes_without_a_kernel_are_refused) {
  DeviceArray<float> x(256);
  ProductRows out(InputForm::kQ8, 1, 64, 0);
  ConvertRowsParams params;
  params.x = x.data();
  params.x_stride = 64;
  params.rows = 1;
  params.cols = 36;  // not whole blocks
  params.out = out.input();
  EXPECT_EQ(launch_convert_rows(params, TestDevice::get().stream()), kInvalidLaunch);
  params.out.form = InputForm::kF32;
  params.cols = 35;
  EXPECT_EQ(launch_convert_rows(params, TestDevice::get().stream()), kInvalidLaunch);
}

LH_TEST_MAIN
