// SentencePiece-style BPE by score (Llama 2, Mistral, Gemma): characters merge into the adjacent
// pair whose union is the piece of highest score, the leftmost of equals; a character no piece
// has becomes its UTF-8 bytes' tokens <0xNN>.
//
// Pieces spell a space as U+2581. The index here has them with plain spaces, so that text needs no
// rewriting; a U+2581 typed in the text counts as a space, as it does in SentencePiece, and has
// become one before it gets here.
#pragma once

#include <array>
#include <bitset>
#include <memory>

#include "status.h"
#include "tokenizer/token_table.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/word_memo.h"

namespace longhaul {

class SentencePieceBpe final : public FragmentEncoder {
 public:
  // `texts`: what each token decodes to; kept by reference.
  static Result<std::unique_ptr<FragmentEncoder>> create(const TokenizerSpec& spec,
                                                         const StringTable& texts);

  void encode(std::string_view text, bool is_first, std::vector<int32_t>& out) const override;

 private:
  SentencePieceBpe(const TokenizerSpec& spec, const StringTable& texts);
  bool needs_space(std::string_view text, bool is_first) const;
  void add_piece(std::string_view piece, size_t id, const StringTable& texts);
  size_t word_end(std::string_view text, size_t begin) const;
  void encode_word(std::string_view word, std::vector<struct Symbol>& scratch,
                   std::vector<int32_t>& out) const;
  void emit_unknown(std::string_view character, std::vector<int32_t>& out) const;

  SpacePrefix space_prefix_ = SpacePrefix::kNone;
  int32_t unknown_id_;
  size_t token_bytes_max_ = 0;
  TokenIndex pieces_;
  std::vector<uint32_t> priorities_;    // [num_tokens], lower merges first
  std::array<int32_t, 256> byte_ids_;   // -1: no token
  bool has_all_bytes_ = true;
  // Bit (last byte of a character) * 256 + (first byte of the next): some piece has the two side
  // by side. Where none does, no merge can cross, so the text is cut there into words.
  std::bitset<0x10000> adjacent_;
  WordMemo memo_;
};

}  // namespace longhaul
