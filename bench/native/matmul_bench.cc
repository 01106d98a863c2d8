// Speed of the CPU matrix products, beside what the machine can do (machine_limits.h): GB/s of
// weights read by a decode step next to the measured read bandwidth, and GMAC/s (multiply-adds,
// half as many as operations) of a prefill step next to the measured rate of the level's widest
// product. Prints a table; --tiny runs small shapes in under a second, to show that everything
// works; --isa NAME and --threads N choose the path.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/isa.h"
#include "backend/cpu/machine_limits.h"
#include "backend/cpu/matmul.h"
#include "backend/cpu/thread_pool.h"

using namespace longhaul;
using namespace longhaul::cpu;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Best of a few rounds, each at least `seconds` long: seconds of one call.
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

struct Shape {
  DType dtype;
  int64_t rows, cols;
};

std::vector<uint8_t> random_weights(const Shape& shape) {
  std::vector<uint8_t> bytes(static_cast<size_t>(shape.rows * row_bytes(shape.dtype, shape.cols)));
  std::mt19937 random(1);
  // Bytes below 0x40 keep every float and f16 field finite.
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() & 0x3f);
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  bool tiny = false;
  std::string limit;
  int threads = default_threads();
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--tiny") == 0) {
      tiny = true;
    } else if (std::strcmp(argv[i], "--isa") == 0 && i + 1 < argc) {
      limit = argv[++i];
    } else if (std::strcmp(argv[i], "--threads") == 0 && i + 1 < argc) {
      threads = std::max(1, std::atoi(argv[++i]));
    } else {
      std::fprintf(stderr, "usage: matmul_bench [--tiny] [--isa NAME] [--threads N]\n");
      return 2;
    }
  }
  const Result<Isa> chosen = choose_isa(limit);
  if (!chosen.ok()) {
    std::fprintf(stderr, "%s\n", chosen.status().message().c_str());
    return 2;
  }
  const Isa isa = chosen.value();
  ThreadPool pool(threads);
  const double seconds = tiny ? 0.001 : 0.15;
  LimitOptions effort;
  effort.seconds = seconds;
  if (tiny) effort.buffer_bytes = size_t{1} << 20;
  const MachineLimits limits = measure_limits(pool, isa, effort);
  const double bandwidth = limits.read_bytes_per_second;
  const double peak = limits.operations_per_second / 2;
  std::printf("%s, %s, %d threads: read %.1f GB/s, peak %.0f GMAC/s", cpu_model_name().c_str(),
              isa_name(isa), threads, bandwidth / 1e9, peak / 1e9);
  if (limits.int8_tile_operations_per_second > 0) {
    std::printf(" (bf16 tiles, or int8 of 32 columns; %.0f with int8 of 64)",
                limits.int8_tile_operations_per_second / 2e9);
  }
  std::printf("\n");
  std::printf("%-5s %6s %5s %4s  %9s %7s %9s %6s\n", "type", "rows", "cols", "M", "us", "GB/s",
              "GMAC/s", "share");

  std::vector<Shape> shapes = {{DType::kQ4_1, 1536, 576},  {DType::kQ4_0, 8192, 2048},
                               {DType::kQ4_1, 8192, 2048}, {DType::kQ8_0, 8192, 2048},
                               {DType::kQ5_0, 8192, 2048}, {DType::kQ4_K, 8192, 2048},
                               {DType::kQ5_K, 8192, 2048}, {DType::kQ6_K, 8192, 2048},
                               {DType::kBF16, 8192, 2048}, {DType::kF16, 8192, 2048}};
  std::vector<int> counts = {1, 4, 8, 16, 32, 64, 512};
  if (tiny) {
    shapes = {{DType::kQ4_1, 64, 256},
              {DType::kQ4_0, 64, 256},
              {DType::kQ8_0, 64, 256},
              {DType::kQ6_K, 64, 256},
              {DType::kBF16, 64, 256}};
    counts = {1, 16};
  }
  for (const Shape& shape : shapes) {
    const std::vector<uint8_t> bytes = random_weights(shape);
    // Decode is only a bandwidth test when the weights do not fit in caches: use several copies.
    const int64_t one = shape.rows * row_bytes(shape.dtype, shape.cols);
    const int64_t copies = tiny ? 1 : std::max<int64_t>(1, (int64_t{160} << 20) / one);
    std::vector<PackedMatrixPtr> matrices;
    for (int64_t i = 0; i < copies; ++i) {
      TensorView view;
      view.name = "w";
      view.dtype = shape.dtype;
      view.rows = shape.rows;
      view.cols = shape.cols;
      view.data = reinterpret_cast<const std::byte*>(bytes.data());
      auto packed = pack_matrix({&view, 1}, false, pool);
      if (!packed.ok()) {
        std::fprintf(stderr, "%s\n", packed.status().message().c_str());
        return 1;
      }
      matrices.push_back(std::move(packed.value()));
    }
    for (const int tokens : counts) {
      std::vector<float> x(static_cast<size_t>(tokens * shape.cols)),
          norm(static_cast<size_t>(shape.cols), 1.0f);
      std::vector<float> y(static_cast<size_t>(tokens * shape.rows));
      std::mt19937 random(2);
      for (float& value : x) value = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
      ActivationRows prepared;
      size_t turn = 0;
      const double time = best_time(seconds, [&] {
        const PackedMatrix& matrix = *matrices[turn++ % matrices.size()];
        prepare_rows({x.data(), shape.cols, nullptr, tokens, static_cast<int32_t>(shape.cols),
                      norm.data(), 1e-5f},
                     matrix, isa, prepared, pool);
        matmul({&matrix, y.data(), shape.rows, Epilogue::kStore, 0}, prepared, isa, pool);
      });
      const double rate = static_cast<double>(packed_bytes(*matrices[0])) / time;
      const double macs = static_cast<double>(tokens * shape.rows * shape.cols) / time;
      const double share = tokens <= 8 ? rate / bandwidth : peak > 0 ? macs / peak : 0;
      std::printf("%-5s %6d %5d %4d  %9.1f %7.1f %9.1f %5.0f%% of %s\n",
                  dtype_info(shape.dtype).name, static_cast<int>(shape.rows),
                  static_cast<int>(shape.cols), tokens, time * 1e6, rate / 1e9, macs / 1e9,
                  share * 100, tokens <= 8 ? "bandwidth" : "peak");
      std::fflush(stdout);
    }
  }
  return 0;
}
