// Speed of the CPU backend's attention: bytes of K and V a second in decode, beside what the same
// threads reach by only reading memory, and floating-point operations a second in prefill.
//
//   attention_bench [--tiny] [--threads N] [--isa NAME] [--dtype f16|bf16|q8]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "attention/attention_work.h"
#include "backend/cpu/attention.h"
#include "backend/cpu/kv_store_convert.h"
#include "backend/cpu/quantized_kv.h"

namespace longhaul {
namespace {

struct Options {
  bool tiny = false;
  int threads = 0;
  std::string isa;
  KvDType dtype = KvDType::kF16;
};

struct Case {
  const char* name;
  int32_t num_kv_heads, group, head_dim;
  int32_t num_sequences, num_rows, first_position;
};

double seconds_now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

struct Spread {
  double median, min, max;
};

// Runs body until it has taken `budget` seconds, at least three times.
template <typename Body>
Spread measure(double budget, const Body& body) {
  body();
  std::vector<double> times;
  for (const double start = seconds_now(); times.size() < 3 || seconds_now() - start < budget;) {
    const double begin = seconds_now();
    body();
    times.push_back(seconds_now() - begin);
  }
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back()};
}

// Bytes a second that the pool reads from a buffer of `bytes`.
double read_bandwidth(cpu::ThreadPool& pool, int64_t bytes, double budget) {
  const std::vector<uint64_t> data(static_cast<size_t>(bytes / 8), 1);
  std::vector<uint64_t> sums(static_cast<size_t>(pool.num_threads()) * 8);
  const Spread time = measure(budget, [&] {
    pool.run([&](int worker) {
      const size_t n = data.size(), threads = static_cast<size_t>(pool.num_threads());
      const size_t begin = n * static_cast<size_t>(worker) / threads / 8 * 8;
      const size_t end = n * static_cast<size_t>(worker + 1) / threads / 8 * 8;
      uint64_t sum[8] = {};
      for (size_t i = begin; i < end; i += 8) {
        for (size_t j = 0; j < 8; ++j) sum[j] += data[i + j];
      }
      sums[static_cast<size_t>(worker) * 8] += std::accumulate(sum, sum + 8, uint64_t{0});
    });
  });
  if (sums[0] == 0) std::abort();  // keeps the reads
  return static_cast<double>(bytes) / time.median;
}

void fill_block(cpu::KvStore& store, int32_t id, std::mt19937& random) {
  const KvLayout& layout = store.layout();
  const auto draw = [&] { return static_cast<float>(random() & 0xffff) / 32768.0f - 1.0f; };
  if (layout.dtype != KvDType::kQ8) {
    auto* data = reinterpret_cast<uint16_t*>(store.block(id));
    for (int64_t i = 0; i < layout.block_bytes() / 2; ++i) {
      data[i] = layout.dtype == KvDType::kBF16 ? cpu::float_to_bf16(draw())
                                               : cpu::float_to_half(draw());
    }
    return;
  }
  std::vector<float> k(static_cast<size_t>(layout.head_dim)), v(k);
  for (int32_t head = 0; head < layout.num_kv_heads; ++head) {
    for (int32_t token = 0; token < layout.block_size; ++token) {
      for (float& x : k) x = draw();
      for (float& x : v) x = draw();
      store_quantized(store, {id, 0, head, token}, k.data(), v.data(), cpu::row_ops_scalar());
    }
  }
}

void run_case(const Case& c, const Options& options, cpu::Isa isa, cpu::ThreadPool& pool,
              double bandwidth) {
  KvLayout layout;
  layout.dtype = options.dtype;
  layout.num_kv_heads = c.num_kv_heads;
  layout.head_dim = c.head_dim;
  layout.layers_per_block = 1;
  const int32_t tokens = c.first_position + c.num_rows;
  const int32_t blocks = (tokens + layout.block_size - 1) / layout.block_size;
  cpu::KvStore store;
  if (!store.create(layout, blocks * c.num_sequences).ok()) std::abort();

  std::mt19937 random(1);
  std::vector<int32_t> ids(static_cast<size_t>(blocks * c.num_sequences));
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), random);
  for (const int32_t id : ids) fill_block(store, id, random);

  AttentionWork work;
  work.block_size = layout.block_size;
  for (int32_t s = 0; s < c.num_sequences; ++s) {
    work.sequences.push_back({s * c.num_rows, c.num_rows, c.first_position,
                              ids.data() + int64_t{s} * blocks, blocks});
  }
  const int32_t num_heads = c.num_kv_heads * c.group;
  build_attention_work(work, {c.num_kv_heads, pool.num_threads(), 4096});
  const int64_t width = int64_t{num_heads} * c.head_dim;
  std::vector<float> q(static_cast<size_t>(c.num_sequences * c.num_rows * width));
  for (float& x : q) x = static_cast<float>(random() & 0xffff) / 32768.0f - 1.0f;
  std::vector<float> out(q.size());

  cpu::AttentionLayerParams params;
  params.work = &work;
  params.q = q.data();
  params.q_stride = params.out_stride = width;
  params.out = out.data();
  params.num_heads = num_heads;
  params.scale = 0.1f;
  cpu::AttentionScratch scratch;
  const Spread time = measure(options.tiny ? 0.0 : 0.4, [&] {
    cpu::attention_layer(params, store, isa, scratch, pool);
  });

  double pairs = 0;
  for (int32_t i = 0; i < c.num_rows; ++i) pairs += c.first_position + i + 1;
  const double flops = 4.0 * c.head_dim * num_heads * pairs * c.num_sequences;
  const double bytes = static_cast<double>(layout.layer_bytes()) / layout.block_size * tokens *
                       c.num_sequences;
  std::printf("%-28s %10.3f ms (%.3f .. %.3f)  %7.1f GFLOP/s", c.name, time.median * 1e3,
              time.min * 1e3, time.max * 1e3, flops / time.median * 1e-9);
  if (c.num_rows == 1) {
    std::printf("  %6.1f GB/s of KV, %3.0f %% of reading", bytes / time.median * 1e-9,
                bytes / time.median / bandwidth * 100);
  }
  std::printf("\n");
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (flag == "--tiny") {
      options.tiny = true;
      continue;
    }
    if (flag == "--threads" && std::atoi(value.c_str()) > 0) {
      options.threads = std::atoi(value.c_str());
    } else if (flag == "--isa") {
      options.isa = value;
    } else if (flag == "--dtype" && kv_dtype_from_name(value)) {
      options.dtype = *kv_dtype_from_name(value);
    } else {
      std::fprintf(stderr, "unknown argument: %s %s\n", flag.c_str(), value.c_str());
      std::exit(2);
    }
    ++i;
  }
  return options;
}

int run(int argc, char** argv) {
  const Options options = parse(argc, argv);
  const Result<cpu::Isa> isa = cpu::choose_isa(options.isa);
  if (!isa.ok()) {
    std::fprintf(stderr, "%s\n", isa.status().message().c_str());
    return 2;
  }
  cpu::ThreadPool pool(options.threads > 0 ? options.threads : cpu::default_threads());
  const double bandwidth =
      read_bandwidth(pool, options.tiny ? 1 << 20 : 512 << 20, options.tiny ? 0.0 : 0.5);
  std::printf("%s, %s, %d threads, kv %s; reading alone: %.1f GB/s\n",
              cpu::cpu_model_name().c_str(), cpu::isa_name(isa.value()), pool.num_threads(),
              kv_dtype_name(options.dtype), bandwidth * 1e-9);

  std::vector<Case> cases;
  if (options.tiny) {
    cases = {{"decode tiny", 2, 3, 64, 2, 1, 600}, {"prefill tiny", 2, 3, 64, 1, 40, 100}};
  } else {
    cases = {
        {"decode 1 x 64k, 3x3x64", 3, 3, 64, 1, 1, 65535},
        {"decode 16 x 4k, 3x3x64", 3, 3, 64, 16, 1, 4095},
        {"decode 1 x 64k, 8x4x128", 8, 4, 128, 1, 1, 65535},
        {"decode 1 x 64k, 4x1x64", 4, 1, 64, 1, 1, 65535},
        {"decode 1 x 32k, 1x4x256", 1, 4, 256, 1, 1, 32767},
        {"decode 1 x 300, 3x3x64", 3, 3, 64, 1, 1, 299},
        {"prefill 512 at 0, 3x3x64", 3, 3, 64, 1, 512, 0},
        {"prefill 512 at 8k, 3x3x64", 3, 3, 64, 1, 512, 8192},
        {"prefill 512 at 8k, 8x4x128", 8, 4, 128, 1, 512, 8192},
        {"prefill 512 at 2k, 1x4x256", 1, 4, 256, 1, 512, 2048},
        {"prefill 512 at 2k, 4x1x64", 4, 1, 64, 1, 512, 2048},
    };
  }
  for (const Case& c : cases) run_case(c, options, isa.value(), pool, bandwidth);
  return 0;
}

}  // namespace
}  // namespace longhaul

int main(int argc, char** argv) { return longhaul::run(argc, argv); }
