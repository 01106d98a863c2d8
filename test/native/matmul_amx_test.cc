// The AMX products have the bits of the scalar ones. On a processor with AVX-512 but without AMX
// the tile instructions run by software (tile_traps.h), everything else as it is.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "backend/cpu/matmul.h"
#include "stored_weights.h"
#include "test.h"
#include "tile_traps.h"

#if LH_HAS_TILE_TRAPS
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/cpu/amx_tiles.h"

using namespace longhaul;
using namespace longhaul::cpu;
using lh_test::Stored;
using lh_test::TileTraps;

namespace {

constexpr int kMaxTokens = 100;
constexpr float kGuard = 12345.0f;
constexpr int kGuards = 5;  // behind each row of results
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Up to 7 tokens go without tiles.
const int kTokenCounts[] = {1, 2, 7, 8, 9, 12, 13, 15, 16, 17, 31, 32, 33, 64, kMaxTokens};
const DType kQuantized[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0,
                            DType::kQ5_1, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

bool traps() { return machine_isa() < Isa::kAmx; }

bool can_run() {
  static const bool can = [] {
    if (machine_isa() >= Isa::kAvx512) return true;
    std::printf("skipped: the AMX products need a processor with AVX-512\n");
    return false;
  }();
  return can;
}

std::vector<float> random_rows(int count, int64_t cols, uint32_t seed) {
  std::vector<float> x(static_cast<size_t>(count * cols));
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (float& value : x) {
    value = normal(random);
    if (random() % 97 == 0) value *= 40.0f;
    if (random() % 31 == 0) value = 0.0f;
  }
  return x;
}

PackedMatrixPtr pack(const std::vector<const Stored*>& parts, bool interleave, ThreadPool& pool) {
  std::vector<TensorView> views;
  for (const Stored* part : parts) views.push_back(part->view());
  auto packed = pack_matrix(views, interleave, pool);
  EXPECT_TRUE(packed.ok());
  return std::move(packed.value());
}

struct Output {
  Epilogue epilogue = Epilogue::kStore;
  float softcap = 0;
  bool gated() const { return epilogue == Epilogue::kSiluMul || epilogue == Epilogue::kGeluMul; }
};

// [tokens][columns + kGuards]
std::vector<float> product(const PackedMatrix& matrix, const std::vector<float>& x, int tokens,
                           const Output& output, Isa isa, ThreadPool& pool,
                           ActivationRows& prepared) {
  const int64_t stride = packed_rows(matrix) / (output.gated() ? 2 : 1) + kGuards;
  std::vector<float> y(static_cast<size_t>(tokens * stride), kGuard);
  const int64_t cols = packed_cols(matrix);
  prepare_rows({x.data(), cols, nullptr, tokens, static_cast<int32_t>(cols), nullptr, 0}, matrix,
               isa, prepared, pool);
  matmul({&matrix, y.data(), stride, output.epilogue, output.softcap}, prepared, isa, pool);
  return y;
}

std::vector<float> product(const PackedMatrix& matrix, const std::vector<float>& x, int tokens,
                           const Output& output, Isa isa, ThreadPool& pool) {
  ActivationRows prepared;
  return product(matrix, x, tokens, output, isa, pool, prepared);
}

// Different bits; guards count too. NaN of any payload are equal.
int64_t count_wrong(const std::vector<float>& y, const std::vector<float>& expected) {
  int64_t wrong = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    if (std::isnan(y[i]) && std::isnan(expected[i])) continue;
    if (std::memcmp(&y[i], &expected[i], 4) != 0) ++wrong;
  }
  return wrong;
}

// Every token count's rows are the first ones of the scalar product of all.
void expect_scalar_bits(const PackedMatrix& matrix, const std::vector<float>& x,
                        const std::vector<int>& token_counts, const Output& output,
                        ThreadPool& pool, const char* what) {
  const int most = *std::max_element(token_counts.begin(), token_counts.end());
  const std::vector<float> expected = product(matrix, x, most, output, Isa::kScalar, pool);
  for (const int tokens : token_counts) {
    const std::vector<float> y = product(matrix, x, tokens, output, Isa::kAmx, pool);
    const int64_t wrong = count_wrong(y, expected);
    if (wrong != 0) {
      std::printf("  %s rows %d cols %d tokens %d: %d of %d wrong\n", what,
                  static_cast<int>(packed_rows(matrix)), static_cast<int>(packed_cols(matrix)),
                  tokens, static_cast<int>(wrong), static_cast<int>(y.size()));
    }
    EXPECT_EQ(wrong, 0);
  }
}

}  // namespace

LH_TEST(tile_instructions) {
  if (!can_run()) return;
  // What the traps do, or the processor, against plain loops: 5 x 3 sums over 7 columns of dwords.
  const TileTraps installed;
  constexpr int kRows = 5, kColumns = 3, kDepth = 7, kStride = 80;
  TileConfig config;
  const auto shape = [&](int tile, int rows, int dwords) {
    config.rows[tile] = static_cast<uint8_t>(rows);
    config.row_bytes[tile] = static_cast<uint16_t>(4 * dwords);
  };
  shape(3, kRows, kColumns);
  shape(6, kRows, kDepth);
  shape(1, kDepth, kColumns);
  int8_t left[kRows][kStride], right[kDepth][kStride];
  std::mt19937 random(3);
  for (auto& row : left) {
    for (int8_t& value : row) value = static_cast<int8_t>(random());
  }
  for (auto& row : right) {
    for (int8_t& value : row) value = static_cast<int8_t>(random());
  }
  int32_t sums[kRows][kStride / 4];
  for (auto& row : sums) std::fill(std::begin(row), std::end(row), 77);
  configure_tiles(config);
  zero_tile<3>();
  load_tile<6>(left, kStride);
  load_tile<1>(right, kStride);
  multiply_tiles_s8<3, 6, 1>();
  multiply_tiles_s8<3, 6, 1>();
  store_tile<3>(sums, kStride);
  release_tiles();
  for (int m = 0; m < kRows; ++m) {
    for (int n = 0; n < kStride / 4; ++n) {
      int expected = 77;  // beyond the tile nothing is written
      if (n < kColumns) {
        expected = 0;
        for (int k = 0; k < 4 * kDepth; ++k) expected += left[m][k] * right[k / 4][4 * n + k % 4];
        expected *= 2;
      }
      EXPECT_EQ(sums[m][n], expected);
    }
  }
}

LH_TEST(tiles_need_a_configuration) {
  if (!can_run()) return;
  const TileTraps installed;
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    const rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    if (std::freopen("/dev/null", "w", stderr) == nullptr) _exit(0);
    zero_tile<0>();
    _exit(0);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
}

LH_TEST(scalar_bits_for_every_dtype_and_shape) {
  if (!can_run()) return;
  const TileTraps installed;
  ThreadPool pool(2);
  uint32_t seed = 500;
  const std::vector<int> counts(std::begin(kTokenCounts), std::end(kTokenCounts));
  for (const DType dtype : kQuantized) {
    const bool super = dtype_info(dtype).block_elements == 256;
    // Chunks of 256 columns with 1, 4 or all of their blocks.
    const std::vector<int64_t> widths =
        super ? std::vector<int64_t>{256, 768} : std::vector<int64_t>{32, 384, 800};
    for (const int64_t cols : widths) {
      // One group that is not full, a full one, three groups: the last strip has one.
      for (const int64_t rows : {3, 16, 41}) {
        const Stored weights(dtype, rows, cols, ++seed);
        expect_scalar_bits(*pack({&weights}, false, pool), random_rows(kMaxTokens, cols, ++seed),
                           counts, {}, pool, dtype_info(dtype).name);
      }
    }
  }
}

LH_TEST(several_tiles_of_tokens) {
  if (!can_run()) return;
  // A worker's tile of tokens ends at 256; enough strips for that.
  const TileTraps installed;
  ThreadPool pool(1);
  const Stored weights(DType::kQ5_0, 128, 64, 91);
  expect_scalar_bits(*pack({&weights}, false, pool), random_rows(300, 64, 92), {256, 257, 300}, {},
                     pool, "Q5_0");
}

LH_TEST(epilogues) {
  if (!can_run()) return;
  const TileTraps installed;
  ThreadPool pool(2);
  for (const DType dtype : {DType::kQ4_0, DType::kQ4_1, DType::kQ6_K}) {
    for (const int64_t rows : {16, 37}) {
      const Stored gate(dtype, rows, 256, 41), up(dtype, rows, 256, 42);
      const PackedMatrixPtr matrix = pack({&gate, &up}, true, pool);
      std::vector<float> x = random_rows(33, 256, 43);
      for (float& value : x) value *= 0.05f;  // keeps gates where activations bend
      for (const Epilogue epilogue : {Epilogue::kStore, Epilogue::kAdd, Epilogue::kSiluMul,
                                      Epilogue::kGeluMul, Epilogue::kSoftcap}) {
        expect_scalar_bits(*matrix, x, {8, 23, 33}, {epilogue, 30.0f}, pool,
                           dtype_info(dtype).name);
      }
    }
  }
}

LH_TEST(parts_of_several_dtypes) {
  if (!can_run()) return;
  const TileTraps installed;
  ThreadPool pool(2);
  const Stored q(DType::kQ4_K, 48, 512, 31), k(DType::kQ6_K, 20, 512, 32),
      v(DType::kF16, 7, 512, 33), g(DType::kQ8_0, 33, 512, 34);
  const PackedMatrixPtr matrix = pack({&q, &k, &v, &g}, false, pool);
  expect_scalar_bits(*matrix, random_rows(40, 512, 35), {7, 19, 40}, {}, pool, "mixed");
}

LH_TEST(extreme_values) {
  if (!can_run()) return;
  // The largest sums of either sign, -128 * 127 in every product, and rows that are not finite.
  const TileTraps installed;
  ThreadPool pool(2);
  Stored low(DType::kQ8_0, 16, 512, 71), high(DType::kQ8_0, 16, 512, 72);
  for (Stored* weights : {&low, &high}) {
    for (int64_t r = 0; r < 16; ++r) {
      for (int64_t block = 0; block < 16; ++block) {
        std::memset(weights->row(r) + block * 34 + 2, weights == &low ? 0x80 : 0x7f, 32);
      }
    }
  }
  const PackedMatrixPtr matrix = pack({&low, &high}, false, pool);
  std::vector<float> x(20 * 512, 3.0f);
  const auto row = [&](int t) { return x.data() + t * 512; };
  std::fill(row(1), row(2), -3.0f);
  row(4)[300] = kNaN;
  row(5)[0] = std::numeric_limits<float>::infinity();
  row(6)[511] = -std::numeric_limits<float>::infinity();
  std::fill(row(7), row(8), 1e-39f);
  std::fill(row(9), row(10), 3e38f);
  std::fill(row(19), row(19) + 512, kNaN);
  expect_scalar_bits(*matrix, x, {8, 10, 20}, {}, pool, "extreme");
  const std::vector<float> y = product(*matrix, x, 20, {}, Isa::kAmx, pool);
  EXPECT_TRUE(std::isfinite(y[0]) && y[0] != 0.0f);
  EXPECT_TRUE(std::isnan(y[4 * (32 + kGuards)]));
}

LH_TEST(rows_left_by_earlier_steps) {
  if (!can_run()) return;
  // Tiles read 16 rows where a step has fewer: what an earlier, larger step left there, NaN scales
  // among it, must not show.
  const TileTraps installed;
  ThreadPool pool(2);
  const Stored weights(DType::kQ4_1, 40, 576, 61);
  const PackedMatrixPtr matrix = pack({&weights}, false, pool);
  const std::vector<float> large(static_cast<size_t>(64 * 576), kNaN);
  const std::vector<float> x = random_rows(33, 576, 62);
  ActivationRows prepared;
  for (const int tokens : {33, 17, 8, 20}) {
    product(*matrix, large, 64, {}, Isa::kAmx, pool, prepared);
    const std::vector<float> y = product(*matrix, x, tokens, {}, Isa::kAmx, pool, prepared);
    EXPECT_EQ(count_wrong(y, product(*matrix, x, tokens, {}, Isa::kScalar, pool)), 0);
  }
}

LH_TEST(every_share_configures_and_releases) {
  if (!can_run()) return;
  const TileTraps installed;
  ThreadPool one(1);
  const Stored weights(DType::kQ5_K, 200, 256, 51), floats(DType::kBF16, 40, 256, 52);
  const std::vector<float> x = random_rows(40, 256, 53);
  const std::vector<float> expected =
      product(*pack({&weights}, false, one), x, 40, {}, Isa::kScalar, one);
  lh_test::TileCounts& counts = TileTraps::counts();
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    const PackedMatrixPtr matrix = pack({&weights}, false, pool);
    const int64_t configures = counts.configures, releases = counts.releases,
                  products = counts.products;
    EXPECT_EQ(count_wrong(product(*matrix, x, 40, {}, Isa::kAmx, pool), expected), 0);
    EXPECT_EQ(TileTraps::tiles().configured, false);
    if (!traps()) continue;
    const int64_t shares = counts.configures - configures;
    EXPECT_TRUE(shares >= 1 && shares <= threads);
    EXPECT_EQ(counts.releases - releases, shares);
    // 7 strips x 3 token tiles x 8 blocks x 2 groups.
    EXPECT_EQ(counts.products - products, 7 * 3 * 8 * 2);
    // Neither few tokens nor float weights touch tiles.
    const int64_t before = counts.configures;
    product(*matrix, x, 7, {}, Isa::kAmx, pool);
    product(*pack({&floats}, false, pool), x, 40, {}, Isa::kAmx, pool);
    EXPECT_EQ(counts.configures.load(), before);
  }
}

#else

LH_TEST(skipped) { std::printf("skipped: the AMX products exist on x86-64 only\n"); }

#endif

LH_TEST_MAIN
