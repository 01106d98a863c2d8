// copy_blocks against copying one pair after the other.
#include "copy_blocks.h"

#include <random>

#include "device_array.h"

using namespace longhaul::device;
using namespace lh_test;

namespace {

struct CopyCase {
  int64_t block_bytes;
  int32_t num_blocks;
  std::vector<std::pair<int32_t, int32_t>> pairs;
};

std::vector<CopyCase> copy_cases() {
  std::vector<CopyCase> cases = {
      {16, 2, {}},
      {16, 2, {{0, 1}}},
      {4096 + 16, 4, {{0, 1}, {1, 2}, {2, 3}}},      // each reads what the one before wrote
      {16384, 5, {{4, 0}, {3, 4}, {0, 3}, {2, 2}}},  // a swap through a third block
      {3 * 16384 + 2064, 3, {{2, 0}, {1, 2}}},
  };
  std::mt19937 random(1);
  CopyCase fuzz{2 * 16384 + 48, 13, {}};
  for (int i = 0; i < 40; ++i) {
    const auto from = static_cast<int32_t>(random() % 13);
    fuzz.pairs.push_back({from, static_cast<int32_t>(random() % 13)});
  }
  cases.push_back(fuzz);
  return cases;
}

}  // namespace

LH_TEST(pairs_take_effect_one_after_the_other) {
  for (const CopyCase& c : copy_cases()) {
    std::mt19937 random(7);
    std::vector<uint8_t> pool(static_cast<size_t>(c.block_bytes * c.num_blocks));
    for (uint8_t& byte : pool) byte = static_cast<uint8_t>(random());
    std::vector<int32_t> pairs;
    for (const auto& [from, to] : c.pairs) pairs.insert(pairs.end(), {from, to});
    DeviceArray<uint8_t> pool_device(pool);
    DeviceArray<int32_t> pairs_device(pairs);
    CopyBlocksParams params;
    params.pool = reinterpret_cast<std::byte*>(pool_device.data());
    params.block_bytes = c.block_bytes;
    params.pairs = pairs_device.data();
    params.num_pairs = static_cast<int32_t>(c.pairs.size());
    EXPECT_EQ(launch_copy_blocks(params, TestDevice::get().stream()), 0);
    for (const auto& [from, to] : c.pairs) {
      std::memmove(&pool[static_cast<size_t>(to * c.block_bytes)],
                   &pool[static_cast<size_t>(from * c.block_bytes)],
                   static_cast<size_t>(c.block_bytes));
    }
    EXPECT_TRUE(pool_device.download() == pool);
  }
}

LH_TEST(blocks_of_odd_size_are_refused) {
  CopyBlocksParams params;
  params.block_bytes = 24;
  params.num_pairs = 1;
  EXPECT_EQ(launch_copy_blocks(params, TestDevice::get().stream()), kInvalidLaunch);
}

LH_TEST_MAIN
