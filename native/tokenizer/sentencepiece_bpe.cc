#include "tokenizer/sentencepiece_bpe.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "tokenizer/merge.h"
#include "tokenizer/unicode.h"

namespace longhaul {
namespace {

// Order-preserving: a higher score gives a lower number, equal scores equal numbers.
uint32_t priority_of(float score) {
  const uint32_t bits = std::bit_cast<uint32_t>(score == 0.0f ? 0.0f : score);
  return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

size_t adjacent_index(char last, char first) {
  return static_cast<size_t>(static_cast<uint8_t>(last)) << 8 | static_cast<uint8_t>(first);
}

}  // namespace

SentencePieceBpe::SentencePieceBpe(const TokenizerSpec& spec, const StringTable& texts)
    : unknown_id_(spec.unknown_token_id),
      pieces_(texts.bytes.data(), spec.tokens.size()),
      priorities_(spec.tokens.size()),
      memo_(spec.tokens.size()) {
  find_space_prefix(spec.space_prefix, space_prefix_);  // checked with the whole spec
  byte_ids_.fill(-1);
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    priorities_[id] = priority_of(spec.scores[id]);
    const TokenType type = static_cast<TokenType>(spec.types[id]);
    if (type == TokenType::kNormal || type == TokenType::kUserDefined) {
      add_piece(texts[id], id, texts);
    } else if (type == TokenType::kByte) {
      byte_ids_[static_cast<uint8_t>(texts[id][0])] = static_cast<int32_t>(id);
    }
  }
  has_all_bytes_ = std::none_of(byte_ids_.begin(), byte_ids_.end(), [](int32_t i) { return i < 0; });
}

void SentencePieceBpe::add_piece(std::string_view piece, size_t id, const StringTable& texts) {
  if (piece.empty()) return;
  token_bytes_max_ = std::max(token_bytes_max_, piece.size());
  pieces_.insert(texts.offsets[id], texts.offsets[id + 1], static_cast<int32_t>(id));
  for (size_t i = decode_utf8(piece, 0).length; i < piece.size();) {
    adjacent_.set(adjacent_index(piece[i - 1], piece[i]));
    i += decode_utf8(piece, i).length;
  }
}

Result<std::unique_ptr<FragmentEncoder>> SentencePieceBpe::create(const TokenizerSpec& spec,
                                                                  const StringTable& texts) {
  if (spec.scores.size() != spec.tokens.size()) {
    return error(ErrorCode::kModelFormat, "tokenizer scores: expected %zu, found %zu",
                 spec.tokens.size(), spec.scores.size());
  }
  for (size_t id = 0; id < spec.scores.size(); ++id) {
    if (!std::isnan(spec.scores[id])) continue;
    return error(ErrorCode::kModelFormat, "tokenizer score %zu: expected a number, found NaN", id);
  }
  std::unique_ptr<SentencePieceBpe> made(new SentencePieceBpe(spec, texts));
  if (!made->has_all_bytes_ && spec.unknown_token_id < 0) {
    return error(ErrorCode::kModelFormat,
                 "tokenizer: expected 256 byte tokens or an unknown token, found neither");
  }
  return std::unique_ptr<FragmentEncoder>(std::move(made));
}

bool SentencePieceBpe::needs_space(std::string_view text, bool is_first) const {
  switch (space_prefix_) {
    case SpacePrefix::kNone: return false;
    case SpacePrefix::kSegments: return true;
    case SpacePrefix::kFirst: return is_first && text[0] != ' ';
    case SpacePrefix::kAlways: return text[0] != ' ';
  }
  return false;
}

void SentencePieceBpe::encode(std::string_view text, bool is_first,
                              std::vector<int32_t>& out) const {
  std::string prefixed;
  if (needs_space(text, is_first)) text = prefixed.append(" ").append(text);
  std::vector<Symbol> scratch;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = word_end(text, begin);
    encode_word(text.substr(begin, end - begin), scratch, out);
    begin = end;
  }
}

size_t SentencePieceBpe::word_end(std::string_view text, size_t begin) const {
  size_t end = begin + decode_utf8(text, begin).length;
  while (end < text.size() && adjacent_[adjacent_index(text[end - 1], text[end])]) {
    end += decode_utf8(text, end).length;
  }
  return end;
}

void SentencePieceBpe::encode_word(std::string_view word, std::vector<Symbol>& scratch,
                                   std::vector<int32_t>& out) const {
  const int32_t whole = word.size() <= token_bytes_max_ ? pieces_.find(word) : -1;
  if (whole >= 0 && memo_.get(whole) == WordMemo::kWhole) {
    out.push_back(whole);
    return;
  }
  scratch.clear();
  for (size_t i = 0; i < word.size(); i += decode_utf8(word, i).length) {
    scratch.push_back({static_cast<uint32_t>(i), -1});
  }
  merge_symbols(scratch, static_cast<uint32_t>(word.size()),
                [&](int32_t, int32_t, uint32_t begin, uint32_t end) {
                  if (end - begin > token_bytes_max_) return kNoMerge;
                  const int32_t id = pieces_.find(word.substr(begin, end - begin));
                  if (id < 0) return kNoMerge;
                  return static_cast<uint64_t>(priorities_[static_cast<size_t>(id)]) << 32 |
                         static_cast<uint32_t>(id);
                });
  for (size_t i = 0; i < scratch.size(); ++i) {
    const size_t begin = scratch[i].begin;
    const size_t end = i + 1 < scratch.size() ? scratch[i + 1].begin : word.size();
    const std::string_view part = word.substr(begin, end - begin);
    // Only a single character has not been looked up yet.
    if (scratch[i].id < 0) scratch[i].id = pieces_.find(part);
    if (scratch[i].id >= 0) {
      out.push_back(scratch[i].id);
    } else {
      emit_unknown(part, out);
    }
  }
  if (whole >= 0 && memo_.get(whole) == WordMemo::kUnknown) {
    const bool same = scratch.size() == 1 && scratch[0].id == whole;
    memo_.set(whole, same ? WordMemo::kWhole : WordMemo::kSplit);
  }
}

void SentencePieceBpe::emit_unknown(std::string_view character, std::vector<int32_t>& out) const {
  if (has_all_bytes_) {
    for (const char c : character) out.push_back(byte_ids_[static_cast<uint8_t>(c)]);
  } else if (out.empty() || out.back() != unknown_id_) {
    out.push_back(unknown_id_);  // neighboring unknown characters are one token
  }
}

}  // namespace longhaul
