// Each block's quants are uniform over their range and its scale is chosen so that the values have
// the wanted deviation. Types without a minimum have quants off center by half a step; their scale
// takes a random sign, which makes the mean zero again.
#include "load/random_tensor.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <new>
#include <string_view>

namespace longhaul {
namespace {

// Counter-style 64-bit mixing generator (Steele, Lea and Flood, "Fast splittable pseudorandom
// number generators", OOPSLA 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t bound) {
    return static_cast<uint32_t>(((next() >> 32) * bound) >> 32);
  }
  float sign() { return (next() >> 63) != 0 ? -1.0f : 1.0f; }
  float uniform() { return static_cast<float>(next() >> 40) * 0x1p-24f; }
  // Sum of four uniform 16-bit numbers, centered and scaled to deviation 1; near enough to normal.
  float normal() {
    const uint64_t bits = next();
    const int32_t sum = static_cast<int32_t>((bits & 0xffff) + ((bits >> 16) & 0xffff) +
                                             ((bits >> 32) & 0xffff) + (bits >> 48));
    constexpr float kDeviation = 37837.0f;  // 65536 * sqrt(4 / 12)
    return static_cast<float>(sum - 131070) / kDeviation;
  }
  void fill(uint8_t* out, int count) {
    for (int i = 0; i < count; i += 8) {
      const uint64_t bits = next();
      std::memcpy(out + i, &bits, static_cast<size_t>(count - i < 8 ? count - i : 8));
    }
  }

 private:
  uint64_t state_;
};

uint16_t bf16_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Round to nearest even; values here are finite and far below 65504.
uint16_t f16_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const float magnitude = std::fabs(value);
  if (magnitude < 0x1p-14f) {  // subnormal: a multiple of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::lrintf(magnitude * 0x1p24f)));
  }
  const uint32_t rebased = (bits & 0x7fffffff) - (112u << 23);
  return static_cast<uint16_t>(sign | ((rebased + 0xfff + ((rebased >> 13) & 1)) >> 13));
}

void put_f16(uint8_t*& out, float value) {
  const uint16_t bits = f16_bits(value);
  std::memcpy(out, &bits, 2);
  out += 2;
}

void put_random(uint8_t*& out, int count, Random& random) {
  random.fill(out, count);
  out += count;
}

// Deviation of a number uniform over n integers.
float uniform_deviation(float n) { return std::sqrt((n * n - 1) / 12); }

// d [m] [high bits] quants: the 32-element types. num_levels quants; `minimum` types store m.
void fill_block_32(uint8_t* out, float deviation, int bits, bool minimum, Random& random) {
  const float levels = static_cast<float>(1 << bits);
  const float scale = deviation / uniform_deviation(levels);
  if (minimum) {
    put_f16(out, scale);
    put_f16(out, -scale * (levels - 1) / 2);
  } else {
    put_f16(out, scale * random.sign());
  }
  if (bits == 5) put_random(out, 4, random);
  put_random(out, 16, random);
}

void fill_q8_0(uint8_t* out, float deviation, Random& random) {
  put_f16(out, deviation / uniform_deviation(255));
  for (int i = 0; i < 32; ++i) {
    *out++ = static_cast<uint8_t>(static_cast<int8_t>(static_cast<int>(random.below(255)) - 127));
  }
}

// Scale and minimum of a sub-block share one 6-bit number: value = d * s * (q - (levels - 1) / 2).
void fill_block_k(uint8_t* out, float deviation, int bits, Random& random) {
  constexpr float kMeanScale = 23.5f;  // of the 16..31 drawn below
  const float levels = static_cast<float>(1 << bits);
  const float d = deviation / (uniform_deviation(levels) * kMeanScale);
  put_f16(out, d);
  put_f16(out, d * (levels - 1) / 2);
  uint8_t scale[8];
  for (uint8_t& s : scale) s = static_cast<uint8_t>(16 + random.below(16));
  // 12 bytes hold eight 6-bit scales and eight minima: the low four of each whole in the first
  // eight bytes, the high four split into a nibble (last four bytes) and two top bits.
  for (int j = 0; j < 4; ++j) {
    const uint8_t split = static_cast<uint8_t>(scale[j] | (scale[j + 4] >> 4) << 6);
    out[j] = split;
    out[j + 4] = split;
    out[j + 8] = static_cast<uint8_t>((scale[j + 4] & 15) | (scale[j + 4] & 15) << 4);
  }
  out += 12;
  if (bits == 5) put_random(out, 32, random);
  put_random(out, 128, random);
}

void fill_q6_k(uint8_t* out, float deviation, Random& random) {
  put_random(out, 128 + 64, random);
  for (int i = 0; i < 16; ++i) {
    const int scale = 16 + static_cast<int>(random.below(16));
    *out++ = static_cast<uint8_t>(static_cast<int8_t>(random.sign() < 0 ? -scale : scale));
  }
  put_f16(out, deviation / (uniform_deviation(64) * 23.5f));
}

void fill_block(DType dtype, uint8_t* out, float deviation, Random& random) {
  switch (dtype) {
    case DType::kQ8_0: return fill_q8_0(out, deviation, random);
    case DType::kQ4_0: return fill_block_32(out, deviation, 4, false, random);
    case DType::kQ4_1: return fill_block_32(out, deviation, 4, true, random);
    case DType::kQ5_0: return fill_block_32(out, deviation, 5, false, random);
    case DType::kQ5_1: return fill_block_32(out, deviation, 5, true, random);
    case DType::kQ4_K: return fill_block_k(out, deviation, 4, random);
    case DType::kQ5_K: return fill_block_k(out, deviation, 5, random);
    case DType::kQ6_K: return fill_q6_k(out, deviation, random);
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16: return;
  }
}

void fill_floats(const RandomTensor& request, float deviation, uint8_t* out, Random& random) {
  const int64_t count = request.rows * request.cols;
  for (int64_t i = 0; i < count; ++i) {
    const float value = request.kind == RandomKind::kNorm
                            ? 0.9f + 0.2f * random.uniform() + request.norm_offset
                            : deviation * random.normal();
    if (request.dtype == DType::kF32) {
      std::memcpy(out + 4 * i, &value, 4);
    } else {
      const uint16_t bits = request.dtype == DType::kF16 ? f16_bits(value) : bf16_bits(value);
      std::memcpy(out + 2 * i, &bits, 2);
    }
  }
}

}  // namespace

RandomKind random_kind_of(const char* name) {
  const std::string_view text(name);
  if (text.ends_with("norm")) return RandomKind::kNorm;
  if (text.ends_with("bias")) return RandomKind::kBias;
  return RandomKind::kMatrix;
}

Result<std::unique_ptr<std::byte[]>> make_random_tensor(const RandomTensor& request) {
  const DTypeInfo& info = dtype_info(request.dtype);
  constexpr int64_t kSideMax = int64_t{1} << 31;
  if (request.rows < 1 || request.cols < 1 || request.rows > kSideMax || request.cols > kSideMax ||
      request.rows > (int64_t{1} << 44) / request.cols || request.cols % info.block_elements != 0) {
    return error(ErrorCode::kModelFormat, "random %s tensor: a shape of [%lld, %lld] is not possible",
                 info.name, static_cast<long long>(request.rows),
                 static_cast<long long>(request.cols));
  }
  const int64_t bytes = request.rows * row_bytes(request.dtype, request.cols);
  std::unique_ptr<std::byte[]> data(new (std::nothrow) std::byte[static_cast<size_t>(bytes)]);
  if (!data) {
    return error(ErrorCode::kOutOfMemory, "random tensor: cannot allocate %lld bytes",
                 static_cast<long long>(bytes));
  }
  Random random(request.seed);
  const float deviation = request.kind == RandomKind::kBias
                              ? 0.02f
                              : 1.0f / std::sqrt(static_cast<float>(request.cols));
  uint8_t* out = reinterpret_cast<uint8_t*>(data.get());
  if (info.block_elements == 1) {
    fill_floats(request, deviation, out, random);
    return data;
  }
  for (int64_t at = 0; at < bytes; at += info.block_bytes) {
    fill_block(request.dtype, out + at, deviation, random);
  }
  return data;
}

}  // namespace longhaul
