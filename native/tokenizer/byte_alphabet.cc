#include "tokenizer/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "tokenizer/unicode.h"

namespace longhaul {
namespace {

constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr uint32_t kCodePoints = 0x100 + 68;

// Code point -> byte, -1 outside the alphabet.
constexpr std::array<int16_t, kCodePoints> kBytes = [] {
  std::array<int16_t, kCodePoints> table{};
  table.fill(-1);
  size_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const size_t code_point = stands_for_itself(byte) ? static_cast<size_t>(byte) : next++;
    table[code_point] = static_cast<int16_t>(byte);
  }
  return table;
}();

}  // namespace

bool decode_byte_alphabet(std::string_view token, std::string& out) {
  const size_t before = out.size();
  for (size_t i = 0; i < token.size();) {
    const CodePoint point = decode_utf8(token, i);
    if (!point.valid || point.value >= kCodePoints || kBytes[point.value] < 0) {
      out.resize(before);
      return false;
    }
    out.push_back(static_cast<char>(kBytes[point.value]));
    i += point.length;
  }
  return true;
}

}  // namespace longhaul
