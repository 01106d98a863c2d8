// Random weights in their stored (GGUF) bytes and an independent reading of them: one value at a
// time, by index arithmetic on the block formats of docs/formats.md. Shares no code with the
// product.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "tensor.h"

namespace lh_test {

inline float half_value(uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return static_cast<float>(h & 0x8000 ? -magnitude : magnitude);
}

struct Stored {
  longhaul::DType dtype;
  int64_t rows, cols, stride;
  std::vector<uint8_t> bytes;  // starts at an odd address, as in a mapped file

  Stored(longhaul::DType type, int64_t num_rows, int64_t num_cols, uint32_t seed)
      : dtype(type), rows(num_rows), cols(num_cols), stride(longhaul::row_bytes(type, num_cols)) {
    bytes.resize(static_cast<size_t>(1 + rows * stride));
    std::mt19937 random(seed);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    std::normal_distribution<float> normal(0.0f, 0.5f);
    const longhaul::DTypeInfo& info = longhaul::dtype_info(type);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t b = 0; b < cols / info.block_elements; ++b) {
        uint8_t* block = row(r) + b * info.block_bytes;
        // Scales: finite halves of moderate size, now and then zero, negative or subnormal.
        const auto half = [&](int offset) {
          const uint32_t pick = random() % 64;
          uint16_t h = static_cast<uint16_t>((10 + random() % 6) << 10 | random() % 1024);
          if (pick == 0) h = 0;
          if (pick == 1) h = static_cast<uint16_t>(random() % 1024);
          if (pick < 20) h |= 0x8000;
          std::memcpy(block + offset, &h, 2);
        };
        switch (type) {
          case longhaul::DType::kF32: {
            const float value = normal(random);
            std::memcpy(block, &value, 4);
            break;
          }
          case longhaul::DType::kBF16: {
            const auto h = static_cast<uint16_t>(std::bit_cast<uint32_t>(normal(random)) >> 16);
            std::memcpy(block, &h, 2);
            break;
          }
          case longhaul::DType::kQ6_K:
            half(208);
            break;
          case longhaul::DType::kQ4_1:
          case longhaul::DType::kQ5_1:
          case longhaul::DType::kQ4_K:
          case longhaul::DType::kQ5_K:
            half(0);
            half(2);
            break;
          default:
            half(0);
        }
      }
    }
  }

  uint8_t* row(int64_t r) { return bytes.data() + 1 + r * stride; }
  const uint8_t* row(int64_t r) const { return bytes.data() + 1 + r * stride; }
  longhaul::TensorView view() const {
    return {"stored", dtype, rows, cols, reinterpret_cast<const std::byte*>(row(0))};
  }

  // value = quant * scale + min, each as the block stores it (min already with its sign).
  struct Element {
    int quant;
    float scale, min;
  };
  Element element(int64_t r, int64_t k) const {
    using longhaul::DType;
    const longhaul::DTypeInfo& info = longhaul::dtype_info(dtype);
    const uint8_t* b = row(r) + k / info.block_elements * info.block_bytes;
    const int i = static_cast<int>(k % info.block_elements);
    const auto half = [&](int offset) {
      return half_value(static_cast<uint16_t>(b[offset] | b[offset + 1] << 8));
    };
    const auto nibble = [](uint8_t byte, bool high) { return high ? byte >> 4 : byte & 15; };
    switch (dtype) {
      case DType::kQ8_0:
        return {static_cast<int8_t>(b[2 + i]), half(0), 0};
      case DType::kQ4_0:
        return {nibble(b[2 + i % 16], i >= 16) - 8, half(0), 0};
      case DType::kQ4_1:
        return {nibble(b[4 + i % 16], i >= 16), half(0), half(2)};
      case DType::kQ5_0: {
        const int high = b[2 + i / 8] >> (i % 8) & 1;
        return {nibble(b[6 + i % 16], i >= 16) + 16 * high - 16, half(0), 0};
      }
      case DType::kQ5_1: {
        const int high = b[4 + i / 8] >> (i % 8) & 1;
        return {nibble(b[8 + i % 16], i >= 16) + 16 * high, half(0), half(2)};
      }
      case DType::kQ4_K:
      case DType::kQ5_K: {
        const int j = i / 32;
        const uint8_t* s = b + 4;
        const int scale = j < 4 ? s[j] % 64 : s[j + 4] % 16 + s[j - 4] / 64 * 16;
        const int min = j < 4 ? s[j + 4] % 64 : s[j + 4] / 16 + s[j] / 64 * 16;
        const bool five = dtype == DType::kQ5_K;
        int q = nibble(b[(five ? 48 : 16) + i / 64 * 32 + i % 32], i % 64 >= 32);
        if (five) q += 16 * (b[16 + i % 32] >> j & 1);
        return {q, half(0) * static_cast<float>(scale), -(half(2) * static_cast<float>(min))};
      }
      case DType::kQ6_K: {
        const int part = i / 128, in = i % 128;
        const int low = nibble(b[part * 64 + in % 64], in >= 64);
        const int high = b[128 + part * 32 + in % 32] >> (in / 32 * 2) & 3;
        return {low + 16 * high - 32,
                half(208) * static_cast<float>(static_cast<int8_t>(b[192 + i / 16])), 0};
      }
      default:
        return {0, 0, 0};
    }
  }
  bool has_min() const {
    using longhaul::DType;
    return dtype == DType::kQ4_1 || dtype == DType::kQ5_1 || dtype == DType::kQ4_K ||
           dtype == DType::kQ5_K;
  }
  float value(int64_t r, int64_t k) const {
    using longhaul::DType;
    const uint8_t* b = row(r);
    if (dtype == DType::kF32) {
      float value;
      std::memcpy(&value, b + 4 * k, 4);
      return value;
    }
    const auto word = [&] { return static_cast<uint16_t>(b[2 * k] | b[2 * k + 1] << 8); };
    if (dtype == DType::kF16) return half_value(word());
    if (dtype == DType::kBF16) return std::bit_cast<float>(static_cast<uint32_t>(word()) << 16);
    const Element e = element(r, k);
    const float product = static_cast<float>(e.quant) * e.scale;
    return has_min() ? product + e.min : product;
  }
};

}  // namespace lh_test
