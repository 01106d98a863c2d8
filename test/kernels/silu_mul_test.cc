// silu_mul against its definition in double.
#include "silu_mul.h"

#include <random>

#include "product_rows.h"
#include "silu_mul_cases.h"

using namespace longhaul::device;
using namespace lh_test;

namespace {

double activated(GateActivation activation, double x) {
  if (activation == GateActivation::kSilu) {
    return x == -INFINITY ? NAN : x / (1 + std::exp(-x));
  }
  const double u = std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
  return 0.5 * x * (1 + std::tanh(u));
}

}  // namespace

LH_TEST(silu_mul_is_its_definition) {
  for (const GateShape& shape : kGateShapes) {
    for (const InputForm form : kAllForms) {
      for (const GateActivation activation : {GateActivation::kSilu, GateActivation::kGeluTanh}) {
        for (const int32_t step : {1, 2}) {
          if (form == InputForm::kQ8 && shape.cols % 32 != 0) continue;
          const int64_t rows = shape.rows, cols = shape.cols, stride = 2 * cols + 4;
          std::mt19937 random(static_cast<uint32_t>(cols));
          std::normal_distribution<float> normal(0, 3);
          std::vector<float> product(static_cast<size_t>(rows * stride));
          for (float& x : product) x = normal(random);
          const auto gate_at = [&](int64_t row, int64_t i) -> float& {
            return product[static_cast<size_t>(row * stride + (step == 1 ? i : 2 * i))];
          };
          const auto up_at = [&](int64_t row, int64_t i) -> float& {
            return product[static_cast<size_t>(row * stride + (step == 1 ? cols + i : 2 * i + 1))];
          };
          if (rows > 1) {  // ends of the activations
            gate_at(0, 0) = 90;
            gate_at(0, 1) = -90;
            gate_at(0, 2) = 0;
            gate_at(1, 3) = NAN;
          }
          std::vector<double> expected;
          for (int64_t row = 0; row < rows; ++row) {
            for (int64_t i = 0; i < cols; ++i) {
              expected.push_back(activated(activation, gate_at(row, i)) * up_at(row, i));
            }
          }
          DeviceArray<float> device(product);
          ProductRows out(form, rows, cols, 1);
          SiluMulParams params;
          params.gate = device.data();
          params.up = device.data() + (step == 1 ? cols : 1);
          params.stride = stride;
          params.step = step;
          params.activation = activation;
          params.rows = shape.rows;
          params.cols = shape.cols;
          params.out = out.input();
          EXPECT_EQ(launch_silu_mul(params, TestDevice::get().stream()), 0);
          // exp's argument is rounded: far out the result is off by more, and tiny.
          out.expect(expected, 2e-6, 1e-7,
                     std::string(activation == GateActivation::kSilu ? "silu " : "gelu ") +
                         std::to_string(rows) + " x " + std::to_string(cols) + " step " +
                         std::to_string(step) + " to " + form_name(form));
        }
      }
    }
  }
}

LH_TEST(layouts_without_a_kernel_are_refused) {
  DeviceArray<float> device(256);
  ProductRows out(InputForm::kF32, 1, 32, 0);
  SiluMulParams params;
  params.gate = device.data();
  params.up = device.data() + 32;
  params.stride = 64;
  params.step = 2;  // but planes
  params.rows = 1;
  params.cols = 32;
  params.out = out.input();
  EXPECT_EQ(launch_silu_mul(params, TestDevice::get().stream()), kInvalidLaunch);
}

LH_TEST_MAIN
