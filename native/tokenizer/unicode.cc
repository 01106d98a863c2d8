#include "tokenizer/unicode.h"

#include <algorithm>
#include <array>
#include <iterator>

namespace longhaul {
namespace {

constexpr uint32_t kRanges[] = {
#include "tokenizer/unicode_ranges.inc"
};

CharClass find_class(uint32_t code_point) {
  // The last range that begins at or before the code point; kRanges[0] begins at 0.
  const uint32_t* next =
      std::upper_bound(std::begin(kRanges), std::end(kRanges), code_point * 8 + 7);
  return static_cast<CharClass>(next[-1] & 7);
}

// One byte a code point of the basic plane (64 KiB), so that the common case is one load; the
// binary search over 3,000 ranges costs about ten times as much.
const std::array<uint8_t, 0x10000>& basic_plane() {
  static const std::array<uint8_t, 0x10000> table = [] {
    std::array<uint8_t, 0x10000> made{};
    for (uint32_t i = 0; i < made.size(); ++i) made[i] = static_cast<uint8_t>(find_class(i));
    return made;
  }();
  return table;
}

}  // namespace

CharClass char_class(uint32_t code_point) {
  static const std::array<uint8_t, 0x10000>& table = basic_plane();
  if (code_point < table.size()) return static_cast<CharClass>(table[code_point]);
  return find_class(code_point);
}

CodePoint decode_utf8(std::string_view text, size_t position) {
  constexpr CodePoint kInvalid = {0xFFFD, 1, false};
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[position + i]); };
  const uint32_t first = byte(0);
  if (first < 0x80) return {first, 1, true};
  const size_t left = text.size() - position;
  const uint32_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || left < length) return kInvalid;
  uint32_t value = first & (0x7Fu >> length);
  for (uint32_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return kInvalid;
    value = value << 6 | (byte(i) & 0x3F);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (value < kSmallest[length] || value > 0x10FFFF) return kInvalid;
  if (value >= 0xD800 && value <= 0xDFFF) return kInvalid;
  return {value, length, true};
}

void append_utf8(uint32_t code_point, std::string& out) {
  if (code_point < 0x80) {
    out.push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    out.push_back(static_cast<char>(0xC0 | code_point >> 6));
    out.push_back(static_cast<char>(0x80 | (code_point & 0x3F)));
  } else if (code_point < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | code_point >> 12));
    out.push_back(static_cast<char>(0x80 | (code_point >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code_point & 0x3F)));
  } else {
    out.push_back(static_cast<char>(0xF0 | code_point >> 18));
    out.push_back(static_cast<char>(0x80 | (code_point >> 12 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code_point >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code_point & 0x3F)));
  }
}

MarkedText utf16_to_utf8(std::u16string_view text, uint32_t mark) {
  MarkedText out;
  out.text.reserve(text.size() + text.size() / 8);
  for (size_t i = 0; i < text.size(); ++i) {
    uint32_t value = text[i];
    if (value >= 0xD800 && value <= 0xDBFF && i + 1 < text.size() && text[i + 1] >= 0xDC00 &&
        text[i + 1] <= 0xDFFF) {
      value = 0x10000 + ((value - 0xD800) << 10) + (text[++i] - 0xDC00u);
    } else if (value >= 0xD800 && value <= 0xDFFF) {
      value = 0xFFFD;
    }
    if (mark != 0 && value == mark) {
      out.breaks.push_back(out.text.size());
    } else {
      append_utf8(value, out.text);
    }
  }
  return out;
}

}  // namespace longhaul
