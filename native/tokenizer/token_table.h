// Token strings and a hash index over some of them. Immutable once built.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

// String -> id, open addressing; the strings live elsewhere (in the tokenizer's arena).
class TokenIndex {
 public:
  // Room for `count` strings; each of them is a range of `arena`, which must outlive the index.
  TokenIndex(const char* arena, size_t count);
  TokenIndex() = default;

  // The first string of equal ones stays.
  void insert(uint32_t begin, uint32_t end, int32_t id);
  // -1 when absent.
  int32_t find(std::string_view text) const;

 private:
  struct Slot {
    uint32_t begin = 0;
    uint32_t length = 0;
    uint32_t hash = 0;
    int32_t id = -1;
  };
  std::string_view view(const Slot& slot) const { return {arena_ + slot.begin, slot.length}; }

  const char* arena_ = nullptr;
  std::vector<Slot> slots_;  // a power of two, at most half full
  size_t mask_ = 0;
};

// (left id, right id) -> priority << 32 | merged id, open addressing.
class PairIndex {
 public:
  explicit PairIndex(size_t count);
  PairIndex() = default;

  // The first entry of a pair stays.
  void insert(int32_t left, int32_t right, uint64_t value);
  // kNoMerge (all ones) when absent.
  uint64_t find(int32_t left, int32_t right) const {
    if (slots_.empty()) return ~uint64_t{0};
    const uint64_t key = make_key(left, right);
    for (size_t i = mix(key) & mask_;; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return slots_[i].value;
      if (slots_[i].key == kEmpty) return ~uint64_t{0};
    }
  }

 private:
  // No pair of ids has this key: ids are below 2^31 and -1 is never looked up as both.
  static constexpr uint64_t kEmpty = ~uint64_t{0} - 1;
  static uint64_t make_key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 |
           static_cast<uint32_t>(right);
  }
  static uint64_t mix(uint64_t key) {
    key *= 0x9E3779B97F4A7C15u;
    return key ^ key >> 32;
  }

  struct Slot {
    uint64_t key = kEmpty;
    uint64_t value = 0;
  };
  std::vector<Slot> slots_;
  size_t mask_ = 0;
};

}  // namespace longhaul
