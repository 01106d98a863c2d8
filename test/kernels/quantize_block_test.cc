// store_q8 (quantize_block.cuh), through convert_rows: the arithmetic of its description and of the
// CPU backend, to the bit.
#include <cmath>
#include <random>

#include "device_array.h"
#include "rms_norm.h"

using namespace longhaul::device;
using namespace lh_test;

namespace {

// Rows whose blocks are of many sizes, with ties, zeros of both signs and blocks near the
// threshold.
std::vector<float> make_rows(int64_t rows, int64_t cols) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> x(static_cast<size_t>(rows * cols));
  for (size_t block = 0; block < x.size() / 32; ++block) {
    float* at = &x[block * 32];
    const int exponent = static_cast<int>(random() % 60) - 30;
    for (int i = 0; i < 32; ++i) at[i] = std::ldexp(normal(random), exponent);
    switch (random() % 10) {
      case 0:  // ties: the largest is 127, so halves are exact
        for (int i = 0; i < 32; ++i)
          at[i] = static_cast<float>(static_cast<int>(random() % 253) - 126) + 0.5f;
        at[random() % 32] = 127;
        break;
      case 1:
        for (int i = 0; i < 32; ++i) at[i] = i % 2 ? 0.0f : -0.0f;
        break;
      case 2:  // around 2^-100
        for (int i = 0; i < 32; ++i) at[i] = std::ldexp(normal(random) * 0.3f, -100);
        at[random() % 32] = random() % 2 ? 0x1p-100f : std::nextafter(0x1p-100f, 0.0f);
        break;
      case 3:
        at[random() % 32] = NAN;
        break;
      case 4:
        at[random() % 32] = random() % 2 ? INFINITY : -INFINITY;
        break;
      case 5:  // near the largest number
        for (int i = 0; i < 32; ++i) at[i] = normal(random) * 1e37f;
        break;
      default:
        break;
    }
  }
  return x;
}

}  // namespace

LH_TEST(blocks_are_quantized_to_the_bit) {
  for (const int64_t cols : {32, 96, 128, 160, 2048}) {
    const int64_t rows = 7, stride = (cols + 63) / 64 * 64;
    const std::vector<float> x = make_rows(rows, cols);
    DeviceArray<float> x_device(x);
    DeviceArray<int8_t> data(static_cast<size_t>(rows * stride));
    DeviceArray<float> scales(static_cast<size_t>(rows * stride / 32));
    DeviceArray<float> sums(static_cast<size_t>(rows * stride / 32));
    ConvertRowsParams params;
    params.x = x_device.data();
    params.x_stride = cols;
    params.rows = static_cast<int32_t>(rows);
    params.cols = static_cast<int32_t>(cols);
    params.out.form = InputForm::kQ8;
    params.out.data = data.data();
    params.out.stride = stride;
    params.out.scales = scales.data();
    params.out.sums = sums.data();
    EXPECT_EQ(launch_convert_rows(params, TestDevice::get().stream()), 0);
    const std::vector<int8_t> quants = data.download();
    const std::vector<float> found_scales = scales.download(), found_sums = sums.download();

    int wrong = 0;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t block = 0; block < stride / 32; ++block) {
        float values[32] = {};
        for (int64_t i = 0; i < 32 && block * 32 < cols; ++i) {
          values[i] = x[static_cast<size_t>(row * cols + block * 32 + i)];
        }
        float largest = 0;
        bool finite = true;
        for (const float value : values) {
          finite = finite && std::isfinite(value);
          largest = std::fmax(largest, std::fabs(value));
        }
        const bool zero = finite && largest < 0x1p-100f;
        const float inverse = zero || !finite ? 0.0f : 127.0f / largest;
        int sum = 0;
        for (int64_t i = 0; i < 32; ++i) {
          const int want = finite ? static_cast<int>(std::nearbyint(values[i] * inverse)) : 0;
          sum += want;
          const int64_t h = i / 16, t = i / 4 % 4, j = i % 4;
          const int64_t at = row * stride + 32 * block + 8 * t + 4 * h + j;
          if (quants[static_cast<size_t>(at)] != want) ++wrong;
        }
        const auto entry = static_cast<size_t>(row * (stride / 32) + block);
        const float scale = zero ? 0.0f : largest / 127.0f;
        if (finite) {
          if (found_scales[entry] != scale) ++wrong;
          if (found_sums[entry] != scale * static_cast<float>(sum)) ++wrong;
        } else if (!std::isnan(found_scales[entry]) || !std::isnan(found_sums[entry])) {
          ++wrong;
        }
      }
    }
    EXPECT_EQ(wrong, 0);
  }
}

LH_TEST_MAIN
