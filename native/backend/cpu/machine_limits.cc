// Loops without memory traffic for the arithmetic, and a loop without arithmetic for the memory.
// The instructions are written as assembly, in independent chains, because a compiler would see
// that nothing uses their results; they run only where isa.h says they may.
#include "backend/cpu/machine_limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "backend/cpu/amx_tiles.h"

namespace longhaul::cpu {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Seconds of one call: the best of three rounds, each at least `seconds` long.
template <typename Body>
double best_time(double seconds, const Body& body) {
  body();
  double best = 1e30;
  for (int round = 0; round < 3; ++round) {
    const double begin = now();
    int calls = 0;
    do {
      body();
      ++calls;
    } while (now() - begin < seconds);
    best = std::min(best, (now() - begin) / calls);
  }
  return best;
}

std::atomic<uint64_t> sink;  // what was read, so that reading cannot be left out

uint64_t sum_of(const uint64_t* words, int64_t count) {
  uint64_t sums[16] = {};
  for (int64_t i = 0; i + 16 <= count; i += 16) {
    for (int j = 0; j < 16; ++j) sums[j] += words[i + j];
  }
  uint64_t sum = 0;
  for (const uint64_t part : sums) sum += part;
  return sum;
}

double read_rate(ThreadPool& pool, const LimitOptions& options) {
  const std::vector<uint64_t> data(options.buffer_bytes / 8, 1);
  const auto count = static_cast<int64_t>(data.size());
  const int64_t n = pool.num_threads();
  const double time = best_time(options.seconds, [&] {
    pool.run([&](int worker) {
      const int64_t begin = count * worker / n, end = count * (worker + 1) / n;
      sink.fetch_add(sum_of(data.data() + begin, end - begin), std::memory_order_relaxed);
    });
  });
  return static_cast<double>(count) * 8 / time;
}

#if defined(__x86_64__)
constexpr int64_t kRounds = 20000;
constexpr int kChains = 12;  // more than latency x throughput of any of these instructions

__attribute__((target("avx512f,avx512vnni"))) void vnni_chains() {
  for (int64_t i = 0; i < kRounds; ++i) {
    __asm__ volatile(
        "vpdpbusd %%zmm30, %%zmm31, %%zmm16\n vpdpbusd %%zmm30, %%zmm31, %%zmm17\n"
        "vpdpbusd %%zmm30, %%zmm31, %%zmm18\n vpdpbusd %%zmm30, %%zmm31, %%zmm19\n"
        "vpdpbusd %%zmm30, %%zmm31, %%zmm20\n vpdpbusd %%zmm30, %%zmm31, %%zmm21\n"
        "vpdpbusd %%zmm30, %%zmm31, %%zmm22\n vpdpbusd %%zmm30, %%zmm31, %%zmm23\n"
        "vpdpbusd %%zmm30, %%zmm31, %%zmm24\n vpdpbusd %%zmm30, %%zmm31, %%zmm25\n"
        "vpdpbusd %%zmm30, %%zmm31, %%zmm26\n vpdpbusd %%zmm30, %%zmm31, %%zmm27\n" ::
            : "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24",
              "xmm25", "xmm26", "xmm27");
  }
}

// Bytes to words, words to sums, sums to the accumulator: what a product costs without VNNI.
#define LONGHAUL_AVX2_CHAIN(n)                     \
  "vpmaddubsw %%ymm14, %%ymm15, %%ymm12\n"         \
  "vpmaddwd %%ymm14, %%ymm12, %%ymm12\n"           \
  "vpaddd %%ymm12, %%ymm" #n ", %%ymm" #n "\n"
__attribute__((target("avx2"))) void avx2_chains() {
  for (int64_t i = 0; i < kRounds; ++i) {
    __asm__ volatile(
        LONGHAUL_AVX2_CHAIN(0) LONGHAUL_AVX2_CHAIN(1) LONGHAUL_AVX2_CHAIN(2)
        LONGHAUL_AVX2_CHAIN(3) LONGHAUL_AVX2_CHAIN(4) LONGHAUL_AVX2_CHAIN(5)
        LONGHAUL_AVX2_CHAIN(6) LONGHAUL_AVX2_CHAIN(7) LONGHAUL_AVX2_CHAIN(8)
        LONGHAUL_AVX2_CHAIN(9) LONGHAUL_AVX2_CHAIN(10) LONGHAUL_AVX2_CHAIN(11) ::
            : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
              "xmm10", "xmm11", "xmm12");
  }
}
#undef LONGHAUL_AVX2_CHAIN

// Four chains of tile products, by two pairs of operands; all tiles have 16 rows of 64 bytes.
constexpr TileConfig kFullTiles = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
constexpr int kTileChains = 4;
constexpr int64_t kTileRounds = kRounds / 10;

template <bool kInt8, int kSums, int kLeft, int kRight>
void tile_product() {
  if constexpr (kInt8) {
    multiply_tiles_s8<kSums, kLeft, kRight>();
  } else {
    multiply_tiles_bf16<kSums, kLeft, kRight>();
  }
}

template <bool kInt8>
void tile_chains() {
  configure_tiles(kFullTiles);  // leaves zeros in all of them
  for (int64_t i = 0; i < kTileRounds; ++i) {
    tile_product<kInt8, 0, 4, 6>();
    tile_product<kInt8, 1, 4, 7>();
    tile_product<kInt8, 2, 5, 6>();
    tile_product<kInt8, 3, 5, 7>();
  }
  release_tiles();
}

// Operations a second of `chains`, which does `operations` of them a call.
double rate(ThreadPool& pool, double seconds, double operations, void (*chains)()) {
  const double time = best_time(seconds, [&] { pool.run([&](int) { chains(); }); });
  return operations * pool.num_threads() / time;
}

// 16 x 16 sums, each of 32 bf16 or 64 int8 products.
double tile_rate(ThreadPool& pool, double seconds, int depth, void (*chains)()) {
  return rate(pool, seconds, 2.0 * kTileRounds * kTileChains * 16 * 16 * depth, chains);
}

double arithmetic_rate(ThreadPool& pool, Isa isa, double seconds) {
  switch (isa) {
    case Isa::kAmx:
      return tile_rate(pool, seconds, 32, tile_chains<false>);
    case Isa::kAvx512:
      return rate(pool, seconds, 2.0 * kRounds * kChains * 64, vnni_chains);
    case Isa::kAvx2:
      return rate(pool, seconds, 2.0 * kRounds * kChains * 32, avx2_chains);
    case Isa::kScalar:
      return 0;
  }
  return 0;
}

double int8_tile_rate(ThreadPool& pool, Isa isa, double seconds) {
  return isa == Isa::kAmx ? tile_rate(pool, seconds, 64, tile_chains<true>) : 0;
}
#else
double arithmetic_rate(ThreadPool&, Isa, double) { return 0; }
double int8_tile_rate(ThreadPool&, Isa, double) { return 0; }
#endif

}  // namespace

MachineLimits measure_limits(ThreadPool& pool, Isa isa, const LimitOptions& options) {
  MachineLimits limits;
  limits.read_bytes_per_second = read_rate(pool, options);
  const Isa level = std::min(isa, machine_isa());
  limits.operations_per_second = arithmetic_rate(pool, level, options.seconds);
  limits.int8_tile_operations_per_second = int8_tile_rate(pool, level, options.seconds);
  return limits;
}

}  // namespace longhaul::cpu
