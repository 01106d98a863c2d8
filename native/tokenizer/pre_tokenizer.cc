// The expressions, in the notation of the models' tokenizer.json files:
//   gpt2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   smollm  digits alone, then gpt2 on what lies between them
//   llama3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
//           | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//   qwen2   llama3 with \p{N} in place of \p{N}{1,3}
//   tekken  [^\r\n\p{L}\p{N}]?U*W+|[^\r\n\p{L}\p{N}]?U+W*|\p{N}
//           | ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
//           U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], W = [\p{Ll}\p{Lm}\p{Lo}\p{M}]
#include "tokenizer/pre_tokenizer.h"

#include "tokenizer/unicode.h"

namespace longhaul {
namespace {

constexpr size_t kNoMatch = 0;  // a match never ends at offset 0

// Reads code points of one text. `digits_end`: a number character counts as the end of the text
// (smollm cuts there before anything else looks).
class Reader {
 public:
  Reader(std::string_view text, bool digits_end) : text_(text), digits_end_(digits_end) {}

  struct Char {
    uint32_t value;
    size_t next;  // offset after it
    CharClass type;
    bool end;     // past the text: no other field holds
  };

  Char at(size_t position) const {
    if (position >= text_.size()) return {0, position, CharClass::kOther, true};
    const uint8_t first = static_cast<uint8_t>(text_[position]);
    if (first < 0x80) {
      const CharClass type = ascii_class(first);
      return {first, position + 1, type, digits_end_ && type == CharClass::kNumber};
    }
    const CodePoint point = decode_utf8(text_, position);
    const CharClass type = char_class(point.value);
    const bool end = digits_end_ && type == CharClass::kNumber;
    return {point.value, position + point.length, type, end};
  }

  // Offset after the longest run from `position` of characters for which `test` holds.
  template <typename Test>
  size_t run(size_t position, Test test) const {
    for (;;) {
      const Char c = at(position);
      if (c.end || !test(c)) return position;
      position = c.next;
    }
  }

 private:
  std::string_view text_;
  bool digits_end_;
};

using Char = Reader::Char;

bool is_letter_char(const Char& c) { return is_letter(c.type); }
bool is_number_char(const Char& c) { return c.type == CharClass::kNumber; }
bool is_space_char(const Char& c) { return c.type == CharClass::kSpace; }
bool is_newline(const Char& c) { return c.value == '\r' || c.value == '\n'; }
bool is_symbol(const Char& c) {
  return c.type == CharClass::kOther || c.type == CharClass::kMark;
}
// [^\r\n\p{L}\p{N}]
bool can_lead_letters(const Char& c) {
  return !c.end && !is_newline(c) && !is_letter(c.type) && !is_number_char(c);
}

// Lower case of the letters contractions are made of. U+017F (long s) folds to s, as the
// expressions' case-insensitive groups do.
uint32_t fold(uint32_t value) {
  if (value >= 'A' && value <= 'Z') return value + 32;
  return value == 0x17F ? 's' : value;
}

// 's 't 're 've 'm 'll 'd after the apostrophe `c`.
size_t match_contraction(const Reader& reader, const Char& c, bool ignore_case) {
  if (c.value != '\'') return kNoMatch;
  const Char first = reader.at(c.next);
  if (first.end) return kNoMatch;
  const uint32_t a = ignore_case ? fold(first.value) : first.value;
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return first.next;
  if (a != 'r' && a != 'v' && a != 'l') return kNoMatch;
  const Char second = reader.at(first.next);
  if (second.end) return kNoMatch;
  const uint32_t b = ignore_case ? fold(second.value) : second.value;
  return b == (a == 'l' ? 'l' : 'e') ? second.next : kNoMatch;
}

// \s+(?!\S)|\s+ from a space character: all of the run at the end of the text, else all but its
// last character (which may lead the next piece), else that single character.
size_t match_spaces(const Reader& reader, size_t begin) {
  size_t position = begin;
  size_t before_last = begin;
  for (;;) {
    const Char c = reader.at(position);
    if (c.end) return position;
    if (!is_space_char(c)) return before_last > begin ? before_last : position;
    before_last = position;
    position = c.next;
  }
}

// \s*[\r\n]+ from a space character: up to the last newline of the run.
size_t match_newlines(const Reader& reader, size_t begin) {
  size_t found = kNoMatch;
  reader.run(begin, [&](const Char& c) {
    if (!is_space_char(c)) return false;
    if (is_newline(c)) found = c.next;
    return true;
  });
  return found;
}

//  ?[^\s\p{L}\p{N}]+ and then the characters `tail` accepts.
template <typename Tail>
size_t match_symbols(const Reader& reader, size_t begin, const Char& c, Tail tail) {
  const size_t start = c.value == ' ' ? c.next : begin;
  const size_t end = reader.run(start, is_symbol);
  return end == start ? kNoMatch : reader.run(end, tail);
}

size_t gpt2_end(std::string_view text, size_t begin, bool digits_alone) {
  const Reader reader(text, digits_alone);
  const Char c = reader.at(begin);
  if (c.end) return c.next;  // smollm: a number character
  if (const size_t end = match_contraction(reader, c, false)) return end;
  const size_t start = c.value == ' ' ? c.next : begin;
  const Char lead = reader.at(start);
  if (!lead.end) {
    if (is_letter_char(lead)) return reader.run(lead.next, is_letter_char);
    if (is_number_char(lead)) return reader.run(lead.next, is_number_char);
    if (is_symbol(lead)) return reader.run(lead.next, is_symbol);
  }
  return match_spaces(reader, begin);
}

size_t llama3_end(std::string_view text, size_t begin, int digits_max) {
  const Reader reader(text, false);
  const Char c = reader.at(begin);
  if (const size_t end = match_contraction(reader, c, true)) return end;
  if (is_letter_char(c)) return reader.run(c.next, is_letter_char);
  if (can_lead_letters(c)) {
    const size_t end = reader.run(c.next, is_letter_char);
    if (end != c.next) return end;
  }
  if (is_number_char(c)) {
    int left = digits_max;
    return reader.run(begin, [&](const Char& d) { return is_number_char(d) && left-- > 0; });
  }
  if (const size_t end = match_symbols(reader, begin, c, is_newline)) return end;
  if (const size_t end = match_newlines(reader, begin)) return end;
  return match_spaces(reader, begin);
}

bool is_shared(const Char& c) {  // in both U and W
  return c.type == CharClass::kOtherLetter || c.type == CharClass::kMark;
}
bool is_upper_part(const Char& c) { return c.type == CharClass::kUpper || is_shared(c); }
bool is_lower_part(const Char& c) { return c.type == CharClass::kLower || is_shared(c); }

// U*W+: U takes all it can; with no lower letter behind it, U gives back up to its last
// character that W accepts too, where the match then ends.
size_t match_upper_lower(const Reader& reader, size_t begin) {
  size_t shared_end = kNoMatch;
  const size_t upper_end = reader.run(begin, [&](const Char& c) {
    if (is_shared(c)) shared_end = c.next;
    return is_upper_part(c);
  });
  const size_t end = reader.run(upper_end, is_lower_part);
  return end != upper_end ? end : shared_end;
}

// U+W*
size_t match_upper(const Reader& reader, size_t begin) {
  const size_t end = reader.run(begin, is_upper_part);
  return end == begin ? kNoMatch : reader.run(end, is_lower_part);
}

size_t tekken_end(std::string_view text, size_t begin) {
  const Reader reader(text, false);
  const Char c = reader.at(begin);
  const bool lead = can_lead_letters(c);
  if (lead) {
    if (const size_t end = match_upper_lower(reader, c.next)) return end;
  }
  if (const size_t end = match_upper_lower(reader, begin)) return end;
  if (lead) {
    if (const size_t end = match_upper(reader, c.next)) return end;
  }
  if (const size_t end = match_upper(reader, begin)) return end;
  if (is_number_char(c)) return c.next;
  const auto tail = [](const Char& t) { return is_newline(t) || t.value == '/'; };
  if (const size_t end = match_symbols(reader, begin, c, tail)) return end;
  if (const size_t end = match_newlines(reader, begin)) return end;
  return match_spaces(reader, begin);
}

}  // namespace

bool find_pre_tokenizer(std::string_view name, PreTokenizer& out) {
  struct Entry {
    std::string_view name;
    PreTokenizer kind;
  };
  static constexpr Entry kEntries[] = {
      {"none", PreTokenizer::kNone},     {"gpt2", PreTokenizer::kGpt2},
      {"smollm", PreTokenizer::kSmollm}, {"llama3", PreTokenizer::kLlama3},
      {"qwen2", PreTokenizer::kQwen2},   {"tekken", PreTokenizer::kTekken},
  };
  for (const Entry& entry : kEntries) {
    if (entry.name != name) continue;
    out = entry.kind;
    return true;
  }
  return false;
}

size_t pre_token_end(PreTokenizer kind, std::string_view text, size_t begin) {
  switch (kind) {
    case PreTokenizer::kNone: return text.size();
    case PreTokenizer::kGpt2: return gpt2_end(text, begin, false);
    case PreTokenizer::kSmollm: return gpt2_end(text, begin, true);
    case PreTokenizer::kLlama3: return llama3_end(text, begin, 3);
    case PreTokenizer::kQwen2: return llama3_end(text, begin, 1);
    case PreTokenizer::kTekken: return tekken_end(text, begin);
  }
  return text.size();
}

}  // namespace longhaul
