// The CPU backend's operations: against double precision, and bit for bit over row counts,
// threads and instruction sets. Cache contents are checked number by number.
#include "backend/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "backend/cpu/kv_store_convert.h"
#include "backend/cpu/rope.h"
#include "test.h"

namespace longhaul {
namespace {

using cpu::Isa;

std::vector<Isa> isas() {
  std::vector<Isa> list;
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (isa <= cpu::machine_isa()) list.push_back(isa);
  }
  return list;
}

std::unique_ptr<Backend> backend_of(Isa isa, int threads = 1) {
  Result<std::unique_ptr<Backend>> backend = make_cpu_backend({threads, cpu::isa_name(isa)});
  EXPECT_TRUE(backend.ok());
  return std::move(backend.value());
}

// Random f32 tensors that stay alive.
class Weights {
 public:
  explicit Weights(uint32_t seed) : random_(seed) {}
  TensorView make(int64_t rows, int64_t cols, float size = 1.0f, float offset = 0.0f) {
    std::vector<float>& data = data_.emplace_back(static_cast<size_t>(rows * cols));
    for (float& x : data) x = std::normal_distribution<float>()(random_) * size + offset;
    return view(data, rows, cols);
  }
  TensorView fixed(const std::vector<float>& values, int64_t rows, int64_t cols) {
    return view(data_.emplace_back(values), rows, cols);
  }
  // The same numbers as bf16; the f32 original is rounded in place, so both are equal.
  TensorView as_bf16(TensorView& tensor) {
    std::vector<uint16_t>& narrow = narrow_.emplace_back();
    auto* wide = const_cast<float*>(floats(tensor));
    for (int64_t i = 0; i < tensor.rows * tensor.cols; ++i) {
      narrow.push_back(cpu::float_to_bf16(wide[i]));
      wide[i] = cpu::bf16_to_float(narrow.back());
    }
    TensorView result = tensor;
    result.dtype = DType::kBF16;
    result.data = reinterpret_cast<const std::byte*>(narrow.data());
    return result;
  }
  static const float* floats(const TensorView& tensor) {
    return reinterpret_cast<const float*>(tensor.data);
  }

 private:
  static TensorView view(const std::vector<float>& data, int64_t rows, int64_t cols) {
    return {"test", DType::kF32, rows, cols, reinterpret_cast<const std::byte*>(data.data())};
  }
  std::mt19937 random_;
  std::vector<std::vector<float>> data_ = [] {
    std::vector<std::vector<float>> v;
    v.reserve(64);
    return v;
  }();
  std::vector<std::vector<uint16_t>> narrow_ = [] {
    std::vector<std::vector<uint16_t>> v;
    v.reserve(64);
    return v;
  }();
};

using Doubles = std::vector<double>;

Doubles rms_norm(const Doubles& x, const float* weight, double eps) {
  double sum = 0;
  for (const double v : x) sum += v * v;
  const double inverse = 1.0 / std::sqrt(sum / static_cast<double>(x.size()) + eps);
  Doubles out;
  for (size_t i = 0; i < x.size(); ++i) out.push_back(x[i] * inverse * weight[i]);
  return out;
}

Doubles multiply(const TensorView& weight, const Doubles& x) {
  Doubles out;
  const float* w = Weights::floats(weight);
  for (int64_t r = 0; r < weight.rows; ++r) {
    double sum = 0;
    for (int64_t c = 0; c < weight.cols; ++c) {
      sum += double{w[r * weight.cols + c]} * x[static_cast<size_t>(c)];
    }
    out.push_back(sum);
  }
  return out;
}

float* row_of(const DeviceTensor& tensor, int64_t row) {
  return static_cast<float*>(tensor.data) + row * tensor.cols;
}

DeviceTensor allocate(Backend& backend, int64_t rows, int64_t cols) {
  Result<DeviceTensor> tensor = backend.allocate(rows, cols);
  EXPECT_TRUE(tensor.ok());
  return tensor.value();
}

DeviceTensor tensor_of(Backend& backend, const TensorView& values) {
  const DeviceTensor tensor = allocate(backend, values.rows, values.cols);
  std::memcpy(tensor.data, values.data,
              static_cast<size_t>(values.rows * values.cols) * sizeof(float));
  return tensor;
}

Doubles doubles_of(const float* x, int64_t size) { return Doubles(x, x + size); }

void expect_row(const float* found, const Doubles& expected, double tolerance, const char* what) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::fabs(double{found[i]} - expected[i]) <= tolerance) continue;
    lh_test::fail(__FILE__, __LINE__,
                  std::string(what) + " " + std::to_string(i) + ": found " +
                      std::to_string(found[i]) + ", expected " + std::to_string(expected[i]));
    return;
  }
}

// A layer's worth of shapes for qkv.
struct QkvShape {
  KvDType dtype = KvDType::kBF16;
  RopeStyle style = RopeStyle::kHalf;
  int32_t rope_dim = 32;
  float factor = 1.0f;
  bool bias = false;
  bool norms = false;
  int32_t num_heads = 6, num_kv_heads = 2, head_dim = 32, hidden = 48;
  int32_t block_size = 32;
};

constexpr float kEps = 1e-5f;
constexpr int32_t kNumBlocks = 6;
constexpr int32_t kLayers = 2;

// A backend with weights for qkv, ready to run rows.
class QkvFixture {
 public:
  QkvFixture(const QkvShape& s, Isa isa, int threads)
      : shape(s), weights(5), backend(backend_of(isa, threads)) {
    layout.dtype = s.dtype;
    layout.block_size = s.block_size;
    layout.num_kv_heads = s.num_kv_heads;
    layout.head_dim = s.head_dim;
    layout.layers_per_block = kLayers;
    EXPECT_TRUE(backend->create_kv_pool(layout, kNumBlocks, 4, s.num_heads, 100).ok());
    rope.style = s.style;
    rope.dim = s.rope_dim;
    rope.attention_factor = s.factor;
    for (int32_t i = 0; i < s.rope_dim / 2; ++i) {
      const float exponent = -2.0f * static_cast<float>(i) / static_cast<float>(s.rope_dim);
      rope.inv_freq.push_back(std::pow(10000.0f, exponent));
    }
    const int64_t width = int64_t{s.num_heads + 2 * s.num_kv_heads} * s.head_dim;
    norm = weights.make(1, s.hidden, 0.2f, 1.0f);
    q_proj = weights.make(int64_t{s.num_heads} * s.head_dim, s.hidden, 0.2f);
    kv_proj = weights.make(int64_t{2 * s.num_kv_heads} * s.head_dim, s.hidden, 0.2f);
    bias = weights.make(1, width, 0.5f);
    q_norm = weights.make(1, s.head_dim, 0.2f, 1.0f);
    k_norm = weights.make(1, s.head_dim, 0.2f, 1.0f);
    x = weights.make(40, s.hidden);
    const TensorView parts[2] = {q_proj, kv_proj};
    qkv_matrix = take(backend->make_matrix(parts, MatrixUse::kProjection));
    norm_vector = take(backend->make_vector({&norm, 1}, 0));
    bias_vector = take(backend->make_vector({&bias, 1}, 0));
    q_norm_vector = take(backend->make_vector({&q_norm, 1}, 0));
    k_norm_vector = take(backend->make_vector({&k_norm, 1}, 0));
    rope_table = take(backend->make_rope(rope, 1 << 20));
  }

  template <typename T>
  static T take(Result<T> result) {
    EXPECT_TRUE(result.ok());
    return std::move(result.value());
  }

  // Rows [first, first + count) of x at positions; returns q.
  std::vector<float> run(int32_t first, const std::vector<int32_t>& positions,
                         const std::vector<int64_t>& slots, int32_t layer = 1) {
    const auto count = static_cast<int32_t>(positions.size());
    DeviceTensor in = allocate(*backend, count, shape.hidden);
    std::memcpy(in.data, Weights::floats(x) + int64_t{first} * shape.hidden,
                static_cast<size_t>(count * shape.hidden) * sizeof(float));
    DeviceTensor q = allocate(*backend, count, int64_t{shape.num_heads} * shape.head_dim);
    QkvParams params;
    params.x = &in;
    params.num_tokens = count;
    params.norm = norm_vector.get();
    params.eps = kEps;
    params.qkv = qkv_matrix.get();
    params.bias = shape.bias ? bias_vector.get() : nullptr;
    params.q_norm = shape.norms ? q_norm_vector.get() : nullptr;
    params.k_norm = shape.norms ? k_norm_vector.get() : nullptr;
    params.rope = rope_table.get();
    params.num_heads = shape.num_heads;
    params.group = 1;
    params.layer_in_block = layer;
    params.q = &q;
    const StepGroup groups[2] = {{}, {slots.data(), nullptr}};
    StepInputs step;
    step.num_tokens = count;
    step.positions = positions.data();
    step.groups = groups;
    EXPECT_TRUE(!take(backend->begin_forward(step)));
    EXPECT_TRUE(backend->qkv(params).ok());
    EXPECT_TRUE(backend->end_forward().ok());
    const float* data = static_cast<const float*>(q.data);
    return std::vector<float>(data, data + count * q.cols);
  }

  // q, k, v of one row, rotated, in double.
  Doubles reference(int32_t row, int32_t position) const {
    const float* in = Weights::floats(x) + int64_t{row} * shape.hidden;
    const Doubles n = rms_norm(doubles_of(in, shape.hidden), Weights::floats(norm), kEps);
    Doubles out = multiply(q_proj, n);
    const Doubles kv = multiply(kv_proj, n);
    out.insert(out.end(), kv.begin(), kv.end());
    if (shape.bias) {
      for (size_t i = 0; i < out.size(); ++i) out[i] += Weights::floats(bias)[i];
    }
    const int32_t dim = shape.head_dim;
    for (int32_t head = 0; head < shape.num_heads + shape.num_kv_heads; ++head) {
      const auto begin = out.begin() + int64_t{head} * dim;
      Doubles h(begin, begin + dim);
      if (shape.norms) {
        h = rms_norm(h, Weights::floats(head < shape.num_heads ? q_norm : k_norm), kEps);
      }
      const int32_t half = shape.rope_dim / 2;
      for (int32_t i = 0; i < half; ++i) {
        const double angle = double(position) * double{rope.inv_freq[static_cast<size_t>(i)]};
        const double c = std::cos(angle) * shape.factor, s = std::sin(angle) * shape.factor;
        const bool interleaved = shape.style == RopeStyle::kInterleaved;
        double& a = h[static_cast<size_t>(interleaved ? 2 * i : i)];
        double& b = h[static_cast<size_t>(interleaved ? 2 * i + 1 : i + half)];
        const double rotated = a * c - b * s;
        b = a * s + b * c;
        a = rotated;
      }
      std::copy(h.begin(), h.end(), begin);
    }
    return out;
  }

  std::vector<uint16_t> block(int32_t id) {
    std::vector<uint16_t> data(static_cast<size_t>(layout.block_bytes() / 2));
    EXPECT_TRUE(backend->read_block(id, std::as_writable_bytes(std::span(data))).ok());
    return data;
  }
  float cached(const std::vector<uint16_t>& data, int32_t layer, int32_t head, bool value,
               int32_t token, int32_t channel) const {
    const int64_t start = layer * layout.layer_bytes() + head * 2 * layout.head_bytes() +
                          (value ? layout.head_bytes() : 0);
    const auto* bytes = reinterpret_cast<const uint8_t*>(data.data()) + start;
    const int64_t place =
        value ? cpu::value_index(layout.dtype, layout.block_size, token, channel)
              : cpu::key_index(layout.dtype, layout.head_dim, token, channel);
    if (layout.dtype == KvDType::kQ8) {
      float scale;
      std::memcpy(&scale, bytes + layout.channel_bytes() + token * 4, sizeof(scale));
      const int number = value ? static_cast<int8_t>(bytes[place]) : bytes[place] - 128;
      return static_cast<float>(number) * scale;
    }
    uint16_t bits;
    std::memcpy(&bits, bytes + 2 * place, sizeof(bits));
    return layout.dtype == KvDType::kBF16 ? cpu::bf16_to_float(bits) : cpu::half_to_float(bits);
  }

  QkvShape shape;
  Weights weights;
  std::unique_ptr<Backend> backend;
  KvLayout layout;
  RopeConfig rope;
  TensorView norm, q_proj, kv_proj, bias, q_norm, k_norm, x;
  std::unique_ptr<Matrix> qkv_matrix;
  std::unique_ptr<Vector> norm_vector, bias_vector, q_norm_vector, k_norm_vector;
  std::unique_ptr<RopeTable> rope_table;
};

// Head by head times the Hadamard matrix, whose entries are signs: (-1)^popcount(i & j).
void rotate_heads(Doubles& heads, int32_t head_dim, size_t count) {
  const int32_t size = cpu::rotation_size(head_dim);
  for (size_t run = 0; run < count; run += static_cast<size_t>(size)) {
    Doubles out(static_cast<size_t>(size), 0.0);
    for (int32_t i = 0; i < size; ++i) {
      for (int32_t j = 0; j < size; ++j) {
        const bool odd = std::popcount(static_cast<uint32_t>(i & j)) % 2 == 1;
        out[static_cast<size_t>(i)] += (odd ? -1 : 1) * heads[run + static_cast<size_t>(j)];
      }
    }
    std::copy(out.begin(), out.end(), heads.begin() + static_cast<int64_t>(run));
  }
}

// Half a rounding step of the cache for `x`, one of the numbers of a head.
double cache_step(KvDType dtype, double x, const double* head, int32_t head_dim) {
  if (dtype != KvDType::kQ8) return std::fabs(x) * (dtype == KvDType::kBF16 ? 0x1p-8 : 0x1p-11);
  double max = 0;
  for (int32_t c = 0; c < head_dim; ++c) max = std::max(max, std::fabs(head[c]));
  return max / 127 * 0.501;
}

void expect_qkv_matches(const QkvShape& shape, const std::vector<int32_t>& positions,
                        const std::vector<int64_t>& slots, Isa isa) {
  QkvFixture fixture(shape, isa, 2);
  const std::vector<float> q = fixture.run(0, positions, slots);
  const int64_t q_width = int64_t{shape.num_heads} * shape.head_dim;
  const bool q8 = shape.dtype == KvDType::kQ8;
  for (size_t row = 0; row < positions.size(); ++row) {
    Doubles expected = fixture.reference(static_cast<int32_t>(row), positions[row]);
    const int64_t rotated = int64_t{shape.num_heads + shape.num_kv_heads} * shape.head_dim;
    if (q8) rotate_heads(expected, shape.head_dim, static_cast<size_t>(rotated));
    expect_row(q.data() + static_cast<int64_t>(row) * q_width,
               Doubles(expected.begin(), expected.begin() + q_width), q8 ? 2e-4 : 2e-5, "q");
    if (slots[row] < 0) continue;
    const auto id = static_cast<int32_t>(slots[row] / shape.block_size);
    const auto token = static_cast<int32_t>(slots[row] % shape.block_size);
    const std::vector<uint16_t> block = fixture.block(id);
    for (int32_t head = 0; head < shape.num_kv_heads; ++head) {
      for (int32_t c = 0; c < shape.head_dim; ++c) {
        const auto k = static_cast<size_t>(q_width + head * shape.head_dim + c);
        const size_t v = k + static_cast<size_t>(shape.num_kv_heads * shape.head_dim);
        const double dk = fixture.cached(block, 1, head, false, token, c) - expected[k];
        const double dv = fixture.cached(block, 1, head, true, token, c) - expected[v];
        const double* k_head = expected.data() + k - c;
        const double* v_head = expected.data() + v - c;
        const double k_step = cache_step(shape.dtype, expected[k], k_head, shape.head_dim);
        const double v_step = cache_step(shape.dtype, expected[v], v_head, shape.head_dim);
        EXPECT_TRUE(std::fabs(dk) <= k_step + (q8 ? 2e-4 : 2e-5));
        EXPECT_TRUE(std::fabs(dv) <= v_step + 2e-5);
      }
    }
  }
}

}  // namespace

LH_TEST(qkv_matches_reference) {
  for (const Isa isa : isas()) {
    for (const RopeStyle style : {RopeStyle::kHalf, RopeStyle::kInterleaved}) {
      for (const KvDType dtype : {KvDType::kBF16, KvDType::kF16, KvDType::kQ8}) {
        QkvShape shape;
        shape.style = style;
        shape.dtype = dtype;
        expect_qkv_matches(shape, {0, 1, 77, 5}, {40, 3, 191, 64}, isa);
        shape.bias = shape.norms = true;
        shape.rope_dim = 16;  // half of a head passes through
        shape.factor = 1.25f;
        shape.block_size = 64;
        expect_qkv_matches(shape, {9, 123456, 0}, {0, -1, 383}, isa);
      }
    }
  }
}

LH_TEST(positions_of_a_million_keep_their_angles) {
  for (const Isa isa : isas()) expect_qkv_matches(QkvShape{}, {1048575, 1000001}, {0, 1}, isa);
}

LH_TEST(qkv_writes_its_slots_and_nothing_else) {
  QkvShape shape;
  shape.bias = true;
  QkvFixture fixture(shape, cpu::machine_isa(), 1);
  fixture.run(0, {0, 1, 2}, {37, -1, 100});
  for (int32_t id = 0; id < kNumBlocks; ++id) {
    const std::vector<uint16_t> block = fixture.block(id);
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      for (int32_t token = 0; token < shape.block_size; ++token) {
        const int32_t slot = id * shape.block_size + token;
        const bool written = layer == 1 && (slot == 37 || slot == 100);
        bool zero = true;
        for (int32_t head = 0; head < shape.num_kv_heads; ++head) {
          for (int32_t c = 0; c < shape.head_dim; ++c) {
            zero = zero && fixture.cached(block, layer, head, false, token, c) == 0 &&
                   fixture.cached(block, layer, head, true, token, c) == 0;
          }
        }
        EXPECT_EQ(zero, !written);
      }
    }
  }
}

LH_TEST(qkv_bits_do_not_depend_on_rows_threads_or_isa) {
  for (const KvDType dtype : {KvDType::kBF16, KvDType::kF16, KvDType::kQ8}) {
    QkvShape shape;
    shape.dtype = dtype;
    shape.bias = shape.norms = true;
    std::vector<int32_t> positions(40);
    std::iota(positions.begin(), positions.end(), 100);
    std::vector<int64_t> slots(40);
    std::iota(slots.begin(), slots.end(), 50);
    QkvFixture whole(shape, Isa::kScalar, 1);
    const std::vector<float> expected = whole.run(0, positions, slots);
    for (const Isa isa : isas()) {
      for (const int32_t chunk : {1, 7, 40}) {
        QkvFixture fixture(shape, isa, 1 + chunk % 3);
        std::vector<float> q;
        for (int32_t i = 0; i < 40; i += chunk) {
          const int32_t end = std::min(i + chunk, 40);
          const std::vector<float> part = fixture.run(
              i, {positions.begin() + i, positions.begin() + end},
              {slots.begin() + i, slots.begin() + end});
          q.insert(q.end(), part.begin(), part.end());
        }
        EXPECT_EQ(std::memcmp(q.data(), expected.data(), q.size() * sizeof(float)), 0);
        for (int32_t id = 0; id < kNumBlocks; ++id) {
          EXPECT_TRUE(fixture.block(id) == whole.block(id));
        }
      }
    }
  }
}

LH_TEST(rope_is_recomputed_when_positions_change) {
  QkvFixture fixture(QkvShape{}, cpu::machine_isa(), 1);
  const std::vector<float> a = fixture.run(0, {3, 4}, {0, 1});
  const std::vector<float> b = fixture.run(0, {3, 5}, {0, 1});
  const std::vector<float> again = fixture.run(0, {3, 4}, {0, 1});
  EXPECT_TRUE(a == again);
  EXPECT_TRUE(a != b);
  const auto half = static_cast<int64_t>(a.size() / 2);
  const std::vector<float> first_row(a.begin(), a.begin() + half);
  EXPECT_TRUE(std::equal(first_row.begin(), first_row.end(), b.begin()));
  EXPECT_TRUE(fixture.run(0, {3}, {0}) == first_row);
}

LH_TEST(attention_reads_what_qkv_wrote) {
  // Position 0 sees only itself: attention returns the cached value, whatever the scores.
  for (const Isa isa : isas()) {
    QkvShape shape;
    QkvFixture fixture(shape, isa, 2);
    const std::vector<float> q = fixture.run(0, {0}, {64});
    DeviceTensor q_tensor = allocate(*fixture.backend, 1, static_cast<int64_t>(q.size()));
    std::memcpy(q_tensor.data, q.data(), q.size() * sizeof(float));
    DeviceTensor out = allocate(*fixture.backend, 1, static_cast<int64_t>(q.size()));
    const int32_t table[1] = {2};
    AttentionWork work;
    work.sequences.push_back({0, 1, 0, table, 1});
    build_attention_work(work, {shape.num_kv_heads, 2, 100});
    AttentionParams params;
    params.group = 0;
    params.q = &q_tensor;
    params.num_heads = shape.num_heads;
    params.scale = 0.2f;
    params.layer_in_block = 1;
    params.out = &out;
    const StepGroup group = {nullptr, &work};
    StepInputs step;
    step.num_tokens = 1;
    step.groups = {&group, 1};
    EXPECT_TRUE(fixture.backend->begin_forward(step).ok());
    EXPECT_TRUE(fixture.backend->attention(params).ok());
    const std::vector<uint16_t> block = fixture.block(2);
    for (int32_t head = 0; head < shape.num_heads; ++head) {
      for (int32_t c = 0; c < shape.head_dim; ++c) {
        EXPECT_EQ(row_of(out, 0)[head * shape.head_dim + c],
                  fixture.cached(block, 1, head / 3, true, 0, c));
      }
    }
    params.num_heads = 4;  // not what the pool was made for
    EXPECT_TRUE(fixture.backend->attention(params).code() == ErrorCode::kInternal);
  }
}

LH_TEST(project_add_matches_reference) {
  for (const Isa isa : isas()) {
    const std::unique_ptr<Backend> backend = backend_of(isa, 2);
    Weights weights(6);
    const TensorView w = weights.make(40, 24, 0.3f), post = weights.make(1, 40, 0.1f, 1.0f);
    const TensorView in = weights.make(3, 24), x0 = weights.make(3, 40);
    const auto matrix = QkvFixture::take(backend->make_matrix({&w, 1}, MatrixUse::kProjection));
    const auto norm = QkvFixture::take(backend->make_vector({&post, 1}, 0));
    const DeviceTensor input = tensor_of(*backend, in);
    for (const bool with_norm : {false, true}) {
      DeviceTensor x = tensor_of(*backend, x0);
      ProjectAddParams params;
      params.input = &input;
      params.num_tokens = 3;
      params.weight = matrix.get();
      params.post_norm = with_norm ? norm.get() : nullptr;
      params.eps = kEps;
      params.x = &x;
      EXPECT_TRUE(backend->project_add(params).ok());
      for (int64_t row = 0; row < 3; ++row) {
        Doubles y = multiply(w, doubles_of(Weights::floats(in) + row * 24, 24));
        if (with_norm) y = rms_norm(y, Weights::floats(post), kEps);
        for (size_t i = 0; i < y.size(); ++i) y[i] += (Weights::floats(x0) + row * 40)[i];
        expect_row(row_of(x, row), y, 1e-5, "x");
      }
    }
  }
}

LH_TEST(gated_up_matches_reference_for_equal_and_mixed_types) {
  for (const Isa isa : isas()) {
    for (const bool mixed : {false, true}) {
      for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
        const std::unique_ptr<Backend> backend = backend_of(isa, 2);
        Weights weights(7);
        const TensorView gate = weights.make(48, 32, 0.3f), norm = weights.make(1, 32, 0.1f, 1.0f);
        TensorView up = weights.make(48, 32, 0.3f);
        const TensorView parts[2] = {gate, mixed ? weights.as_bf16(up) : up};
        const auto matrix = QkvFixture::take(backend->make_matrix(parts, MatrixUse::kGatedUp));
        EXPECT_EQ(matrix->rows, 96);
        EXPECT_EQ(matrix->cols, 32);
        const auto vector = QkvFixture::take(backend->make_vector({&norm, 1}, 0));
        const TensorView in = weights.make(5, 32);
        const DeviceTensor x = tensor_of(*backend, in);
        DeviceTensor out = allocate(*backend, 5, 48);
        GatedUpParams params;
        params.x = &x;
        params.num_tokens = 5;
        params.norm = vector.get();
        params.eps = kEps;
        params.gate_up = matrix.get();
        params.activation = activation;
        params.out = &out;
        EXPECT_TRUE(backend->gated_up(params).ok());
        for (int64_t row = 0; row < 5; ++row) {
          const Doubles n = rms_norm(doubles_of(Weights::floats(in) + row * 32, 32),
                                     Weights::floats(norm), kEps);
          const Doubles g = multiply(gate, n), u = multiply(up, n);
          Doubles y;
          for (size_t i = 0; i < g.size(); ++i) {
            const double z = g[i];
            const double inner = 0.7978845608028654 * (z + 0.044715 * z * z * z);
            const double a = activation == Activation::kSilu ? z / (1 + std::exp(-z))
                                                             : 0.5 * z * (1 + std::tanh(inner));
            y.push_back(a * u[i]);
          }
          expect_row(row_of(out, row), y, 2e-5, "gated");
        }
      }
    }
  }
}

LH_TEST(logits_take_the_rows_asked_for) {
  for (const Isa isa : isas()) {
    const std::unique_ptr<Backend> backend = backend_of(isa);
    Weights weights(8);
    const TensorView head = weights.make(37, 16, 2.0f), norm = weights.make(1, 16, 0.1f, 1.0f);
    const TensorView in = weights.make(4, 16);
    const auto matrix = QkvFixture::take(backend->make_matrix({&head, 1}, MatrixUse::kEmbedding));
    const auto vector = QkvFixture::take(backend->make_vector({&norm, 1}, 0));
    const DeviceTensor x = tensor_of(*backend, in);
    DeviceTensor out = allocate(*backend, 2, 37);
    const int32_t rows[2] = {1, 3};
    for (const float cap : {0.0f, 5.0f}) {
      LogitsParams params;
      params.x = &x;
      params.rows = rows;
      params.num_rows = 2;
      params.norm = vector.get();
      params.eps = kEps;
      params.head = matrix.get();
      params.softcap = cap;
      params.logits = &out;
      EXPECT_TRUE(backend->logits(params).ok());
      for (int64_t i = 0; i < 2; ++i) {
        Doubles y = multiply(head, rms_norm(doubles_of(Weights::floats(in) + rows[i] * 16, 16),
                                            Weights::floats(norm), kEps));
        for (double& v : y) v = cap > 0 ? cap * std::tanh(v / cap) : v;
        expect_row(row_of(out, i), y, 3e-5, "logits");
      }
    }
  }
}

LH_TEST(embed_reads_rows_and_what_a_slot_sampled) {
  const std::unique_ptr<Backend> backend = backend_of(cpu::machine_isa(), 2);
  KvLayout layout;
  layout.num_kv_heads = 1;
  layout.head_dim = 16;
  layout.layers_per_block = 1;
  EXPECT_TRUE(backend->create_kv_pool(layout, 1, 3, 1, 0).ok());
  Weights weights(9);
  const TensorView table = weights.make(20, 24);
  const auto matrix = QkvFixture::take(backend->make_matrix({&table, 1}, MatrixUse::kEmbedding));
  DeviceTensor out = allocate(*backend, 3, 24);
  const auto embed = [&](std::vector<int32_t> ids) {
    EmbedParams params;
    params.embedding = matrix.get();
    params.num_tokens = static_cast<int32_t>(ids.size());
    params.scale = 4.0f;
    params.out = &out;
    StepInputs step;
    step.num_tokens = params.num_tokens;
    step.token_ids = ids.data();
    EXPECT_TRUE(backend->begin_forward(step).ok());
    return backend->embed(params);
  };
  const auto expect_token = [&](int64_t row, int64_t id) {
    for (int64_t c = 0; c < 24; ++c) {
      EXPECT_EQ(row_of(out, row)[c], Weights::floats(table)[id * 24 + c] * 4.0f);
    }
  };
  EXPECT_TRUE(embed({19, 0, 7}).ok());
  expect_token(0, 19);
  expect_token(1, 0);
  expect_token(2, 7);
  EXPECT_TRUE(embed({}).ok());
  EXPECT_TRUE(embed({20}).code() == ErrorCode::kInvalidRequest);
  EXPECT_TRUE(embed({-2}).code() == ErrorCode::kInvalidRequest);  // slot 1 sampled nothing yet
  EXPECT_TRUE(embed({-4}).code() == ErrorCode::kInvalidRequest);  // there is no slot 3
  EXPECT_TRUE(embed({std::numeric_limits<int32_t>::min()}).code() == ErrorCode::kInvalidRequest);

  // Greedy rows for slots 1 and 2; slot 0's row only asks for a known token.
  DeviceTensor logits = allocate(*backend, 3, 20);
  row_of(logits, 0)[4] = 3.0f;
  row_of(logits, 1)[11] = 3.0f;
  row_of(logits, 2)[13] = 3.0f;
  SamplingParams greedy;
  greedy.temperature = 0;
  TokenLogprob tokens[3];
  bool finite[3] = {};
  SampleRow rows[3];
  for (int32_t i = 0; i < 3; ++i) {
    rows[i].logits_row = i;
    rows[i].slot = i;
    rows[i].sample = i > 0;
    rows[i].known_token = 4;
    rows[i].params = &greedy;
    rows[i].token = &tokens[i];
    rows[i].finite = &finite[i];
  }
  EXPECT_TRUE(backend->sample({&logits, rows}).ok());
  EXPECT_TRUE(finite[0] && finite[1] && finite[2]);
  EXPECT_EQ(tokens[1].token_id, 11);
  EXPECT_TRUE(embed({-2, -3, 5}).ok());
  expect_token(0, 11);
  expect_token(1, 13);
  expect_token(2, 5);
  EXPECT_TRUE(embed({-1}).code() == ErrorCode::kInvalidRequest);

  // A row that is not finite has no token, but the slot can be named by a step already queued.
  row_of(logits, 1)[2] = std::nanf("");
  EXPECT_TRUE(backend->sample({&logits, std::span(rows + 1, 1)}).ok());
  EXPECT_TRUE(!finite[1]);
  EXPECT_TRUE(embed({-2}).ok());
  rows[0].slot = 3;
  EXPECT_TRUE(backend->sample({&logits, rows}).code() == ErrorCode::kInternal);
}

LH_TEST(blocks_are_copied_in_order) {
  QkvFixture fixture(QkvShape{}, cpu::machine_isa(), 2);
  fixture.run(0, {0, 1}, {0, 40});
  const std::vector<uint16_t> first = fixture.block(0), second = fixture.block(1);
  EXPECT_TRUE(first != second);
  const std::pair<int32_t, int32_t> copies[] = {{0, 3}, {1, 0}, {3, 4}, {2, 2}};
  EXPECT_TRUE(fixture.backend->copy_blocks(copies).ok());
  EXPECT_TRUE(fixture.block(3) == first);
  EXPECT_TRUE(fixture.block(4) == first);
  EXPECT_TRUE(fixture.block(0) == second);
  EXPECT_TRUE(fixture.block(1) == second);
  const std::pair<int32_t, int32_t> wild[] = {{0, kNumBlocks}};
  EXPECT_TRUE(fixture.backend->copy_blocks(wild).code() == ErrorCode::kInvalidRequest);
  std::vector<std::byte> small(10);
  EXPECT_TRUE(fixture.backend->read_block(0, small).code() == ErrorCode::kInvalidRequest);
  EXPECT_TRUE(fixture.backend->read_block(-1, small).code() == ErrorCode::kInvalidRequest);
}

LH_TEST(compact_rows_moves_kept_rows_up) {
  const std::unique_ptr<Backend> backend = backend_of(cpu::machine_isa());
  DeviceTensor x = allocate(*backend, 6, 5);
  for (int64_t row = 0; row < 6; ++row) {
    EXPECT_EQ(row_of(x, row)[4], 0.0f);  // zeroed
    for (int64_t c = 0; c < 5; ++c) row_of(x, row)[c] = static_cast<float>(10 * row + c);
  }
  const int32_t keep[] = {0, 2, 3, 5};
  EXPECT_TRUE(backend->compact_rows(&x, keep).ok());
  for (int64_t i = 0; i < 4; ++i) {
    for (int64_t c = 0; c < 5; ++c) {
      EXPECT_EQ(row_of(x, i)[c], static_cast<float>(10 * keep[i] + c));
    }
  }
}

LH_TEST(vectors_add_their_offset_and_refuse_quantized_types) {
  const std::unique_ptr<Backend> backend = backend_of(cpu::machine_isa());
  Weights weights(10);
  TensorView wide = weights.fixed({1.0f, -2.5f, 3.25f}, 1, 3);
  const TensorView narrow = weights.as_bf16(wide);
  const TensorView parts[2] = {wide, narrow};
  const auto vector = QkvFixture::take(backend->make_vector(parts, 1.0f));
  const auto& data = static_cast<const cpu::CpuVector&>(*vector).data;
  EXPECT_EQ(vector->size, 6);
  EXPECT_TRUE((data == std::vector<float>{2.0f, -1.5f, 4.25f, 2.0f, -1.5f, 4.25f}));
  TensorView quantized = wide;
  quantized.dtype = DType::kQ8_0;
  EXPECT_TRUE(backend->make_vector({&quantized, 1}, 0).status().code() == ErrorCode::kModelFormat);
}

LH_TEST(set_up_checks_its_arguments) {
  EXPECT_TRUE(make_cpu_backend({1, "sse9"}).status().code() == ErrorCode::kInvalidRequest);
  EXPECT_TRUE(make_cpu_backend({-1, ""}).status().code() == ErrorCode::kInvalidRequest);
  const std::unique_ptr<Backend> backend = backend_of(Isa::kScalar, 2);
  EXPECT_EQ(backend->info().name, "cpu");
  EXPECT_EQ(backend->info().isa, "scalar");
  EXPECT_EQ(backend->info().parallelism, 2);
  RopeConfig rope;
  rope.dim = 8;
  rope.inv_freq = {1.0f, 0.5f};
  EXPECT_TRUE(backend->make_rope(rope, 100).status().code() == ErrorCode::kModelFormat);
  KvLayout layout;
  layout.num_kv_heads = 3;
  layout.head_dim = 64;
  layout.layers_per_block = 1;
  EXPECT_TRUE(backend->create_kv_pool(layout, 4, 1, 8, 0).code() == ErrorCode::kInternal);
  layout.head_dim = 60;
  EXPECT_TRUE(backend->create_kv_pool(layout, 4, 1, 9, 0).code() == ErrorCode::kUnsupported);
  Weights weights(11);
  const TensorView unequal[2] = {weights.make(4, 8), weights.make(5, 8)};
  EXPECT_TRUE(backend->make_matrix(unequal, MatrixUse::kGatedUp).status().code() ==
              ErrorCode::kModelFormat);
}

LH_TEST(row_operations_agree_over_instruction_sets) {
  const cpu::RowOps& oracle = cpu::row_ops(Isa::kScalar);
  Weights weights(12);
  for (const int32_t size : {1, 15, 16, 17, 64, 640, 1000}) {
    const TensorView x = weights.make(1, size, 3.0f), w = weights.make(1, size);
    const auto length = static_cast<size_t>(size);
    const Doubles exact = rms_norm(doubles_of(Weights::floats(x), size), Weights::floats(w), kEps);
    std::vector<float> expected(length);
    oracle.rms_norm(Weights::floats(x), Weights::floats(w), kEps, size, expected.data());
    expect_row(expected.data(), exact, 1e-5, "rms_norm");
    for (const Isa isa : isas()) {
      const cpu::RowOps& ops = cpu::row_ops(isa);
      std::vector<float> a(length), b(length, 0.25f), c(length, 0.25f);
      ops.rms_norm(Weights::floats(x), Weights::floats(w), kEps, size, a.data());
      EXPECT_TRUE(a == expected);
      ops.rms_norm_add(Weights::floats(x), Weights::floats(w), kEps, size, b.data());
      oracle.rms_norm_add(Weights::floats(x), Weights::floats(w), kEps, size, c.data());
      EXPECT_TRUE(b == c);
      ops.silu_mul(Weights::floats(x), Weights::floats(w), size, b.data());
      oracle.silu_mul(Weights::floats(x), Weights::floats(w), size, c.data());
      EXPECT_TRUE(b == c);
      ops.gelu_mul(Weights::floats(x), Weights::floats(w), size, b.data());
      oracle.gelu_mul(Weights::floats(x), Weights::floats(w), size, c.data());
      EXPECT_TRUE(b == c);
    }
  }
}

LH_TEST(stored_bits_agree_over_instruction_sets) {
  // Every exponent, halfway cases, overflow, subnormals, infinities and NaN.
  std::vector<float> values;
  std::mt19937 random(13);
  for (int i = 0; i < 4000; ++i) {
    uint32_t bits = random();
    if (i % 3 == 0) bits = (bits & 0xffffe000u) | 0x1000u;  // halfway between two f16
    if (i % 3 == 1) bits = (bits & 0xffff0000u) | 0x8000u;  // halfway between two bf16
    if (i % 5 == 0) bits = (bits & 0x8fffffffu) | 0x30000000u;
    values.push_back(__builtin_bit_cast(float, bits));
  }
  values[0] = std::numeric_limits<float>::infinity();
  for (const bool f16 : {false, true}) {
    const KvDType dtype = f16 ? KvDType::kF16 : KvDType::kBF16;
    for (const Isa isa : isas()) {
      const cpu::RowOps& ops = cpu::row_ops(isa);
      for (size_t i = 0; i + 16 <= values.size(); i += 16) {
        std::vector<uint16_t> keys(32 * 16), vals(32 * 16);
        const auto token = static_cast<int32_t>(i / 16 % 32);
        ops.store_key(values.data() + i, 16, f16, token, keys.data());
        ops.store_value(values.data() + i, 16, f16, 32, token, vals.data());
        for (int32_t c = 0; c < 16; ++c) {
          const float x = values[i + static_cast<size_t>(c)];
          const uint16_t expected = f16 ? cpu::float_to_half(x) : cpu::float_to_bf16(x);
          EXPECT_EQ(keys[static_cast<size_t>(cpu::key_index(dtype, 16, token, c))], expected);
          EXPECT_EQ(vals[static_cast<size_t>(cpu::value_index(dtype, 32, token, c))], expected);
        }
      }
    }
  }
}

LH_TEST(rotations_agree_over_instruction_sets) {
  std::mt19937 random(14);
  std::normal_distribution<float> normal;
  for (const int32_t head_dim : {16, 48, 64, 80, 128, 256}) {
    std::vector<float> head(static_cast<size_t>(head_dim));
    for (float& x : head) x = normal(random);
    Doubles expected(head.begin(), head.end());
    rotate_heads(expected, head_dim, expected.size());
    std::vector<float> oracle = head;
    cpu::row_ops_scalar().rotate_hadamard(oracle.data(), head_dim, cpu::rotation_size(head_dim));
    expect_row(oracle.data(), expected, 2e-5, "rotation");
    for (const Isa isa : isas()) {
      std::vector<float> rotated = head;
      cpu::row_ops(isa).rotate_hadamard(rotated.data(), head_dim, cpu::rotation_size(head_dim));
      EXPECT_TRUE(rotated == oracle);
    }
  }
}

LH_TEST(eight_bit_rounding_agrees_over_instruction_sets) {
  std::mt19937 random(15);
  std::normal_distribution<float> normal;
  const float inf = std::numeric_limits<float>::infinity();
  for (const Isa isa : isas()) {
    const cpu::RowOps& ops = cpu::row_ops(isa);
    for (const int32_t size : {16, 48, 64, 256}) {
      std::vector<float> x(static_cast<size_t>(size));
      for (float& value : x) value = normal(random);
      x[3] = -4.0f;
      x[7] = -4.0f * 2.5f / 127;  // halfway: to the even neighbor
      std::vector<int8_t> q8(x.size(), 99);
      EXPECT_EQ(ops.quantize(x.data(), size, q8.data()), 4.0f * (1.0f / 127.0f));
      EXPECT_EQ(q8[3], -127);
      EXPECT_EQ(q8[7], -2);
      for (size_t i = 0; i < x.size(); ++i) {
        EXPECT_EQ(int{q8[i]}, static_cast<int>(std::nearbyint(x[i] * (127.0f / 4.0f))));
      }
      for (const float bad : {inf, -inf, std::nanf("")}) {
        std::vector<float> y = x;
        y.back() = bad;
        EXPECT_TRUE(std::isnan(ops.quantize(y.data(), size, q8.data())));
        EXPECT_EQ(std::count(q8.begin(), q8.end(), 0), size);
      }
      const std::vector<float> tiny(x.size(), 0x1p-120f);
      EXPECT_EQ(ops.quantize(tiny.data(), size, q8.data()), 0.0f);
      EXPECT_EQ(std::count(q8.begin(), q8.end(), 0), size);
    }
  }
}

}  // namespace longhaul

LH_TEST_MAIN
