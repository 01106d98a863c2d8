// softcap against its definition in double.
#include "softcap.h"

#include <random>

#include "device_array.h"

using namespace longhaul::device;
using namespace lh_test;

LH_TEST(softcap_is_its_definition) {
  for (const int32_t cols : {1, 255, 256, 1023, 1025, 3001}) {
    for (const int32_t rows : {0, 1, 3}) {
      const int64_t stride = cols + 5;
      std::mt19937 random(static_cast<uint32_t>(cols));
      std::normal_distribution<float> normal(0, 40);
      std::vector<float> x(static_cast<size_t>(rows * stride));
      for (float& value : x) value = normal(random);
      if (rows > 1) {
        x[0] = INFINITY;
        x[static_cast<size_t>(stride)] = NAN;
      }
      DeviceArray<float> device(x);
      SoftcapParams params;
      params.x = device.data();
      params.stride = stride;
      params.rows = rows;
      params.cols = cols;
      params.cap = 30;
      EXPECT_EQ(launch_softcap(params, TestDevice::get().stream()), 0);
      const std::vector<float> found = device.download();
      for (size_t i = 0; i < x.size(); ++i) {
        const bool inside = static_cast<int64_t>(i) % stride < cols;
        const double want = inside ? 30 * std::tanh(static_cast<double>(x[i]) / 30) : x[i];
        EXPECT_EQ(std::isnan(found[i]), std::isnan(want));
        if (!std::isnan(want)) EXPECT_NEAR(found[i], want, inside ? 1e-5 : 0.0);
      }
    }
  }
}

LH_TEST(a_cap_of_zero_is_refused) {
  SoftcapParams params;
  params.rows = params.cols = 1;
  EXPECT_EQ(launch_softcap(params, TestDevice::get().stream()), kInvalidLaunch);
}

LH_TEST_MAIN
