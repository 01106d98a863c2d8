#include "tokenizer/special_tokens.h"

namespace longhaul {

SpecialTokens::SpecialTokens() { roots_.fill(-1); }

int32_t SpecialTokens::child(int32_t node, uint8_t byte) const {
  int32_t i = nodes_[static_cast<size_t>(node)].first_child;
  while (i >= 0 && nodes_[static_cast<size_t>(i)].byte != byte) {
    i = nodes_[static_cast<size_t>(i)].sibling;
  }
  return i;
}

int32_t SpecialTokens::add_child(int32_t node, uint8_t byte) {
  const int32_t made = static_cast<int32_t>(nodes_.size());
  Node fresh;
  fresh.byte = byte;
  if (node >= 0) {
    Node& parent = nodes_[static_cast<size_t>(node)];
    fresh.sibling = parent.first_child;
    parent.first_child = made;
  } else {
    roots_[byte] = made;
  }
  nodes_.push_back(fresh);
  return made;
}

void SpecialTokens::add(std::string_view text, int32_t id, bool always) {
  if (text.empty()) return;
  const uint8_t first = static_cast<uint8_t>(text[0]);
  int32_t node = roots_[first];
  if (node < 0) node = add_child(-1, first);
  for (const char c : text.substr(1)) {
    const uint8_t byte = static_cast<uint8_t>(c);
    const int32_t found = child(node, byte);
    node = found >= 0 ? found : add_child(node, byte);
  }
  Node& last = nodes_[static_cast<size_t>(node)];
  if (last.id >= 0) return;
  last.id = id;
  last.always = always;
  if (always) {
    begins_always_[first] = true;
    has_always_ = true;
  }
}

SpecialTokens::Match SpecialTokens::find(std::string_view text, size_t from, bool parse_special,
                                         const std::vector<size_t>& breaks,
                                         size_t* next_break) const {
  if (nodes_.empty() || (!parse_special && !has_always_)) return {};
  for (size_t begin = from; begin < text.size(); ++begin) {
    const uint8_t first = static_cast<uint8_t>(text[begin]);
    int32_t node = roots_[first];
    if (node < 0 || (!parse_special && !begins_always_[first])) continue;
    while (*next_break < breaks.size() && breaks[*next_break] <= begin) ++*next_break;
    const size_t limit = *next_break < breaks.size() ? breaks[*next_break] : text.size();
    Match match;
    for (size_t end = begin + 1; node >= 0; ++end) {
      const Node& here = nodes_[static_cast<size_t>(node)];
      if (here.id >= 0 && (parse_special || here.always)) match = {begin, end, here.id};
      if (end >= limit) break;
      node = child(node, static_cast<uint8_t>(text[end]));
    }
    if (match.id >= 0) return match;
  }
  return {};
}

}  // namespace longhaul
