// qkv_finish against its definition in double, and against the arithmetic of the CPU backend.
#include "qkv_finish.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <random>

#include "backend/cpu/rope.h"
#include "backend/cpu/small_ops.h"
#include "device_array.h"
#include "product_rows.h"
#include "qkv_finish_cases.h"

using namespace longhaul::device;
using namespace lh_test;

namespace {

constexpr float kEps = 1e-5f;
constexpr int32_t kNumBlocks = 7, kLayers = 3, kLayer = 1;

double fp8_value(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const double sign = bits & 0x80 ? -1 : 1;
  if ((bits & 0x7f) == 0x7f) return NAN;
  return sign *
         (exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10));
}

int32_t element_bytes(CacheType type) {
  return type == CacheType::kF16 || type == CacheType::kBF16 ? 2 : 1;
}
bool has_scales(CacheType type) { return element_bytes(type) == 1; }

// Everything a launch reads, on the host.
struct Inputs {
  QkvShape shape = {};
  CacheType type = CacheType::kF16;
  std::vector<float> qkv, bias, q_norm, k_norm, inv_freq;
  float attention_factor = 1.0f;
  std::vector<int32_t> positions;
  std::vector<int64_t> slots;
  int64_t qkv_stride = 0, q_stride = 0;

  int64_t width() const {
    return int64_t{shape.num_heads + 2 * shape.num_kv_heads} * shape.head_dim;
  }
  int64_t head_bytes() const {
    return int64_t{shape.block_size} * shape.head_dim * element_bytes(type) +
           (has_scales(type) ? 4 * shape.block_size : 0);
  }
  int64_t layer_bytes() const { return 2 * head_bytes() * shape.num_kv_heads; }
  int64_t block_bytes() const { return kLayers * layer_bytes(); }
};

Inputs make_inputs(const QkvShape& shape, CacheType type) {
  Inputs in;
  in.shape = shape;
  in.type = type;
  std::mt19937 random(static_cast<uint32_t>(shape.head_dim * 31 + shape.num_heads));
  std::normal_distribution<float> normal(0, 1);
  const auto fill = [&](size_t count, float deviation) {
    std::vector<float> values(count);
    for (float& x : values) x = deviation * normal(random);
    return values;
  };
  in.qkv_stride = in.width() + 4;
  in.q_stride = int64_t{shape.num_heads} * shape.head_dim + 8;
  in.qkv = fill(static_cast<size_t>(in.qkv_stride * shape.rows), 2.0f);
  if (shape.bias) in.bias = fill(static_cast<size_t>(in.width()), 0.5f);
  if (shape.norms) {
    in.q_norm = fill(static_cast<size_t>(shape.head_dim), 1.0f);
    in.k_norm = fill(static_cast<size_t>(shape.head_dim), 1.0f);
  }
  for (int32_t i = 0; i < shape.half_dim; ++i) {
    in.inv_freq.push_back(static_cast<float>(std::pow(10000.0, -double{1} * i / shape.half_dim)));
  }
  in.attention_factor = shape.head_dim == 96 ? 1.19f : 1.0f;
  std::vector<int64_t> all(static_cast<size_t>(kNumBlocks * shape.block_size));
  std::iota(all.begin(), all.end(), 0);
  std::shuffle(all.begin(), all.end(), random);
  for (int32_t row = 0; row < shape.rows; ++row) {
    in.positions.push_back(row % 2 == 0 ? row * 37 : 1000000 + row * 7919);
    in.slots.push_back(row == 1 ? -1 : all[static_cast<size_t>(row)]);
  }
  return in;
}

struct Outputs {
  std::vector<float> q;       // [rows, q_stride]
  std::vector<uint8_t> pool;  // kNumBlocks blocks
};

Outputs run(const Inputs& in) {
  const QkvShape& shape = in.shape;
  DeviceArray<float> qkv(in.qkv), bias(in.bias), q_norm(in.q_norm), k_norm(in.k_norm);
  DeviceArray<float> inv_freq(in.inv_freq);
  DeviceArray<int32_t> positions(in.positions);
  DeviceArray<int64_t> slots(in.slots);
  DeviceArray<float> q(static_cast<size_t>(in.q_stride * shape.rows));
  DeviceArray<uint8_t> pool(static_cast<size_t>(kNumBlocks * in.block_bytes()));
  QkvFinishParams params;
  params.qkv = qkv.data();
  params.qkv_stride = in.qkv_stride;
  params.bias = shape.bias ? bias.data() : nullptr;
  params.q_norm = shape.norms ? q_norm.data() : nullptr;
  params.k_norm = shape.norms ? k_norm.data() : nullptr;
  params.eps = kEps;
  params.inv_freq = inv_freq.data();
  params.half_dim = shape.half_dim;
  params.interleaved = shape.interleaved;
  params.attention_factor = in.attention_factor;
  params.positions = positions.data();
  params.slot_mapping = slots.data();
  params.q = q.data();
  params.q_stride = in.q_stride;
  params.cache.blocks = reinterpret_cast<std::byte*>(pool.data()) + kLayer * in.layer_bytes();
  params.cache.block_bytes = in.block_bytes();
  params.cache.head_bytes = in.head_bytes();
  params.cache.block_size = shape.block_size;
  params.cache.num_kv_heads = shape.num_kv_heads;
  params.cache.head_dim = shape.head_dim;
  params.cache.type = in.type;
  params.rows = shape.rows;
  params.num_heads = shape.num_heads;
  EXPECT_EQ(launch_qkv_finish(params, TestDevice::get().stream()), 0);
  return {q.download(), pool.download()};
}

// One head by the definitions: bias is in x already.
std::vector<double> finished(const Inputs& in, std::vector<double> x,
                             const std::vector<float>& norm, int32_t position) {
  const int32_t n = in.shape.head_dim, half = in.shape.half_dim;
  if (!norm.empty()) {
    double squares = 0;
    for (const double value : x) squares += value * value;
    for (int32_t i = 0; i < n; ++i) {
      x[static_cast<size_t>(i)] *= norm[static_cast<size_t>(i)] / std::sqrt(squares / n + kEps);
    }
  }
  std::vector<double> y = x;
  for (int32_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * in.inv_freq[static_cast<size_t>(i)];
    const double c = std::cos(angle) * in.attention_factor;
    const double s = std::sin(angle) * in.attention_factor;
    const auto a = static_cast<size_t>(in.shape.interleaved ? 2 * i : i);
    const auto b = static_cast<size_t>(in.shape.interleaved ? 2 * i + 1 : i + half);
    y[a] = x[a] * c - x[b] * s;
    y[b] = x[a] * s + x[b] * c;
  }
  if (in.type != CacheType::kQ8) return y;
  const int32_t run = n & -n;
  std::vector<double> rotated(y.size());
  for (int32_t i = 0; i < n; ++i) {
    double sum = 0;
    for (int32_t j = 0; j < run; ++j) {
      const bool negative = std::popcount(static_cast<uint32_t>(i % run & j)) % 2 == 1;
      const double value = y[static_cast<size_t>(i / run * run + j)];
      sum += negative ? -value : value;
    }
    rotated[static_cast<size_t>(i)] = sum;
  }
  return rotated;
}

std::vector<double> biased(const Inputs& in, int64_t row, int64_t first) {
  std::vector<double> x;
  for (int64_t i = first; i < first + in.shape.head_dim; ++i) {
    const double bias = in.shape.bias ? in.bias[static_cast<size_t>(i)] : 0;
    x.push_back(static_cast<float>(in.qkv[static_cast<size_t>(row * in.qkv_stride + i)] + bias));
  }
  return x;
}

double largest(const std::vector<double>& x) {
  double most = 0;
  for (const double value : x) most = std::max(most, std::fabs(value));
  return most;
}

// Stored numbers of one head and token, and where they are.
struct StoredHead {
  const uint8_t* numbers;
  float scale;
};
StoredHead stored(const Inputs& in, const std::vector<uint8_t>& pool, int64_t slot, int32_t head,
                  bool value, std::vector<uint8_t>* written) {
  const QkvShape& shape = in.shape;
  const int64_t token = slot % shape.block_size;
  const int64_t base = slot / shape.block_size * in.block_bytes() + kLayer * in.layer_bytes() +
                       (head + (value ? shape.num_kv_heads : 0)) * in.head_bytes();
  const int64_t row_bytes = int64_t{shape.head_dim} * element_bytes(in.type);
  const int64_t at = base + token * row_bytes;
  std::fill_n(written->begin() + at, row_bytes, uint8_t{1});
  StoredHead out{&pool[static_cast<size_t>(at)], 1.0f};
  if (has_scales(in.type)) {
    const int64_t scale_at = base + shape.block_size * row_bytes + 4 * token;
    std::fill_n(written->begin() + scale_at, 4, uint8_t{1});
    std::memcpy(&out.scale, &pool[static_cast<size_t>(scale_at)], 4);
  }
  return out;
}

void expect_stored(const Inputs& in, const StoredHead& head, const std::vector<double>& want,
                   double tolerance) {
  if (has_scales(in.type)) {
    const double most = in.type == CacheType::kQ8 ? 127 : 448;
    const double scale = largest(want) / most;
    EXPECT_NEAR(head.scale, scale, scale * 1e-5 + tolerance / most);
  }
  int wrong = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    double found = 0, step = 0;
    uint16_t half;
    std::memcpy(&half, head.numbers + 2 * (element_bytes(in.type) == 2 ? i : 0), 2);
    switch (in.type) {
      case CacheType::kF16:
        found = half_value(half);
        step = std::max(std::fabs(want[i]) * 0x1p-11, 0x1p-25);
        break;
      case CacheType::kBF16:
        found = bfloat_value(half);
        step = std::fabs(want[i]) * 0x1p-8;
        break;
      case CacheType::kQ8:
        found = double{head.scale} * static_cast<int8_t>(head.numbers[i]);
        step = 0.5001 * head.scale;
        break;
      case CacheType::kFp8:
        found = head.scale * fp8_value(head.numbers[i]);
        step = std::max(std::fabs(want[i]) * 0x1.01p-4, 0x1.01p-10 * head.scale);
        break;
    }
    if (!(std::fabs(found - want[i]) <= step + tolerance)) ++wrong;
  }
  EXPECT_EQ(wrong, 0);
}

std::string name_of(const Inputs& in) {
  return "head_dim " + std::to_string(in.shape.head_dim) + ", type " +
         std::to_string(static_cast<int>(in.type)) + ", rows " + std::to_string(in.shape.rows);
}

void check(const Inputs& in) {
  const QkvShape& shape = in.shape;
  const int before = failures();
  const Outputs out = run(in);
  const int64_t q_width = int64_t{shape.num_heads} * shape.head_dim;
  const int64_t k_width = int64_t{shape.num_kv_heads} * shape.head_dim;
  std::vector<uint8_t> written(out.pool.size(), 0);
  // What f32 may be off after the sums of the rotation.
  const double growth = in.type == CacheType::kQ8 ? shape.head_dim & -shape.head_dim : 4;
  for (int64_t row = 0; row < shape.rows; ++row) {
    const int32_t position = in.positions[static_cast<size_t>(row)];
    for (int32_t head = 0; head < shape.num_heads; ++head) {
      const std::vector<double> want =
          finished(in, biased(in, row, int64_t{head} * shape.head_dim), in.q_norm, position);
      const double tolerance = 1e-6 * (growth + largest(want));
      for (int32_t i = 0; i < shape.head_dim; ++i) {
        const auto at = static_cast<size_t>(row * in.q_stride + head * shape.head_dim + i);
        EXPECT_NEAR(out.q[at], want[static_cast<size_t>(i)], tolerance);
      }
    }
    for (int64_t i = q_width; i < in.q_stride; ++i) {
      EXPECT_TRUE(is_poison(out.q[static_cast<size_t>(row * in.q_stride + i)]));
    }
    const int64_t slot = in.slots[static_cast<size_t>(row)];
    if (slot < 0) continue;
    for (int32_t head = 0; head < shape.num_kv_heads; ++head) {
      const int64_t at = q_width + int64_t{head} * shape.head_dim;
      const std::vector<double> k = finished(in, biased(in, row, at), in.k_norm, position);
      const std::vector<double> v = biased(in, row, at + k_width);
      const StoredHead k_stored = stored(in, out.pool, slot, head, false, &written);
      const StoredHead v_stored = stored(in, out.pool, slot, head, true, &written);
      expect_stored(in, k_stored, k, 1e-6 * (growth + largest(k)));
      expect_stored(in, v_stored, v, 1e-6);
    }
  }
  // Nothing else of the pool was touched: other layers, tokens, blocks.
  size_t stray = 0;
  for (size_t i = 0; i < written.size(); ++i) {
    if (!written[i] && out.pool[i] != kPoisonByte) ++stray;
  }
  EXPECT_EQ(stray, size_t{0});
  if (failures() != before) std::printf("  in %s\n", name_of(in).c_str());
}

}  // namespace

LH_TEST(every_shape_and_type_is_its_definition) {
  for (const QkvShape& shape : kQkvShapes) {
    for (const CacheType type : kCacheTypes) check(make_inputs(shape, type));
  }
}

LH_TEST(angles_are_accurate_at_any_position) {
  // Unit vectors come out as cosines and sines.
  QkvShape shape{128, 1, 1, 64, false, false, false, 0, 32};
  const std::vector<int32_t> positions = {0,       1,       2,        4095,     131071,
                                          1048575, 1048576, 16777215, 16777216, 1 << 30};
  shape.rows = static_cast<int32_t>(positions.size());
  for (const double theta : {10000.0, 500000.0, 100000000.0}) {
    for (const int32_t pair : {0, 1, 7, 31, 63}) {
      Inputs in = make_inputs(shape, CacheType::kF16);
      in.positions = positions;
      for (size_t i = 0; i < in.inv_freq.size(); ++i) {
        in.inv_freq[i] = static_cast<float>(std::pow(theta, -static_cast<double>(i) / 64));
      }
      std::fill(in.qkv.begin(), in.qkv.end(), 0.0f);
      for (int64_t row = 0; row < shape.rows; ++row) {
        in.qkv[static_cast<size_t>(row * in.qkv_stride + pair)] = 1.0f;
      }
      const Outputs out = run(in);
      for (size_t row = 0; row < positions.size(); ++row) {
        const double angle =
            static_cast<double>(positions[row]) * in.inv_freq[static_cast<size_t>(pair)];
        const float* q = &out.q[row * static_cast<size_t>(in.q_stride)];
        const double tolerance = positions[row] > 1 << 25 ? 1e-6 : 1.5e-7;
        EXPECT_NEAR(q[pair], std::cos(angle), tolerance);
        EXPECT_NEAR(q[pair + 64], std::sin(angle), tolerance);
      }
    }
  }
}

LH_TEST(bytes_are_those_of_the_cpu_backend) {
  const longhaul::cpu::RowOps& ops = longhaul::cpu::row_ops_scalar();
  longhaul::cpu::ThreadPool pool(1);
  int64_t compared = 0, equal = 0;
  for (const QkvShape& shape : kQkvShapes) {
    for (const CacheType type : {CacheType::kQ8, CacheType::kF16}) {
      if (shape.rows == 0 || shape.half_dim == 0) continue;
      const Inputs in = make_inputs(shape, type);
      const Outputs out = run(in);
      longhaul::RopeConfig config;
      config.style = shape.interleaved ? longhaul::RopeStyle::kInterleaved
                                       : longhaul::RopeStyle::kHalf;
      config.dim = 2 * shape.half_dim;
      config.inv_freq = in.inv_freq;
      config.attention_factor = in.attention_factor;
      const longhaul::cpu::CpuRopeTable rope(config);
      rope.prepare(in.positions.data(), shape.rows, pool);
      std::vector<uint8_t> written(out.pool.size(), 0);

      for (int32_t row = 0; row < shape.rows; ++row) {
        const int64_t slot = in.slots[static_cast<size_t>(row)];
        if (slot < 0) continue;
        std::vector<float> x(in.qkv.begin() + row * in.qkv_stride,
                             in.qkv.begin() + row * in.qkv_stride + in.width());
        if (shape.bias) ops.add(in.bias.data(), static_cast<int32_t>(in.width()), x.data());
        for (int32_t head = 0; head < shape.num_kv_heads; ++head) {
          float* k = x.data() + int64_t{shape.num_heads + head} * shape.head_dim;
          float* v = k + int64_t{shape.num_kv_heads} * shape.head_dim;
          if (shape.norms) ops.rms_norm(k, in.k_norm.data(), kEps, shape.head_dim, k);
          (shape.interleaved ? ops.rotate_interleaved : ops.rotate_halves)(
              k, rope.cos(row), rope.sin(row), shape.half_dim);
          if (type == CacheType::kQ8) {
            ops.rotate_hadamard(k, shape.head_dim, shape.head_dim & -shape.head_dim);
          }
          for (const bool value : {false, true}) {
            const StoredHead found = stored(in, out.pool, slot, head, value, &written);
            const float* from = value ? v : k;
            if (type == CacheType::kF16) {
              for (int32_t i = 0; i < shape.head_dim; ++i) {
                uint16_t bits;
                std::memcpy(&bits, found.numbers + 2 * i, 2);
                // One step of f16, or what the f32 before it may differ by.
                EXPECT_NEAR(half_value(bits), from[i], std::fabs(from[i]) * 0x1p-10 + 1e-5);
              }
              continue;
            }
            std::vector<int8_t> q8(static_cast<size_t>(shape.head_dim));
            const float scale = ops.quantize(from, shape.head_dim, q8.data());
            EXPECT_NEAR(found.scale, scale, scale * 2e-6);
            for (int32_t i = 0; i < shape.head_dim; ++i) {
              const int step = q8[static_cast<size_t>(i)] - static_cast<int8_t>(found.numbers[i]);
              EXPECT_TRUE(step >= -1 && step <= 1);
              ++compared;
              equal += step == 0 ? 1 : 0;
            }
            // Values go through no arithmetic that could round differently.
            if (value) EXPECT_EQ(found.scale, scale);
          }
        }
      }
    }
  }
  EXPECT_TRUE(compared > 10000);
  EXPECT_TRUE(equal >= compared * 999 / 1000);
}

LH_TEST(what_is_not_finite_shows_in_the_scale_of_the_keys) {
  const QkvShape shape{64, 2, 2, 32, false, false, false, 6, 32};
  for (const CacheType type : {CacheType::kQ8, CacheType::kFp8}) {
    Inputs in = make_inputs(shape, type);
    const auto at = [&](int64_t row, int64_t head, int64_t channel) -> float& {
      return in.qkv[static_cast<size_t>(row * in.qkv_stride + head * 64 + channel)];
    };
    at(0, 2, 5) = NAN;       // K of kv head 0
    at(2, 4, 63) = INFINITY; // V of kv head 0
    at(3, 5, 0) = -INFINITY; // V of kv head 1
    for (int64_t i = 0; i < 64; ++i) at(4, 2, i) = 0.0f;   // nothing at all
    for (int64_t i = 0; i < 64; ++i) at(5, 4, i) = 1e-38f; // too small to divide by
    const Outputs out = run(in);
    std::vector<uint8_t> written(out.pool.size(), 0);
    for (int64_t row = 0; row < shape.rows; ++row) {
      if (in.slots[static_cast<size_t>(row)] < 0) continue;
      for (int32_t head = 0; head < 2; ++head) {
        const int64_t slot = in.slots[static_cast<size_t>(row)];
        const StoredHead k = stored(in, out.pool, slot, head, false, &written);
        const StoredHead v = stored(in, out.pool, slot, head, true, &written);
        const bool bad_k = row == 0 && head == 0;
        const bool bad_v = (row == 2 && head == 0) || (row == 3 && head == 1);
        EXPECT_EQ(std::isnan(k.scale), bad_k || bad_v);
        EXPECT_TRUE(std::isfinite(v.scale));
        const bool zero_v = bad_v || (row == 5 && head == 0);
        const bool zero_k = bad_k || (row == 4 && head == 0);
        EXPECT_EQ(v.scale == 0.0f, zero_v);
        if (row == 4 && head == 0) EXPECT_EQ(k.scale, 0.0f);
        for (int32_t i = 0; i < 64; ++i) {
          if (zero_k) EXPECT_EQ(static_cast<int>(k.numbers[i]), 0);
          if (zero_v) EXPECT_EQ(static_cast<int>(v.numbers[i]), 0);
        }
      }
    }
  }
}

LH_TEST(shapes_without_a_kernel_are_refused) {
  QkvFinishParams params;
  params.rows = 1;
  params.num_heads = 1;
  params.cache.num_kv_heads = 1;
  params.cache.block_size = 32;
  params.cache.head_dim = 72;
  EXPECT_EQ(launch_qkv_finish(params, TestDevice::get().stream()), kInvalidLaunch);
  params.cache.head_dim = 528;
  EXPECT_EQ(launch_qkv_finish(params, TestDevice::get().stream()), kInvalidLaunch);
  params.cache.head_dim = 64;
  params.half_dim = 33;
  EXPECT_EQ(launch_qkv_finish(params, TestDevice::get().stream()), kInvalidLaunch);
}

LH_TEST_MAIN
