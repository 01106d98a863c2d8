#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "tokenizer/byte_alphabet.h"
#include "tokenizer/byte_bpe.h"
#include "tokenizer/sentencepiece_bpe.h"
#include "tokenizer/special_tokens.h"

namespace longhaul {
namespace {

// Ids travel as int32 beside a 32-bit priority; real vocabularies stay below 300,000.
constexpr size_t kTokensMax = size_t{1} << 24;

Status check_table(const StringTable& table, const char* what) {
  for (size_t i = 0; i < table.size(); ++i) {
    if (table.offsets[i] <= table.offsets[i + 1]) continue;
    return error(ErrorCode::kModelFormat, "tokenizer %s offset %zu: expected at least %u, found %u",
                 what, i + 1, table.offsets[i], table.offsets[i + 1]);
  }
  if (!table.offsets.empty() && table.offsets.back() > table.bytes.size()) {
    return error(ErrorCode::kModelFormat, "tokenizer %s: expected at most %zu bytes, found %u",
                 what, table.bytes.size(), table.offsets.back());
  }
  return {};
}

Status check_spec(const TokenizerSpec& spec) {
  if (spec.kind != "bpe" && spec.kind != "spm") {
    return error(ErrorCode::kUnsupported, "tokenizer kind: expected bpe or spm, found \"%s\"",
                 spec.kind.c_str());
  }
  SpacePrefix space_prefix{};
  if (!find_space_prefix(spec.space_prefix, space_prefix)) {
    return error(ErrorCode::kUnsupported,
                 "tokenizer space prefix: expected none, segments, first or always, found \"%s\"",
                 spec.space_prefix.c_str());
  }
  LH_TRY(check_table(spec.tokens, "token"));
  LH_TRY(check_table(spec.merges, "merge"));
  const size_t num_tokens = spec.tokens.size();
  if (num_tokens == 0 || num_tokens > kTokensMax) {
    return error(ErrorCode::kModelFormat, "tokenizer: expected 1 to %zu tokens, found %zu",
                 kTokensMax, num_tokens);
  }
  if (spec.types.size() != num_tokens) {
    return error(ErrorCode::kModelFormat, "tokenizer types: expected %zu, found %zu", num_tokens,
                 spec.types.size());
  }
  for (size_t id = 0; id < num_tokens; ++id) {
    if (spec.types[id] >= 1 && spec.types[id] <= 6) continue;
    return error(ErrorCode::kModelFormat, "tokenizer type of token %zu: expected 1 to 6, found %d",
                 id, spec.types[id]);
  }
  if (spec.unknown_token_id < -1 || spec.unknown_token_id >= static_cast<int32_t>(num_tokens)) {
    return error(ErrorCode::kModelFormat, "tokenizer unknown id: expected -1 to %zu, found %d",
                 num_tokens - 1, spec.unknown_token_id);
  }
  return {};
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// The byte "<0xNN>" spells, -1 when it is no such spelling.
int parse_byte_token(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  const int high = hex_digit(token[3]), low = hex_digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

constexpr std::string_view kMetaSpace = "\xE2\x96\x81";  // U+2581

// `text` with each U+2581 as a space; `breaks` (null, or ascending offsets) move along.
std::string with_plain_spaces(std::string_view text, std::vector<size_t>* breaks = nullptr) {
  std::string out;
  out.reserve(text.size());
  size_t next_break = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t found = std::min(text.find(kMetaSpace, i), text.size());
    const size_t removed = i - out.size();
    for (; breaks && next_break < breaks->size() && (*breaks)[next_break] <= found; ++next_break) {
      (*breaks)[next_break] -= removed;
    }
    out.append(text.substr(i, found - i));
    if (found == text.size()) break;
    out.push_back(' ');
    i = found + kMetaSpace.size();
  }
  for (; breaks && next_break < breaks->size(); ++next_break) (*breaks)[next_break] = out.size();
  return out;
}

// What a token decodes to.
Status decode_token(const TokenizerSpec& spec, size_t id, std::string& out) {
  const std::string_view token = spec.tokens[id];
  const TokenType type = static_cast<TokenType>(spec.types[id]);
  out.clear();
  if (type == TokenType::kByte) {
    const int byte = parse_byte_token(token);
    if (byte < 0) {
      return error(ErrorCode::kModelFormat,
                   "tokenizer byte token %zu: expected <0xNN>, found \"%.64s\"", id,
                   std::string(token).c_str());
    }
    out.push_back(static_cast<char>(byte));
  } else if (type == TokenType::kControl || type == TokenType::kUnknown) {
    if (spec.kind == "spm" && token.find(kMetaSpace) != std::string_view::npos) {
      return error(ErrorCode::kUnsupported,
                   "tokenizer control token %zu: expected no U+2581 in it, found \"%.64s\"", id,
                   std::string(token).c_str());
    }
    out = token;
  } else if (spec.kind == "spm") {
    out = with_plain_spaces(token);
  } else if (type == TokenType::kUserDefined || !decode_byte_alphabet(token, out)) {
    out = token;  // added tokens are spelled as the text they stand for
  }
  return {};
}

}  // namespace

bool find_space_prefix(std::string_view name, SpacePrefix& out) {
  constexpr std::pair<std::string_view, SpacePrefix> kNames[] = {
      {"none", SpacePrefix::kNone},
      {"segments", SpacePrefix::kSegments},
      {"first", SpacePrefix::kFirst},
      {"always", SpacePrefix::kAlways},
  };
  for (const auto& [known, prefix] : kNames) {
    if (known != name) continue;
    out = prefix;
    return true;
  }
  return false;
}

Tokenizer::Tokenizer() = default;
Tokenizer::~Tokenizer() = default;

Result<std::shared_ptr<const Tokenizer>> Tokenizer::create(TokenizerSpec spec) {
  LH_TRY(check_spec(spec));
  std::shared_ptr<Tokenizer> made(new Tokenizer());
  made->special_tokens_ = std::make_unique<SpecialTokens>();
  made->texts_.bytes.reserve(spec.tokens.bytes.size());
  made->texts_.offsets.reserve(spec.tokens.offsets.size());
  std::string text;
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    LH_TRY(decode_token(spec, id, text));
    made->texts_.push(text);
    const TokenType type = static_cast<TokenType>(spec.types[id]);
    const bool user_defined = type == TokenType::kUserDefined;
    if (user_defined || type == TokenType::kControl || type == TokenType::kUnknown) {
      made->special_tokens_->add(text, static_cast<int32_t>(id), user_defined);
    }
  }
  auto encoder = spec.kind == "bpe" ? ByteBpe::create(spec, made->texts_)
                                    : SentencePieceBpe::create(spec, made->texts_);
  if (!encoder.ok()) return encoder.status();
  made->encoder_ = std::move(encoder.value());
  made->meta_space_is_space_ = spec.kind == "spm";
  made->types_ = std::move(spec.types);
  return std::shared_ptr<const Tokenizer>(std::move(made));
}

void Tokenizer::encode(std::string_view text, bool parse_special,
                       const std::vector<size_t>& breaks, std::vector<int32_t>& out) const {
  if (!meta_space_is_space_ || text.find(kMetaSpace) == std::string_view::npos) {
    encode_parts(text, parse_special, breaks, out);
    return;
  }
  std::vector<size_t> moved = breaks;
  const std::string rewritten = with_plain_spaces(text, &moved);
  encode_parts(rewritten, parse_special, moved, out);
}

void Tokenizer::encode_parts(std::string_view text, bool parse_special,
                             const std::vector<size_t>& breaks,
                             std::vector<int32_t>& out) const {
  size_t next_break = 0;
  for (size_t begin = 0; begin < text.size();) {
    const SpecialTokens::Match match =
        special_tokens_->find(text, begin, parse_special, breaks, &next_break);
    const size_t end = match.id >= 0 ? match.begin : text.size();
    if (end > begin) encoder_->encode(text.substr(begin, end - begin), begin == 0, out);
    if (match.id < 0) return;
    out.push_back(match.id);
    begin = match.end;
  }
}

std::string_view Tokenizer::token_bytes(int32_t id, bool with_special) const {
  if (id < 0 || static_cast<size_t>(id) >= types_.size()) return {};
  const TokenType type = static_cast<TokenType>(types_[static_cast<size_t>(id)]);
  const bool hidden =
      type == TokenType::kControl || type == TokenType::kUnknown || type == TokenType::kUnused;
  return hidden && !with_special ? std::string_view() : texts_[static_cast<size_t>(id)];
}

namespace {

struct Registry {
  std::mutex mutex;
  std::unordered_map<int32_t, std::weak_ptr<const Tokenizer>> tokenizers;
  int32_t next_id = 1;
};

Registry& registry() {
  static Registry instance;
  return instance;
}

}  // namespace

int32_t register_tokenizer_instance(const std::shared_ptr<const Tokenizer>& tokenizer) {
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  std::erase_if(all.tokenizers, [](const auto& entry) { return entry.second.expired(); });
  all.tokenizers[all.next_id] = tokenizer;
  return all.next_id++;
}

std::shared_ptr<const Tokenizer> find_tokenizer_instance(int32_t id) {
  Registry& all = registry();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.tokenizers.find(id);
  return found == all.tokenizers.end() ? nullptr : found->second.lock();
}

}  // namespace longhaul
