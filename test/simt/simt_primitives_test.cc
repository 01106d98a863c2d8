// Warp primitives and matrix fragments against their definitions. Fragment layouts are written
// here as the PTX ISA writes them, by element number i of a lane's registers.
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "simt/launch_probe.h"

namespace {

using namespace longhaul::device;
using namespace simt_probe;

uint32_t id() { return threadIdx.x; }

LH_TEST(shuffles) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    int32_t got[64][8] = {};
    double wide[64] = {};
    EXPECT_CLEAN(run(seed, 64, 0, [&] {
      const auto v = static_cast<int32_t>(id() * 10);
      int32_t* const g = got[id()];
      g[0] = warp_shuffle(v, 7);
      g[1] = warp_shuffle(v, static_cast<int>((id() + 3) % 32));
      g[2] = warp_shuffle(v, 39);  // modulo 32
      g[3] = warp_shuffle_xor(v, 5);
      g[4] = warp_shuffle_down(v, 4);
      g[5] = warp_shuffle_up(v, 4);
      g[6] = static_cast<int32_t>(warp_ballot(id() % 3 == 0));
      g[7] = (warp_any(id() == 35) ? 1 : 0) + (warp_all(id() < 32) ? 2 : 0);
      wide[id()] = warp_shuffle_xor(id() + 0.25, 1);
    }));
    for (int t = 0; t < 64; ++t) {
      const int base = t & ~31, lane = t & 31;
      EXPECT_EQ(got[t][0], (base + 7) * 10);
      EXPECT_EQ(got[t][1], (base + (t + 3) % 32) * 10);
      EXPECT_EQ(got[t][2], (base + 7) * 10);
      EXPECT_EQ(got[t][3], (base + (lane ^ 5)) * 10);
      EXPECT_EQ(got[t][4], (lane + 4 > 31 ? t : t + 4) * 10);
      EXPECT_EQ(got[t][5], (lane < 4 ? t : t - 4) * 10);
      uint32_t ballot = 0;
      for (int l = 0; l < 32; ++l) ballot |= ((base + l) % 3 == 0 ? 1u : 0u) << l;
      EXPECT_EQ(static_cast<uint32_t>(got[t][6]), ballot);
      EXPECT_EQ(got[t][7], base == 0 ? 2 : 1);
      EXPECT_EQ(wide[t], (t ^ 1) + 0.25);
    }
  }
}

LH_TEST(a_wrong_lane_gives_another_result) {
  int32_t right[32], wrong[32];
  EXPECT_CLEAN(run(1, 32, 0, [&] {
    right[id()] = warp_shuffle(static_cast<int32_t>(id()), static_cast<int>(id() ^ 1));
    wrong[id()] = warp_shuffle(static_cast<int32_t>(id()), static_cast<int>(id() ^ 2));
  }));
  for (int l = 0; l < 32; ++l) EXPECT_TRUE(right[l] == (l ^ 1) && wrong[l] == (l ^ 2));
}

// Bit for bit the sum and maximum that exchanging by xor 16, 8, 4, 2, 1 gives.
LH_TEST(sums_and_maxima_keep_the_order_of_exchange) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  float x[32], sum[32], by_hand[32], max[32];
  for (float& v : x) v = normal(random) * std::exp(4 * normal(random));
  EXPECT_CLEAN(run(1, 32, 0, [&] {
    float v = x[id()];
    sum[id()] = warp_sum(v);
    max[id()] = warp_max(v);
    for (int mask = 16; mask > 0; mask /= 2) v += warp_shuffle_xor(v, mask);
    by_hand[id()] = v;
  }));
  EXPECT_EQ(std::memcmp(sum, by_hand, sizeof(sum)), 0);
  float largest = x[0];
  for (const float v : x) largest = std::max(largest, v);
  for (const float v : max) EXPECT_EQ(v, largest);
}

// ---- mma

uint16_t random_bits(std::mt19937& random, bool is_f16) {
  const float value = std::normal_distribution<float>()(random);
  return is_f16 ? from_float<f16>(value).bits : from_float<bf16>(value).bits;
}

template <typename T>
void mma_follows_the_manual() {
  std::mt19937 random(1);
  for (int round = 0; round < 10; ++round) {
    T a[16][16], b[16][8];
    float c[16][8], expected[16][8], found[16][8];
    for (auto& row : a)
      for (T& v : row) v.bits = random_bits(random, std::is_same_v<T, f16>);
    for (auto& row : b)
      for (T& v : row) v.bits = random_bits(random, std::is_same_v<T, f16>);
    for (auto& row : c)
      for (float& v : row) v = std::normal_distribution<float>()(random);
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 8; ++j) {
        float sum = c[i][j];
        for (int k = 0; k < 16; ++k) sum += to_float(a[i][k]) * to_float(b[k][j]);
        expected[i][j] = sum;
      }
    }
    EXPECT_CLEAN(run(static_cast<uint64_t>(round), 32, 0, [&] {
      const int group = static_cast<int>(id() / 4), in_group = static_cast<int>(id() % 4);
      uint16_t a_i[8], b_i[4];
      float c_i[4];
      for (int i = 0; i < 8; ++i) {
        const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
        const int column = in_group * 2 + (i & 1) + (i < 4 ? 0 : 8);
        a_i[i] = a[row][column].bits;
      }
      for (int i = 0; i < 4; ++i) b_i[i] = b[in_group * 2 + (i & 1) + (i < 2 ? 0 : 8)][group].bits;
      for (int i = 0; i < 4; ++i) c_i[i] = c[i < 2 ? group : group + 8][in_group * 2 + (i & 1)];
      uint32_t a_registers[4], b_registers[2];
      std::memcpy(a_registers, a_i, 16);
      std::memcpy(b_registers, b_i, 8);
      mma_16816<T>(c_i, a_registers, b_registers);
      for (int i = 0; i < 4; ++i) found[i < 2 ? group : group + 8][in_group * 2 + (i & 1)] = c_i[i];
    }));
    EXPECT_EQ(std::memcmp(found, expected, sizeof(found)), 0);
  }
}
LH_TEST(mma_f16) { mma_follows_the_manual<f16>(); }
LH_TEST(mma_bf16) { mma_follows_the_manual<bf16>(); }

LH_TEST(mma_s8) {
  std::mt19937 random(2);
  int8_t a[16][32], b[32][8];
  int32_t c[16][8], found[16][8];
  for (auto& row : a)
    for (int8_t& v : row) v = static_cast<int8_t>(random());
  for (auto& row : b)
    for (int8_t& v : row) v = static_cast<int8_t>(random());
  for (auto& row : c)
    for (int32_t& v : row) v = static_cast<int32_t>(random() % 100000) - 50000;
  EXPECT_CLEAN(run(1, 32, 0, [&] {
    const int group = static_cast<int>(id() / 4), in_group = static_cast<int>(id() % 4);
    int8_t a_i[16], b_i[8];
    int32_t c_i[4];
    for (int i = 0; i < 16; ++i) {
      const int row = i < 4 || (i >= 8 && i < 12) ? group : group + 8;
      a_i[i] = a[row][in_group * 4 + (i & 3) + (i < 8 ? 0 : 16)];
    }
    for (int i = 0; i < 8; ++i) b_i[i] = b[in_group * 4 + (i & 3) + (i < 4 ? 0 : 16)][group];
    for (int i = 0; i < 4; ++i) c_i[i] = c[i < 2 ? group : group + 8][in_group * 2 + (i & 1)];
    uint32_t a_registers[4], b_registers[2];
    std::memcpy(a_registers, a_i, 16);
    std::memcpy(b_registers, b_i, 8);
    mma_16832_s8(c_i, a_registers, b_registers);
    for (int i = 0; i < 4; ++i) found[i < 2 ? group : group + 8][in_group * 2 + (i & 1)] = c_i[i];
  }));
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      int32_t sum = c[i][j];
      for (int k = 0; k < 32; ++k) sum += a[i][k] * b[k][j];
      EXPECT_EQ(found[i][j], sum);
    }
  }
}

// ---- ldmatrix: thread t holds elements 2 (t % 4) and + 1 of row t / 4; of column t / 4 if .trans.

LH_TEST(load_matrix) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    uint32_t four[32][4], four_trans[32][4], two[32][2], two_trans[32][2];
    // 32 rows of 8 elements, row r at 48 r; element value 8 r + column.
    EXPECT_CLEAN(run(seed, 32, 32 * 48, [&] {
      Shared<std::byte> s = dynamic_shared<std::byte>();
      Shared<uint16_t> row = shared_cast<uint16_t>(s + 48 * id());
      for (uint32_t i = 0; i < 8; ++i) row[i] = static_cast<uint16_t>(8 * id() + i);
      warp_sync();
      load_matrix_x4(four[id()], s + 48 * id());
      load_matrix_x4_trans(four_trans[id()], s + 48 * id());
      // The upper lanes' addresses are not used: a wild one is fine.
      load_matrix_x2(two[id()], id() < 16 ? s + 48 * id() : s + 100000);
      load_matrix_x2_trans(two_trans[id()], id() < 16 ? s + 48 * id() : s + 100000);
    }));
    for (uint32_t t = 0; t < 32; ++t) {
      for (uint32_t m = 0; m < 4; ++m) {
        const uint32_t first = 8 * (8 * m + t / 4) + 2 * (t % 4);
        EXPECT_EQ(four[t][m], first | (first + 1) << 16);
        const uint32_t top = 8 * (8 * m + 2 * (t % 4)) + t / 4;
        EXPECT_EQ(four_trans[t][m], top | (top + 8) << 16);
        if (m < 2) {
          EXPECT_EQ(two[t][m], four[t][m]);
          EXPECT_EQ(two_trans[t][m], four_trans[t][m]);
        }
      }
    }
  }
}

// ---- pointers

LH_TEST(shared_pointers) {
  EXPECT_CLEAN(run(1, 32, 1024, [] {
    if (id() != 0) return;
    Shared<int32_t> p = dynamic_shared<int32_t>();
    for (int i = 0; i < 16; ++i) p[i] = i;
    Shared<int32_t> q = p + 3;
    EXPECT_EQ(q - p, 3);
    EXPECT_TRUE(p < q && p != q && q == 3 + (q - 3));
    EXPECT_EQ(*q + 0, 3);
    q += 2;
    *q = *p;
    EXPECT_EQ(p[5] + 0, 0);
    p[6] += 4;
    p[6] -= 1;
    p[6] *= 3;
    EXPECT_EQ(p[6] + 0, 27);
    Shared<const int32_t> r = p;
    EXPECT_EQ(r[p[2]] + 0, 2);
    const float4 four{1, 2, 3, 4};
    shared_cast<float4>(p)[2] = four;
    const float4 back = shared_cast<float4>(p)[2];
    EXPECT_EQ(back.w, 4.0f);
    EXPECT_EQ(shared_cast<float>(p)[9] * 2.0f, 4.0f);
  }));
}

}  // namespace

LH_TEST_MAIN
