// The product of every dtype, instruction set, batch size and thread count has the bits of an
// oracle written here from the contract in matmul.h and from the stored (not the packed) weights.
#include "backend/cpu/matmul.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "stored_weights.h"
#include "test.h"

using namespace longhaul;
using namespace longhaul::cpu;
using lh_test::Stored;

namespace {

constexpr int kMaxTokens = 100;
constexpr float kGuard = 12345.0f;
const int kTokenCounts[] = {1, 2, 3, 4, 5, 16, 17, 33, 100};
const DType kAll[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0,
                      DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                      DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

std::vector<Isa> levels() {
  std::vector<Isa> list;
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (isa <= machine_isa()) list.push_back(isa);
  }
  return list;
}

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

struct Rows {
  int64_t cols, stride;
  std::vector<float> x;
  Rows(int count, int64_t num_cols, uint32_t seed)
      : cols(num_cols),
        stride(num_cols + 3),
        x(static_cast<size_t>(count * (num_cols + 3)), kGuard) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (int t = 0; t < count; ++t) {
      const float size = std::exp2(static_cast<float>(static_cast<int>(random() % 13)) - 6.0f);
      for (int64_t k = 0; k < cols; ++k) {
        // Now and then an outlier; whole blocks of zeros in some rows.
        float value = normal(random) * size;
        if (random() % 97 == 0) value *= 40.0f;
        if (t % 7 == 3 && k / 32 % 3 == 1) value = 0.0f;
        row(t)[k] = value;
      }
    }
  }
  float* row(int t) { return x.data() + t * stride; }
  const float* row(int t) const { return x.data() + t * stride; }
};

std::vector<float> normalized(const float* x, int64_t cols, const float* norm, float eps) {
  std::vector<float> out(x, x + cols);
  if (norm == nullptr) return out;
  float lanes[16] = {};
  for (int64_t k = 0; k < cols; ++k) lanes[k % 16] = std::fma(x[k], x[k], lanes[k % 16]);
  for (int width = 8; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lanes[l] = lanes[l] + lanes[l + width];
  }
  const float scale = 1.0f / std::sqrt(lanes[0] / static_cast<float>(cols) + eps);
  for (int64_t k = 0; k < cols; ++k) out[static_cast<size_t>(k)] = x[k] * scale * norm[k];
  return out;
}

// Decoded once, since the oracle reads each weight many times.
struct Decoded {
  std::vector<Stored::Element> elements;
  std::vector<float> values;
  explicit Decoded(const Stored& w) {
    for (int64_t r = 0; r < w.rows; ++r) {
      for (int64_t k = 0; k < w.cols; ++k) {
        if (is_float(w.dtype)) {
          values.push_back(w.value(r, k));
        } else {
          elements.push_back(w.element(r, k));
        }
      }
    }
  }
};

// W a for one activation row.
std::vector<float> oracle_row(const Stored& w, const Decoded& decoded,
                              const std::vector<float>& a) {
  std::vector<float> y;
  const int64_t cols = w.cols;
  if (is_float(w.dtype)) {
    for (int64_t r = 0; r < w.rows; ++r) {
      float even = 0, odd = 0;
      for (int64_t k = 0; k < cols; ++k) {
        float& chain = k % 2 == 0 ? even : odd;
        chain = std::fma(decoded.values[static_cast<size_t>(r * cols + k)],
                         a[static_cast<size_t>(k)], chain);
      }
      y.push_back(even + odd);
    }
    return y;
  }
  const int64_t blocks = cols / 32;
  std::vector<int> q(static_cast<size_t>(cols));
  std::vector<float> d(static_cast<size_t>(blocks)), s(d.size());
  for (int64_t b = 0; b < blocks; ++b) {
    float max = 0;
    for (int i = 0; i < 32; ++i) max = std::max(max, std::fabs(a[static_cast<size_t>(32 * b + i)]));
    const bool zero = max < 0x1p-100f;
    int sum = 0;
    for (int i = 0; i < 32; ++i) {
      const auto k = static_cast<size_t>(32 * b + i);
      q[k] = zero ? 0 : static_cast<int>(std::nearbyint(a[k] * (127.0f / max)));
      sum += q[k];
    }
    d[static_cast<size_t>(b)] = zero ? 0.0f : max / 127.0f;
    s[static_cast<size_t>(b)] = d[static_cast<size_t>(b)] * static_cast<float>(sum);
  }
  const int step = w.dtype == DType::kQ6_K ? 16 : 32;
  for (int64_t r = 0; r < w.rows; ++r) {
    float acc = 0;
    for (int64_t k = 0; k < cols; k += step) {
      const auto* e = &decoded.elements[static_cast<size_t>(r * cols + k)];
      int isum = 0;
      for (int i = 0; i < step; ++i) isum += e[i].quant * q[static_cast<size_t>(k + i)];
      const auto b = static_cast<size_t>(k / 32);
      acc = std::fma(static_cast<float>(isum), e->scale * d[b], acc);
      if (w.has_min()) acc = std::fma(e->min, s[b], acc);
    }
    y.push_back(acc);
  }
  return y;
}

struct Product {
  int64_t columns;
  std::vector<float> y;  // [tokens][columns + 5], guards behind each row
  float* row(int t) { return y.data() + t * (columns + 5); }
  bool guards_ok(int tokens) const {
    for (int t = 0; t < tokens; ++t) {
      for (int64_t c = columns; c < columns + 5; ++c) {
        if (y[static_cast<size_t>(t * (columns + 5) + c)] != kGuard) return false;
      }
    }
    return true;
  }
};

struct Call {
  const float* norm = nullptr;
  const int32_t* indices = nullptr;
  Epilogue epilogue = Epilogue::kStore;
  float softcap = 0;
};

Product multiply(const PackedMatrix& matrix, const Rows& rows, int tokens, const Call& call,
                 Isa isa, ThreadPool& pool) {
  const bool gated = call.epilogue == Epilogue::kSiluMul || call.epilogue == Epilogue::kGeluMul;
  Product out{packed_rows(matrix) / (gated ? 2 : 1), {}};
  out.y.assign(static_cast<size_t>(tokens * (out.columns + 5)), kGuard);
  if (call.epilogue == Epilogue::kAdd) {
    for (int t = 0; t < tokens; ++t) {
      for (int64_t c = 0; c < out.columns; ++c) out.row(t)[c] = static_cast<float>(t - c) * 0.25f;
    }
  }
  ActivationRows prepared;
  prepare_rows({rows.x.data(), rows.stride, call.indices, tokens, static_cast<int32_t>(rows.cols),
                call.norm, 1e-5f},
               matrix, isa, prepared, pool);
  matmul({&matrix, out.y.data(), out.columns + 5, call.epilogue, call.softcap}, prepared, isa,
         pool);
  return out;
}

int64_t count_different(const float* a, const float* b, int64_t count) {
  int64_t different = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (std::memcmp(a + i, b + i, 4) != 0) ++different;
  }
  return different;
}

PackedMatrixPtr pack(const std::vector<const Stored*>& parts, bool interleave, ThreadPool& pool) {
  std::vector<TensorView> views;
  for (const Stored* part : parts) views.push_back(part->view());
  auto packed = pack_matrix(views, interleave, pool);
  EXPECT_TRUE(packed.ok());
  return std::move(packed.value());
}

std::vector<int64_t> widths(DType dtype) {
  switch (dtype_info(dtype).block_elements) {
    case 1:
      return {1, 17, 64, 577};
    case 32:
      return {32, 64, 576, 640, 800};
    default:
      return {256, 768, 1536};
  }
}

}  // namespace

LH_TEST(oracle_bits_for_every_dtype_and_shape) {
  ThreadPool pool(2);
  uint32_t seed = 100;
  for (const DType dtype : kAll) {
    for (const int64_t cols : widths(dtype)) {
      for (const int64_t num_rows : {3, 16, 41}) {
        const Stored weights(dtype, num_rows, cols, ++seed);
        const Decoded decoded(weights);
        const Rows rows(kMaxTokens, cols, ++seed);
        const PackedMatrixPtr matrix = pack({&weights}, false, pool);
        std::vector<float> expected;
        for (int t = 0; t < kMaxTokens; ++t) {
          const auto y = oracle_row(weights, decoded, normalized(rows.row(t), cols, nullptr, 0));
          expected.insert(expected.end(), y.begin(), y.end());
        }
        for (const Isa isa : levels()) {
          for (const int tokens : kTokenCounts) {
            Product product = multiply(*matrix, rows, tokens, {}, isa, pool);
            int64_t wrong = 0;
            for (int t = 0; t < tokens; ++t) {
              wrong += count_different(product.row(t), &expected[static_cast<size_t>(t * num_rows)],
                                       num_rows);
            }
            if (wrong != 0) {
              std::printf("  %s %s rows %d cols %d tokens %d: %d wrong\n", dtype_info(dtype).name,
                          isa_name(isa), static_cast<int>(num_rows), static_cast<int>(cols), tokens,
                          static_cast<int>(wrong));
            }
            EXPECT_EQ(wrong, 0);
            EXPECT_TRUE(product.guards_ok(tokens));
          }
        }
      }
    }
  }
}

LH_TEST(norm_and_row_indices) {
  ThreadPool pool(2);
  std::mt19937 random(5);
  for (const DType dtype : {DType::kQ4_1, DType::kQ8_0, DType::kBF16}) {
    for (const int64_t cols : {32, 576, 640}) {
      const Stored weights(dtype, 24, cols, 21);
      const Decoded decoded(weights);
      const Rows rows(40, cols, 22);
      std::vector<float> norm(static_cast<size_t>(cols));
      for (float& w : norm) w = 0.5f + static_cast<float>(random() % 1000) / 1000.0f;
      const std::vector<int32_t> indices = {39, 0, 7, 7, 3, 21, 38, 1};
      const PackedMatrixPtr matrix = pack({&weights}, false, pool);
      Call call;
      call.norm = norm.data();
      call.indices = indices.data();
      for (const Isa isa : levels()) {
        Product product = multiply(*matrix, rows, 8, call, isa, pool);
        for (int t = 0; t < 8; ++t) {
          const auto a =
              normalized(rows.row(indices[static_cast<size_t>(t)]), cols, norm.data(), 1e-5f);
          const auto expected = oracle_row(weights, decoded, a);
          EXPECT_EQ(count_different(product.row(t), expected.data(), 24), 0);
        }
      }
    }
  }
}

LH_TEST(norm_of_odd_widths) {
  ThreadPool pool(1);
  for (const int64_t cols : {1, 5, 15, 16, 17, 31, 45}) {
    const Stored weights(DType::kF32, 16, cols, 77);
    const Decoded decoded(weights);
    const Rows rows(3, cols, 78);
    const std::vector<float> norm(static_cast<size_t>(cols), 1.25f);
    const PackedMatrixPtr matrix = pack({&weights}, false, pool);
    Call call;
    call.norm = norm.data();
    for (const Isa isa : levels()) {
      Product product = multiply(*matrix, rows, 3, call, isa, pool);
      for (int t = 0; t < 3; ++t) {
        const auto expected =
            oracle_row(weights, decoded, normalized(rows.row(t), cols, norm.data(), 1e-5f));
        EXPECT_EQ(count_different(product.row(t), expected.data(), 16), 0);
      }
    }
  }
}

LH_TEST(parts_of_several_dtypes) {
  ThreadPool pool(2);
  const Stored q(DType::kQ4_K, 48, 512, 31), k(DType::kQ6_K, 20, 512, 32),
      v(DType::kF16, 7, 512, 33), g(DType::kQ8_0, 33, 512, 34);
  const std::vector<const Stored*> parts = {&q, &k, &v, &g};
  const PackedMatrixPtr matrix = pack(parts, false, pool);
  const Rows rows(19, 512, 35);
  std::vector<float> expected;
  for (int t = 0; t < 19; ++t) {
    for (const Stored* part : parts) {
      const auto y = oracle_row(*part, Decoded(*part), normalized(rows.row(t), 512, nullptr, 0));
      expected.insert(expected.end(), y.begin(), y.end());
    }
  }
  for (const Isa isa : levels()) {
    for (const int tokens : {1, 4, 19}) {
      Product product = multiply(*matrix, rows, tokens, {}, isa, pool);
      EXPECT_EQ(product.columns, 108);
      for (int t = 0; t < tokens; ++t) {
        EXPECT_EQ(count_different(product.row(t), &expected[static_cast<size_t>(t * 108)], 108), 0);
      }
      EXPECT_TRUE(product.guards_ok(tokens));
    }
  }
}

LH_TEST(epilogues) {
  ThreadPool pool(2);
  for (const DType dtype : {DType::kQ4_0, DType::kQ4_1, DType::kQ6_K, DType::kF16}) {
    for (const int64_t half_rows : {16, 37}) {
      const Stored gate(dtype, half_rows, 256, 41), up(dtype, half_rows, 256, 42);
      const PackedMatrixPtr matrix = pack({&gate, &up}, true, pool);
      Rows rows(23, 256, 43);
      for (float& value : rows.x) value *= 0.05f;  // keeps gates where activations bend
      Product plain = multiply(*matrix, rows, 23, {}, Isa::kScalar, pool);
      for (const Epilogue epilogue : {Epilogue::kStore, Epilogue::kAdd, Epilogue::kSiluMul,
                                      Epilogue::kGeluMul, Epilogue::kSoftcap}) {
        const Call call{nullptr, nullptr, epilogue, 30.0f};
        Product scalar = multiply(*matrix, rows, 23, call, Isa::kScalar, pool);
        for (int t = 0; t < 23; ++t) {
          for (int64_t c = 0; c < scalar.columns; ++c) {
            const double w = plain.row(t)[c], u = plain.row(t)[(c + half_rows) % (2 * half_rows)];
            double expected = w;
            if (epilogue == Epilogue::kAdd) expected += static_cast<double>(t - c) * 0.25;
            if (epilogue == Epilogue::kSiluMul) expected = w / (1 + std::exp(-w)) * u;
            if (epilogue == Epilogue::kGeluMul) {
              const double inner = std::sqrt(2 / M_PI) * (w + 0.044715 * w * w * w);
              expected = 0.5 * w * (1 + std::tanh(inner)) * u;
            }
            if (epilogue == Epilogue::kSoftcap) expected = 30 * std::tanh(w / 30);
            EXPECT_NEAR(scalar.row(t)[c], expected, 1e-5 + 2e-6 * std::fabs(expected));
          }
        }
        for (const Isa isa : levels()) {
          for (const int tokens : {1, 3, 23}) {
            Product product = multiply(*matrix, rows, tokens, call, isa, pool);
            EXPECT_EQ(std::memcmp(product.y.data(), scalar.y.data(),
                                  static_cast<size_t>(tokens * (product.columns + 5)) * 4),
                      0);
          }
        }
      }
    }
  }
}

LH_TEST(threads_change_nothing) {
  ThreadPool one(1);
  const Stored weights(DType::kQ5_K, 200, 512, 51);
  const Rows rows(kMaxTokens, 512, 52);
  const PackedMatrixPtr matrix = pack({&weights}, false, one);
  for (const int tokens : {1, 6, 100}) {
    const Product expected = multiply(*matrix, rows, tokens, {}, machine_isa(), one);
    for (const int threads : {2, 3, 5}) {
      ThreadPool pool(threads);
      const PackedMatrixPtr again = pack({&weights}, false, pool);
      const Product product = multiply(*again, rows, tokens, {}, machine_isa(), pool);
      EXPECT_TRUE(product.y == expected.y);
    }
  }
}

LH_TEST(reused_buffers) {
  // One ActivationRows over growing and shrinking steps and different matrices, as a backend does.
  ThreadPool pool(2);
  const Stored a(DType::kQ4_0, 32, 576, 61), b(DType::kBF16, 32, 320, 62);
  const PackedMatrixPtr ma = pack({&a}, false, pool), mb = pack({&b}, false, pool);
  const Rows ra(50, 576, 63), rb(50, 320, 64);
  ActivationRows prepared;
  for (const int tokens : {3, 50, 0, 2, 17}) {
    for (const bool first : {true, false}) {
      const PackedMatrix& matrix = first ? *ma : *mb;
      const Rows& rows = first ? ra : rb;
      const Product expected = multiply(matrix, rows, tokens, {}, Isa::kScalar, pool);
      std::vector<float> y(static_cast<size_t>(tokens * 37), kGuard);
      prepare_rows({rows.x.data(), rows.stride, nullptr, tokens, static_cast<int32_t>(rows.cols),
                    nullptr, 0},
                   matrix, machine_isa(), prepared, pool);
      matmul({&matrix, y.data(), 37, Epilogue::kStore, 0}, prepared, machine_isa(), pool);
      EXPECT_TRUE(y == expected.y);
    }
  }
}

LH_TEST(extreme_activations) {
  ThreadPool pool(2);
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const DType dtype : kAll) {
    const Stored weights(dtype, 20, 512, 71);
    const PackedMatrixPtr matrix = pack({&weights}, false, pool);
    Rows rows(8, 512, 72);
    rows.row(1)[300] = nan;
    rows.row(2)[0] = inf;
    rows.row(3)[511] = -inf;
    for (int k = 0; k < 512; ++k) {
      rows.row(4)[k] = k % 2 != 0 ? 1e-39f : -3e-42f;  // subnormal
      rows.row(5)[k] = 3e38f;
      rows.row(6)[k] = k % 5 == 0 ? -0.0f : 0.0f;
    }
    for (const int tokens : {4, 8}) {
      Product scalar = multiply(*matrix, rows, tokens, {}, Isa::kScalar, pool);
      for (int c = 0; c < 20; ++c) {
        EXPECT_TRUE(std::isfinite(scalar.row(0)[c]));
        for (int t = 1; t < 4; ++t)
          EXPECT_TRUE(!std::isfinite(scalar.row(t)[c]) || is_float(dtype));
        EXPECT_TRUE(std::isnan(scalar.row(1)[c]));
        if (tokens == 8) {
          EXPECT_NEAR(scalar.row(4)[c], 0.0, 1e-30);
          EXPECT_EQ(scalar.row(6)[c], 0.0f);
          EXPECT_TRUE(std::isfinite(scalar.row(7)[c]));  // neighbors are untouched
        }
      }
      for (const Isa isa : levels()) {
        Product product = multiply(*matrix, rows, tokens, {}, isa, pool);
        for (int t = 0; t < tokens; ++t) {
          for (int c = 0; c < 20; ++c) {
            const float x = product.row(t)[c], y = scalar.row(t)[c];
            EXPECT_TRUE(std::isnan(y) ? std::isnan(x) : std::memcmp(&x, &y, 4) == 0);
          }
        }
      }
    }
  }
}

LH_TEST(close_to_the_exact_product) {
  ThreadPool pool(2);
  for (const DType dtype : kAll) {
    const Stored weights(dtype, 64, 1024, 81);
    const PackedMatrixPtr matrix = pack({&weights}, false, pool);
    Rows rows(8, 1024, 82);
    std::mt19937 random(83);
    std::normal_distribution<float> normal;
    for (float& value : rows.x) value = normal(random);
    Product product = multiply(*matrix, rows, 8, {}, machine_isa(), pool);
    double error2 = 0, norm2 = 0;
    for (int t = 0; t < 8; ++t) {
      for (int64_t r = 0; r < 64; ++r) {
        double exact = 0;
        for (int64_t k = 0; k < 1024; ++k) {
          exact += static_cast<double>(weights.value(r, k)) * static_cast<double>(rows.row(t)[k]);
        }
        error2 += (product.row(t)[r] - exact) * (product.row(t)[r] - exact);
        norm2 += exact * exact;
      }
    }
    // Rounding Gaussian rows to 127 steps of their block's maximum leaves about 0.5 %.
    EXPECT_TRUE(std::sqrt(error2 / norm2) < (is_float(dtype) ? 1e-6 : 0.008));
  }
}

LH_TEST_MAIN
