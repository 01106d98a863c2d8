// ByteLanes: the integer side of Lanes, for 8-bit keys and values. A unit is 64 bytes: 16 lanes
// (tokens of K, channels of V) of 4 bytes each (channels of K, tokens of V); every lane adds up
// its four products exactly. Like Lanes, once for each instruction set and in an unnamed
// namespace.
//
// VPDPBUSD multiplies unsigned by signed bytes, so keys are stored with 128 added and weights of
// values are unsigned. AVX2 has no exact 8-bit product: bytes are split into 16-bit numbers.
#pragma once

#include "backend/cpu/attention_lanes.h"

namespace longhaul::cpu {
namespace {

// Four neighboring bytes, wherever they lie.
static inline int32_t load_four(const void* from) {
  int32_t value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

#if defined(__AVX512F__)

struct ByteLanes {
  using I = __m512i;
  struct Unit { __m512i bytes; };
  struct Four { __m512i bytes; };
  static constexpr int kQueryBytes = 4;  // of four packed query channels

  static I broadcast(int32_t x) { return _mm512_set1_epi32(x); }
  static Unit load_unsigned(const uint8_t* unit, int) { return {_mm512_loadu_si512(unit)}; }
  static Unit load_signed(const int8_t* unit, int) { return {_mm512_loadu_si512(unit)}; }
  static void pack_query(const int8_t* four, int8_t* packed) {
    __builtin_memcpy(packed, four, 4);
  }
  static Four load_query(const int8_t* packed) { return {_mm512_set1_epi32(load_four(packed))}; }
  static Four load_weights(const uint8_t* four) { return {_mm512_set1_epi32(load_four(four))}; }
  // _mm512_dpbusd_epi32 as an instruction of ours: for the builtin, GCC 12 copies every sum to
  // another register and back, and spills some (a prefill's attention took 1.5 times as long).
  static I add_products(I sum, __m512i a, __m512i b) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
  static I add_keys(I sum, const Unit& keys, const Four& query) {
    return add_products(sum, keys.bytes, query.bytes);
  }
  static I add_values(I sum, const Four& weights, const Unit& values) {
    return add_products(sum, weights.bytes, values.bytes);
  }
  static Lanes::F to_float(I x) { return _mm512_cvtepi32_ps(x); }
  static void store_rounded(uint8_t* out, Lanes::F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                     _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
  }
  static float largest(Lanes::F x) { return _mm512_reduce_max_ps(x); }
};

#elif defined(__AVX2__)

struct ByteLanes {
  using I = __m256i;
  struct Unit { __m256i even, odd; };  // bytes 0, 2 and 1, 3 of each lane
  using Four = Unit;
  static constexpr int kQueryBytes = 8;

  static I broadcast(int32_t x) { return _mm256_set1_epi32(x); }
  static Unit split_unsigned(__m256i x) {
    return {_mm256_and_si256(x, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(x, 8)};
  }
  static __m256i load(const void* unit, int lane) {
    return _mm256_loadu_si256(
        reinterpret_cast<const __m256i*>(static_cast<const char*>(unit) + 4 * lane));
  }
  static Unit load_unsigned(const uint8_t* unit, int lane) {
    return split_unsigned(load(unit, lane));
  }
  static Unit load_signed(const int8_t* unit, int lane) {
    const __m256i x = load(unit, lane);
    return {_mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), _mm256_srai_epi16(x, 8)};
  }
  static void pack_query(const int8_t* four, int8_t* packed) {
    const int16_t wide[4] = {four[0], four[2], four[1], four[3]};
    __builtin_memcpy(packed, wide, sizeof(wide));
  }
  static Four load_query(const int8_t* packed) {
    return {_mm256_set1_epi32(load_four(packed)), _mm256_set1_epi32(load_four(packed + 4))};
  }
  static Four load_weights(const uint8_t* four) {
    return split_unsigned(_mm256_set1_epi32(load_four(four)));
  }
  static I add_products(I sum, const Unit& a, const Unit& b) {
    return _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(a.even, b.even),
                                                  _mm256_madd_epi16(a.odd, b.odd)));
  }
  static I add_keys(I sum, const Unit& keys, const Four& query) {
    return add_products(sum, keys, query);
  }
  static I add_values(I sum, const Four& weights, const Unit& values) {
    return add_products(sum, weights, values);
  }
  static Lanes::F to_float(I x) { return _mm256_cvtepi32_ps(x); }
  static void store_rounded(uint8_t* out, Lanes::F x) {
    const __m256i rounded = _mm256_cvtps_epi32(x);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(rounded),
                                           _mm256_extracti128_si256(rounded, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(words, words));
  }
  static float largest(Lanes::F x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
  }
};

#else

struct ByteLanes {
  struct I {
    int32_t v[Lanes::kWidth];
  };
  struct Unit {
    int32_t v[Lanes::kWidth][4];
  };
  struct Four {
    int32_t v[4];
  };
  static constexpr int kQueryBytes = 4;

  static I broadcast(int32_t x) {
    I result;
    for (int32_t& value : result.v) value = x;
    return result;
  }
  template <typename Byte>
  static Unit widen(const Byte* unit, int lane) {
    Unit result;
    for (int i = 0; i < Lanes::kWidth; ++i) {
      for (int j = 0; j < 4; ++j) result.v[i][j] = unit[4 * (lane + i) + j];
    }
    return result;
  }
  static Unit load_unsigned(const uint8_t* unit, int lane) { return widen(unit, lane); }
  static Unit load_signed(const int8_t* unit, int lane) { return widen(unit, lane); }
  static void pack_query(const int8_t* four, int8_t* packed) {
    for (int j = 0; j < 4; ++j) packed[j] = four[j];
  }
  static Four load_query(const int8_t* packed) {
    return {{packed[0], packed[1], packed[2], packed[3]}};
  }
  static Four load_weights(const uint8_t* four) { return {{four[0], four[1], four[2], four[3]}}; }
  static I add_keys(const I& sum, const Unit& keys, const Four& query) {
    I result = sum;
    for (int i = 0; i < Lanes::kWidth; ++i) {
      for (int j = 0; j < 4; ++j) result.v[i] += keys.v[i][j] * query.v[j];
    }
    return result;
  }
  static I add_values(const I& sum, const Four& weights, const Unit& values) {
    return add_keys(sum, values, weights);
  }
  static Lanes::F to_float(const I& x) {
    return Lanes::each([&](int i) { return static_cast<float>(x.v[i]); });
  }
  static void store_rounded(uint8_t* out, const Lanes::F& x) {
    for (int i = 0; i < Lanes::kWidth; ++i) {
      out[i] = static_cast<uint8_t>(Lanes::bits_of(x.v[i] + kExp2Round));
    }
  }
  static float largest(const Lanes::F& x) {
    float result = x.v[0];
    for (const float value : x.v) result = value > result ? value : result;
    return result;
  }
};

#endif

}  // namespace
}  // namespace longhaul::cpu
