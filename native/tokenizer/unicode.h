// Code points: UTF-8 decoding, UTF-16 conversion and the character classes pre-tokenizers need.
// The class table comes from generate_unicode.mjs. Everything here accepts any bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

// Disjoint; values are those of unicode_ranges.inc.
enum class CharClass : uint8_t {
  kOther = 0,
  kUpper = 1,        // Lu, Lt
  kLower = 2,        // Ll
  kOtherLetter = 3,  // Lm, Lo
  kMark = 4,         // M
  kNumber = 5,       // N
  kSpace = 6,        // White_Space
};

CharClass char_class(uint32_t code_point);

// char_class for code points below 128, without a table.
constexpr CharClass ascii_class(uint8_t c) {
  if (c >= 'a' && c <= 'z') return CharClass::kLower;
  if (c >= 'A' && c <= 'Z') return CharClass::kUpper;
  if (c >= '0' && c <= '9') return CharClass::kNumber;
  return c == ' ' || (c >= 9 && c <= 13) ? CharClass::kSpace : CharClass::kOther;
}

constexpr bool is_letter(CharClass c) {
  return c == CharClass::kUpper || c == CharClass::kLower || c == CharClass::kOtherLetter;
}

struct CodePoint {
  uint32_t value;   // U+FFFD when the bytes are not valid UTF-8
  uint32_t length;  // bytes consumed, at least 1; 1 when not valid
  bool valid;
};

// Decodes one code point at `position`, which must be below text.size(). Overlong forms,
// surrogates and values above U+10FFFF are not valid.
CodePoint decode_utf8(std::string_view text, size_t position);

// UTF-8 text and the byte offsets at which break marks stood (ascending, duplicates kept).
struct MarkedText {
  std::string text;
  std::vector<size_t> breaks;
};

// Lone surrogates become U+FFFD. Each `mark` (0 = none) is left out and its place recorded.
MarkedText utf16_to_utf8(std::u16string_view text, uint32_t mark);

// Appends one code point as UTF-8.
void append_utf8(uint32_t code_point, std::string& out);

}  // namespace longhaul
