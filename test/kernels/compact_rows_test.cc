// compact_rows against copying row by row.
#include "compact_rows.h"

#include <random>

#include "device_array.h"

using namespace longhaul::device;
using namespace lh_test;

LH_TEST(kept_rows_move_up_and_others_stay) {
  std::mt19937 random(3);
  for (const int32_t cols : {1, 31, 32, 33, 100, 576}) {
    for (const int32_t rows : {0, 1, 7, 8, 9, 40}) {
      for (const int drop : {0, 1, 2}) {  // none, some, the first ones
        const int64_t stride = cols + 3;
        std::vector<float> x(static_cast<size_t>(rows * stride));
        for (float& value : x) value = static_cast<float>(random());
        std::vector<int32_t> keep;
        for (int32_t row = 0; row < rows; ++row) {
          const bool dropped = drop == 1 ? random() % 3 == 0 : drop == 2 && row < 5;
          if (!dropped) keep.push_back(row);
        }
        DeviceArray<float> x_device(x);
        DeviceArray<int32_t> keep_device(keep);
        CompactRowsParams params;
        params.x = x_device.data();
        params.stride = stride;
        params.cols = cols;
        params.keep = keep_device.data();
        params.rows = static_cast<int32_t>(keep.size());
        EXPECT_EQ(launch_compact_rows(params, TestDevice::get().stream()), 0);
        for (size_t i = 0; i < keep.size(); ++i) {
          std::memmove(&x[i * static_cast<size_t>(stride)],
                       &x[static_cast<size_t>(keep[i] * stride)],
                       static_cast<size_t>(cols) * sizeof(float));
        }
        EXPECT_TRUE(x_device.download() == x);
      }
    }
  }
}

LH_TEST_MAIN
