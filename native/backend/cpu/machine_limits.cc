// Loops without memory traffic for the arithmetic, and a loop without arithmetic for the memory.
// The instructions are written out, in independent chains, because a compiler would see that
// nothing uses their results; they run only where isa.h says they may.
#include "backend/cpu/machine_limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

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

// All eight tiles at 16 rows of 64 bytes (palette 1): four accumulators, two pairs of operands.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

constexpr int kTiles = 4;
void amx_chains() {
  static const TileConfig config;
  __asm__ volatile(
      "ldtilecfg %0\n"
      "tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n"
      "tilezero %%tmm4\n tilezero %%tmm5\n tilezero %%tmm6\n tilezero %%tmm7\n" ::"m"(config));
  for (int64_t i = 0; i < kRounds / 10; ++i) {
    __asm__ volatile(
        "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n"
        "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n tdpbf16ps %%tmm7, %%tmm5, %%tmm3\n" ::);
  }
  __asm__ volatile("tilerelease\n" ::);
}

// Operations a second of `chains`, which does `operations` of them a call.
double rate(ThreadPool& pool, double seconds, double operations, void (*chains)()) {
  const double time = best_time(seconds, [&] { pool.run([&](int) { chains(); }); });
  return operations * pool.num_threads() / time;
}

double arithmetic_rate(ThreadPool& pool, Isa isa, double seconds) {
  switch (isa) {
    case Isa::kAmx:  // a tile product: 16 x 16 sums of 32 bf16 products
      return rate(pool, seconds, 2.0 * (kRounds / 10) * kTiles * 16 * 16 * 32, amx_chains);
    case Isa::kAvx512:
      return rate(pool, seconds, 2.0 * kRounds * kChains * 64, vnni_chains);
    case Isa::kAvx2:
      return rate(pool, seconds, 2.0 * kRounds * kChains * 32, avx2_chains);
    case Isa::kScalar:
      return 0;
  }
  return 0;
}
#else
double arithmetic_rate(ThreadPool&, Isa, double) { return 0; }
#endif

}  // namespace

MachineLimits measure_limits(ThreadPool& pool, Isa isa, const LimitOptions& options) {
  MachineLimits limits;
  limits.read_bytes_per_second = read_rate(pool, options);
  limits.operations_per_second =
      arithmetic_rate(pool, std::min(isa, machine_isa()), options.seconds);
  return limits;
}

}  // namespace longhaul::cpu
