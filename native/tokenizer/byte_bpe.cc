#include "tokenizer/byte_bpe.h"

#include <algorithm>
#include <unordered_set>

#include "tokenizer/byte_alphabet.h"
#include "tokenizer/merge.h"

namespace longhaul {
namespace {

TokenType type_of(const TokenizerSpec& spec, size_t id) {
  return static_cast<TokenType>(spec.types[id]);
}

// Control and unknown tokens as merges would spell them; a merge that makes one of these is left
// out, so that text alone never becomes a control token.
std::unordered_set<std::string_view> special_strings(const TokenizerSpec& spec) {
  std::unordered_set<std::string_view> set;
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    const TokenType type = type_of(spec, id);
    if (type == TokenType::kNormal || type == TokenType::kUserDefined) continue;
    set.insert(spec.tokens[id]);
  }
  return set;
}

}  // namespace

ByteBpe::ByteBpe(const TokenizerSpec& spec, const StringTable& texts)
    : ignore_merges_(spec.ignore_merges),
      words_(texts.bytes.data(), spec.tokens.size()),
      memo_(spec.tokens.size()) {
  const auto insert = [&](TokenType wanted) {
    for (size_t id = 0; id < spec.tokens.size(); ++id) {
      if (type_of(spec, id) != wanted || texts[id].empty()) continue;
      token_bytes_max_ = std::max(token_bytes_max_, texts[id].size());
      words_.insert(texts.offsets[id], texts.offsets[id + 1], static_cast<int32_t>(id));
    }
  };
  insert(TokenType::kNormal);
  insert(TokenType::kUserDefined);  // some vocabularies list their own words as added tokens too
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    byte_ids_[static_cast<size_t>(byte)] = words_.find({&c, 1});
  }
  // A control token (some models name end-of-text as "unknown") must not come out of plain text.
  const int32_t unknown = spec.unknown_token_id;
  if (unknown >= 0 && type_of(spec, static_cast<size_t>(unknown)) == TokenType::kUnknown) {
    unknown_id_ = unknown;
  }
}

Result<std::unique_ptr<FragmentEncoder>> ByteBpe::create(const TokenizerSpec& spec,
                                                         const StringTable& texts) {
  std::unique_ptr<ByteBpe> made(new ByteBpe(spec, texts));
  if (!find_pre_tokenizer(spec.pre_tokenizer, made->pre_tokenizer_)) {
    return error(ErrorCode::kUnsupported,
                 "tokenizer: expected pre-tokenizer gpt2, llama3, qwen2, smollm, tekken or none, "
                 "found \"%s\"",
                 spec.pre_tokenizer.c_str());
  }
  LH_TRY(made->add_merges(spec, texts));
  return std::unique_ptr<FragmentEncoder>(std::move(made));
}

Status ByteBpe::add_merges(const TokenizerSpec& spec, const StringTable& texts) {
  merges_ = PairIndex(spec.merges.size());
  std::unordered_set<std::string_view> special;
  std::string bytes;
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const std::string_view merge = spec.merges[rank];
    const size_t space = merge.find(' ', 1);
    bytes.clear();
    size_t left_size = 0;
    bool spelled = space != std::string_view::npos && space + 1 < merge.size() &&
                   decode_byte_alphabet(merge.substr(0, space), bytes);
    if (spelled) {
      left_size = bytes.size();
      spelled = decode_byte_alphabet(merge.substr(space + 1), bytes);
    }
    if (!spelled) {
      return error(ErrorCode::kModelFormat,
                   "tokenizer merge %zu: expected \"left right\" in the byte alphabet, found "
                   "\"%.64s\"",
                   rank, std::string(merge).c_str());
    }
    const std::string_view whole = bytes;
    const int32_t left = words_.find(whole.substr(0, left_size));
    const int32_t right = words_.find(whole.substr(left_size));
    const int32_t merged = words_.find(whole);
    if (left >= 0 && right >= 0 && merged >= 0) {
      merges_.insert(left, right,
                     static_cast<uint64_t>(rank) << 32 | static_cast<uint32_t>(merged));
      continue;
    }
    if (special.empty()) special = special_strings(spec);
    const std::string spelling = std::string(merge.substr(0, space)).append(merge.substr(space + 1));
    if (special.contains(spelling) || special.contains(merge.substr(0, space)) ||
        special.contains(merge.substr(space + 1))) {
      continue;
    }
    return error(ErrorCode::kModelFormat,
                 "tokenizer merge %zu: expected both parts and their union in the vocabulary of "
                 "%zu tokens, found \"%.64s\"",
                 rank, texts.size(), std::string(merge).c_str());
  }
  return {};
}

void ByteBpe::encode(std::string_view text, bool, std::vector<int32_t>& out) const {
  std::vector<Symbol> scratch;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = pre_token_end(pre_tokenizer_, text, begin);
    encode_word(text.substr(begin, end - begin), scratch, out);
    begin = end;
  }
}

void ByteBpe::encode_word(std::string_view word, std::vector<Symbol>& scratch,
                          std::vector<int32_t>& out) const {
  const int32_t whole = word.size() <= token_bytes_max_ ? words_.find(word) : -1;
  if (whole >= 0 && (ignore_merges_ || memo_.get(whole) == WordMemo::kWhole)) {
    out.push_back(whole);
    return;
  }
  scratch.clear();
  for (size_t i = 0; i < word.size(); ++i) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(word[i])];
    if (id >= 0 || unknown_id_ >= 0) scratch.push_back({static_cast<uint32_t>(i), id});
  }
  merge_symbols(scratch, static_cast<uint32_t>(word.size()),
                [this](int32_t left, int32_t right, uint32_t, uint32_t) {
                  return left < 0 || right < 0 ? kNoMerge : merges_.find(left, right);
                });
  for (const Symbol& symbol : scratch) out.push_back(symbol.id >= 0 ? symbol.id : unknown_id_);
  if (whole >= 0 && memo_.get(whole) == WordMemo::kUnknown) {
    const bool same = scratch.size() == 1 && scratch[0].id == whole;
    memo_.set(whole, same ? WordMemo::kWhole : WordMemo::kSplit);
  }
}

}  // namespace longhaul
