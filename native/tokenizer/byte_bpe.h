// Byte-level BPE with ranked merges (GPT-2, Llama 3, Qwen, SmolLM): pre-tokens, then merges within
// each of them over bytes.
#pragma once

#include <array>
#include <memory>

#include "status.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/token_table.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/word_memo.h"

namespace longhaul {

class ByteBpe final : public FragmentEncoder {
 public:
  // `texts`: what each token decodes to; kept by reference, as are no other parts of the spec.
  static Result<std::unique_ptr<FragmentEncoder>> create(const TokenizerSpec& spec,
                                                         const StringTable& texts);

  void encode(std::string_view text, bool is_first, std::vector<int32_t>& out) const override;

 private:
  ByteBpe(const TokenizerSpec& spec, const StringTable& texts);
  Status add_merges(const TokenizerSpec& spec, const StringTable& texts);
  void encode_word(std::string_view word, std::vector<struct Symbol>& scratch,
                   std::vector<int32_t>& out) const;

  PreTokenizer pre_tokenizer_ = PreTokenizer::kNone;
  bool ignore_merges_;
  int32_t unknown_id_ = -1;             // emitted for a byte no token spells; -1: it is dropped
  size_t token_bytes_max_ = 0;
  TokenIndex words_;                    // by decoded bytes
  PairIndex merges_;
  std::array<int32_t, 256> byte_ids_;   // -1: no token
  WordMemo memo_;
};

}  // namespace longhaul
