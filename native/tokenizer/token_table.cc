#include "tokenizer/token_table.h"

#include <bit>
#include <cstring>

namespace longhaul {
namespace {

// Eight bytes at a time; the strings are short (a token) and come from a model file chosen by the
// operator, so hash flooding is no concern.
uint32_t hash_bytes(std::string_view text) {
  uint64_t hash = text.size() * 0x9E3779B97F4A7C15u;
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + i, 8);
    hash = (hash ^ word) * 0xD6E8FEB86659FD93u;
    hash ^= hash >> 32;
  }
  if (i < text.size()) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + i, text.size() - i);
    hash = (hash ^ word) * 0xD6E8FEB86659FD93u;
    hash ^= hash >> 32;
  }
  hash *= 0x9E3779B97F4A7C15u;
  return static_cast<uint32_t>(hash >> 32);
}

}  // namespace

TokenIndex::TokenIndex(const char* arena, size_t count)
    : arena_(arena), slots_(std::bit_ceil(count * 2 + 1)), mask_(slots_.size() - 1) {}

void TokenIndex::insert(uint32_t begin, uint32_t end, int32_t id) {
  const std::string_view text(arena_ + begin, end - begin);
  const uint32_t hash = hash_bytes(text);
  for (size_t i = hash & mask_;; i = (i + 1) & mask_) {
    Slot& slot = slots_[i];
    if (slot.id < 0) {
      slot = {begin, end - begin, hash, id};
      return;
    }
    if (slot.hash == hash && view(slot) == text) return;
  }
}

int32_t TokenIndex::find(std::string_view text) const {
  if (slots_.empty()) return -1;
  const uint32_t hash = hash_bytes(text);
  for (size_t i = hash & mask_;; i = (i + 1) & mask_) {
    const Slot& slot = slots_[i];
    if (slot.id < 0) return -1;
    if (slot.hash == hash && view(slot) == text) return slot.id;
  }
}

PairIndex::PairIndex(size_t count)
    : slots_(std::bit_ceil(count * 2 + 1)), mask_(slots_.size() - 1) {}

void PairIndex::insert(int32_t left, int32_t right, uint64_t value) {
  const uint64_t key = make_key(left, right);
  for (size_t i = mix(key) & mask_;; i = (i + 1) & mask_) {
    if (slots_[i].key == key) return;
    if (slots_[i].key != kEmpty) continue;
    slots_[i] = {key, value};
    return;
  }
}

}  // namespace longhaul
