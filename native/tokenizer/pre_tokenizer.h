// Cuts text into the pieces byte-level BPE merges within, by hand-written matchers that give the
// same cuts as the models' published regular expressions (quoted in pre_tokenizer.cc). Every
// matcher runs in linear time: no run of characters is scanned more than a fixed number of times.
#pragma once

#include <cstddef>
#include <string_view>

namespace longhaul {

enum class PreTokenizer {
  kNone,    // the whole text is one piece
  kGpt2,
  kSmollm,  // each number character alone, then gpt2
  kLlama3,
  kQwen2,
  kTekken,
};

// Looks a name of NativeTokenizerSpec.preTokenizer up; false when it is not known.
bool find_pre_tokenizer(std::string_view name, PreTokenizer& out);

// Byte offset just past the piece of `text` that begins at `begin`, which must be below
// text.size(); always above `begin`. Bytes that are not UTF-8 count as symbols.
size_t pre_token_end(PreTokenizer kind, std::string_view text, size_t begin);

}  // namespace longhaul
