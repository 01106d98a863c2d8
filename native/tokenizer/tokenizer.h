// A model's tokenizer: text to token ids and back to bytes. Immutable after create() and safe to
// use from any number of threads at once.
//
// encode: special tokens are cut out first (special_tokens.h), every text between them goes to
// the fragment encoder of its kind (byte_bpe.h, sentencepiece_bpe.h). No BOS or EOS is added and
// nothing is normalized here: src/tokenizer does that.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "status.h"

namespace longhaul {

// GGUF's numbering.
enum class TokenType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// Strings laid end to end; string i is bytes [offsets[i], offsets[i + 1]).
struct StringTable {
  std::vector<char> bytes;
  std::vector<uint32_t> offsets;  // one more than there are strings
  size_t size() const { return offsets.empty() ? 0 : offsets.size() - 1; }
  std::string_view operator[](size_t i) const {
    return {bytes.data() + offsets[i], offsets[i + 1] - offsets[i]};
  }
  void push(std::string_view text) {
    if (offsets.empty()) offsets.push_back(0);
    bytes.insert(bytes.end(), text.begin(), text.end());
    offsets.push_back(static_cast<uint32_t>(bytes.size()));
  }
};

// Where SentencePiece-style tokenizers put a space in front of what they encode. A segment is the
// text before, between or after special tokens.
enum class SpacePrefix : uint8_t {
  kNone,      // "none"
  kSegments,  // "segments": every segment, whatever it begins with
  kFirst,     // "first": the segment that begins the whole text, unless it begins with a space
  kAlways,    // "always": every segment that does not begin with a space
};

// False for a name that is none of the above.
bool find_space_prefix(std::string_view name, SpacePrefix& out);

// Mirrors NativeTokenizerSpec of src/binding/addon.ts.
struct TokenizerSpec {
  std::string kind;                // "bpe" or "spm"
  StringTable tokens;              // as model files spell them
  std::vector<uint8_t> types;      // [num_tokens], TokenType
  std::vector<float> scores;       // [num_tokens], spm only
  StringTable merges;              // bpe only: "left right" in rank order
  std::string pre_tokenizer;       // bpe only, see pre_tokenizer.h
  bool ignore_merges = false;
  std::string space_prefix = "none";  // SpacePrefix by name; spm only
  int32_t unknown_token_id = -1;   // -1: none
};

// Turns text without special tokens into ids.
class FragmentEncoder {
 public:
  virtual ~FragmentEncoder() = default;
  // Appends the ids of `text`, a segment that is not empty. `is_first`: it begins the whole text;
  // otherwise it follows a special token.
  virtual void encode(std::string_view text, bool is_first,
                      std::vector<int32_t>& out) const = 0;
};

class SpecialTokens;

class Tokenizer {
 public:
  // ERR_MODEL_FORMAT or ERR_UNSUPPORTED with what was expected and found.
  static Result<std::shared_ptr<const Tokenizer>> create(TokenizerSpec spec);
  ~Tokenizer();

  size_t vocab_size() const { return types_.size(); }

  // Appends the ids of `text` (any bytes) to `out`. User-defined tokens are always recognized,
  // control and unknown tokens only with `parse_special`. A special token is not recognized where
  // an offset of `breaks` (ascending) lies strictly inside it.
  void encode(std::string_view text, bool parse_special, const std::vector<size_t>& breaks,
              std::vector<int32_t>& out) const;

  // The bytes a token adds to a text. Empty for ids outside the vocabulary and, unless
  // `with_special`, for control, unknown and unused tokens.
  std::string_view token_bytes(int32_t id, bool with_special) const;

 private:
  Tokenizer();

  void encode_parts(std::string_view text, bool parse_special, const std::vector<size_t>& breaks,
                    std::vector<int32_t>& out) const;

  bool meta_space_is_space_ = false;  // spm
  std::vector<uint8_t> types_;
  StringTable texts_;  // what each token decodes to
  std::unique_ptr<SpecialTokens> special_tokens_;
  std::unique_ptr<FragmentEncoder> encoder_;
};

// The process's tokenizers by id, so that a worker thread opens the one the main thread made.
// Holds no ownership: a tokenizer lives while some handle does.
int32_t register_tokenizer_instance(const std::shared_ptr<const Tokenizer>& tokenizer);
// Null when the id is unknown or its tokenizer is gone.
std::shared_ptr<const Tokenizer> find_tokenizer_instance(int32_t id);

}  // namespace longhaul
