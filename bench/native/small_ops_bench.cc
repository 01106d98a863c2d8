// Speed of what a step does besides products and attention: norms, activations, rotations, storing
// K and V, reading embeddings, drawing tokens; and of packing weights at load.
//
//   small_ops_bench [--tiny] [--isa NAME] [--threads N]
//
// One thread, but for packing. GB/s count the bytes an operation must read and write. Operations on
// rows find them in the cache: their limit is a copy of as many bytes that lie there too. Logits and
// weights come from memory: their limit is the measured read bandwidth of as many threads.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/machine_limits.h"
#include "backend/cpu/matmul.h"
#include "backend/cpu/small_ops.h"
#include "load/random_tensor.h"
#include "sampler/sampler.h"

namespace longhaul {
namespace {

struct Options {
  bool tiny = false;
  int threads = 0;
  std::string isa;
};

double seconds_now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

// Median seconds of one call: batches of calls for at least `budget` seconds.
template <typename Body>
double measure(double budget, const Body& body) {
  body();
  int calls = 1;
  for (;;) {  // calls that fill a hundredth of a millisecond: the clock's own cost disappears
    const double begin = seconds_now();
    for (int i = 0; i < calls; ++i) body();
    if (seconds_now() - begin > 1e-5 || calls > 1 << 20) break;
    calls *= 2;
  }
  std::vector<double> times;
  for (const double start = seconds_now(); times.size() < 3 || seconds_now() - start < budget;) {
    const double begin = seconds_now();
    for (int i = 0; i < calls; ++i) body();
    times.push_back((seconds_now() - begin) / calls);
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                   times.end());
  return times[times.size() / 2];
}

class Bench {
 public:
  Bench(const Options& options, cpu::Isa isa)
      : tiny_(options.tiny),
        budget_(options.tiny ? 0.002 : 0.2),
        ops_(cpu::row_ops(isa)),
        one_(1),
        pool_(options.threads > 0 ? options.threads : cpu::default_threads()) {
    cpu::LimitOptions limits;
    if (tiny_) limits = {size_t{1} << 20, 0.002};
    read_one_ = cpu::measure_limits(one_, isa, limits).read_bytes_per_second;
    read_all_ = cpu::measure_limits(pool_, isa, limits).read_bytes_per_second;
  }

  void rows(int32_t size) {
    const int64_t n = size;
    std::vector<float> x = floats(n), y = floats(n), weight = floats(n), out(x.size());
    const double copied = measure(budget_, [&] {
      std::memcpy(out.data(), x.data(), x.size() * sizeof(float));
      keep(out.data());
    });
    cache_limit_ = static_cast<double>(8 * n) / copied;
    std::printf("rows of %d floats\n", size);
    row("rms_norm", 12 * n, [&] { ops_.rms_norm(x.data(), weight.data(), 1e-5f, size, out.data()); });
    row("rms_norm_add", 16 * n, [&] {
      ops_.rms_norm_add(x.data(), weight.data(), 1e-5f, size, out.data());
    });
    row("add", 12 * n, [&] { ops_.add(x.data(), size, out.data()); });
    row("silu_mul", 12 * n, [&] { ops_.silu_mul(x.data(), y.data(), size, out.data()); });
    row("gelu_mul", 12 * n, [&] { ops_.gelu_mul(x.data(), y.data(), size, out.data()); });
  }

  void heads(int32_t head_dim) {
    const int32_t half = head_dim / 2, block = 32;
    std::vector<float> head = floats(head_dim), cos(static_cast<size_t>(half)), sin(cos);
    for (int32_t i = 0; i < half; ++i) {  // a rotation keeps the values' size, however often
      cos[static_cast<size_t>(i)] = 0.6f;
      sin[static_cast<size_t>(i)] = 0.8f;
    }
    std::vector<uint16_t> stored(static_cast<size_t>(head_dim) * block);
    std::printf("heads of %d channels\n", head_dim);
    row("rotate_halves", 12 * head_dim, [&] {
      ops_.rotate_halves(head.data(), cos.data(), sin.data(), half);
    });
    row("rotate_interleaved", 12 * head_dim, [&] {
      ops_.rotate_interleaved(head.data(), cos.data(), sin.data(), half);
    });
    int32_t token = 0;
    row("store_key", 6 * head_dim, [&] {
      ops_.store_key(head.data(), head_dim, true, token, stored.data());
      token = (token + 1) % block;
    });
    row("store_value", 6 * head_dim, [&] {
      ops_.store_value(head.data(), head_dim, true, block, token, stored.data());
      token = (token + 1) % block;
    });
  }

  void sampling(int32_t vocab_size) {
    // Several rows, so that logits come from where a step's product left them: not the first cache.
    constexpr int kRows = 8;
    std::vector<float> flat = floats(int64_t{kRows} * vocab_size);
    for (float& x : flat) x *= 4;
    // As models mostly are: a few dozen tokens hold nearly all of the probability.
    std::vector<float> peaked = flat;
    for (int64_t i = 0; i < int64_t{kRows} * 32; ++i) {
      peaked[static_cast<size_t>(i / 32 * vocab_size + i * 97 % vocab_size)] =
          16.0f - static_cast<float>(i % 32) / 8;
    }
    std::printf("drawing from %d logits\n", vocab_size);
    std::vector<float>* from = &peaked;
    const auto draw = [&](const char* name, const SamplingParams& params, int num_top) {
      std::vector<float>& logits = *from;
      std::vector<TokenLogprob> top(static_cast<size_t>(num_top));
      TokenLogprob token;
      bool finite = true;
      int at = 0;
      SampleRow sample;
      sample.params = &params;
      sample.token = &token;
      sample.finite = &finite;
      sample.num_top = num_top;
      sample.top = num_top > 0 ? top.data() : nullptr;
      line(name, 4 * vocab_size, read_one_, [&] {
        sample.position = at;
        sample_row(logits.data() + int64_t{at % kRows} * vocab_size, vocab_size, sample);
        ++at;
      });
      if (token.token_id < 0 || !finite) std::abort();
    };
    SamplingParams params;
    params.temperature = 0;
    draw("greedy", params, 0);
    params.temperature = 0.8f;
    draw("temperature", params, 0);
    params.top_p = 0.9f;
    draw("top_p 0.9", params, 0);
    from = &flat;
    draw("top_p 0.9, flat", params, 0);
    from = &peaked;
    params.top_k = 40;
    draw("top_k 40, top_p 0.9", params, 0);
    params.num_logprobs = 5;
    draw("5 log-probabilities", params, 5);
  }

  void weights(DType dtype, int64_t num_rows, int64_t num_cols) {
    RandomTensor request;
    request.dtype = dtype;
    request.rows = num_rows;
    request.cols = num_cols;
    request.seed = 1;
    auto bytes = make_random_tensor(request);
    if (!bytes.ok()) std::abort();
    TensorView view;
    view.name = "weight";
    view.dtype = dtype;
    view.rows = num_rows;
    view.cols = num_cols;
    view.data = bytes.value().get();
    const int64_t size = num_rows * row_bytes(dtype, num_cols);
    std::printf("%s weights, %lld x %lld\n", dtype_info(dtype).name,
                static_cast<long long>(num_rows), static_cast<long long>(num_cols));
    line("pack (all threads)", 2 * size, read_all_,
         [&] { keep(cpu::pack_matrix({&view, 1}, false, pool_).value().get()); });
    const auto packed = cpu::pack_matrix({&view, 1}, false, pool_);
    std::vector<float> out(static_cast<size_t>(num_cols));
    std::mt19937 random(1);
    line("read one row", row_bytes(dtype, num_cols) + 4 * num_cols, read_one_, [&] {
      cpu::gather_row(*packed.value(), static_cast<int64_t>(random()) % num_rows, 1.0f, out.data());
      keep(out.data());
    });
  }

  bool tiny() const { return tiny_; }

 private:
  static std::vector<float> floats(int64_t count) {
    std::mt19937 random(static_cast<uint32_t>(count));
    std::vector<float> out(static_cast<size_t>(count));
    for (float& x : out) x = static_cast<float>(random() & 0xffff) / 32768.0f - 1.0f;
    return out;
  }

  // The compiler must assume that the bytes behind `data` are read and changed here.
  static void keep(const void* data) { __asm__ volatile("" : : "r"(data) : "memory"); }

  template <typename Body>
  void row(const char* name, int64_t bytes, const Body& body) {
    line(name, bytes, cache_limit_, body);
  }

  template <typename Body>
  void line(const char* name, int64_t bytes, double limit, const Body& body) {
    const double seconds = measure(budget_, body);
    const double rate = static_cast<double>(bytes) / seconds;
    std::printf("  %-20s %10.2f us %8.2f GB/s of %.1f (%.0f %%)\n", name, seconds * 1e6, rate / 1e9,
                limit / 1e9, 100 * rate / limit);
  }

  bool tiny_;
  double budget_;
  const cpu::RowOps& ops_;
  cpu::ThreadPool one_, pool_;
  double read_one_ = 0, read_all_ = 0, cache_limit_ = 0;
};

int run(const Options& options) {
  const auto isa = cpu::choose_isa(options.isa);
  if (!isa.ok()) {
    std::fprintf(stderr, "%s\n", isa.status().message().c_str());
    return 2;
  }
  std::printf("%s\n", cpu::isa_name(isa.value()));
  Bench bench(options, isa.value());
  if (bench.tiny()) {
    bench.rows(64);
    bench.heads(32);
    bench.sampling(500);
    bench.weights(DType::kQ4_1, 64, 256);
    return 0;
  }
  for (const int32_t size : {576, 2048, 8192}) bench.rows(size);
  for (const int32_t head_dim : {64, 128, 256}) bench.heads(head_dim);
  for (const int32_t vocab_size : {49152, 262144}) bench.sampling(vocab_size);
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ4_K, DType::kQ6_K,
                            DType::kBF16}) {
    bench.weights(dtype, 32768, 2048);
  }
  return 0;
}

}  // namespace
}  // namespace longhaul

int main(int argc, char** argv) {
  longhaul::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--tiny") {
      options.tiny = true;
    } else if (flag == "--isa" && i + 1 < argc) {
      options.isa = argv[++i];
    } else if (flag == "--threads" && i + 1 < argc) {
      options.threads = std::atoi(argv[++i]);
    } else {
      std::fprintf(stderr, "usage: small_ops_bench [--tiny] [--isa NAME] [--threads N]\n");
      return 2;
    }
  }
  return longhaul::run(options);
}
