// Finds control and user-defined tokens written out in a text: leftmost first, longest of those.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace longhaul {

class SpecialTokens {
 public:
  SpecialTokens();

  // `always`: recognized even in a text that must stay text (user-defined tokens).
  // The first id of equal strings stays. Empty strings are left out.
  void add(std::string_view text, int32_t id, bool always);

  struct Match {
    size_t begin = 0;
    size_t end = 0;
    int32_t id = -1;  // -1: no match
  };
  // The first match at or after `from`. `breaks` as in Tokenizer::encode; *next_break is the index
  // of a break not after `from`'s, kept by the caller between calls so that a text costs one pass.
  Match find(std::string_view text, size_t from, bool parse_special,
             const std::vector<size_t>& breaks, size_t* next_break) const;

 private:
  struct Node {
    int32_t first_child = -1;
    int32_t sibling = -1;
    int32_t id = -1;
    uint8_t byte = 0;
    bool always = false;
  };
  int32_t child(int32_t node, uint8_t byte) const;
  int32_t add_child(int32_t node, uint8_t byte);

  std::vector<Node> nodes_;
  std::array<int32_t, 256> roots_;          // node of a first byte, -1 none
  std::array<bool, 256> begins_always_{};   // first bytes of the tokens added with `always`
  bool has_always_ = false;
};

}  // namespace longhaul
