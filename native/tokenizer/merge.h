// Pair merging shared by both tokenizer kinds: while some adjacent pair of symbols can merge,
// merge the pair of lowest priority number, the leftmost of equals.
//
// A Lookup answers for the pair covering bytes [begin, end) of the text, made of symbols with ids
// `left` and `right` (-1: no token): `priority << 32 | merged id`, or kNoMerge.
//   uint64_t operator()(int32_t left, int32_t right, uint32_t begin, uint32_t end) const;
//
// Short words are scanned (everything stays in a few cache lines); long ones use a heap over a
// linked list, so that a megabyte without a space costs n log n.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace longhaul {

inline constexpr uint64_t kNoMerge = ~uint64_t{0};

struct Symbol {
  uint32_t begin;  // byte offset in the text; it ends where the next one begins
  int32_t id;      // -1: no token has this text
};

// Up to this many symbols the quadratic scan is the faster one.
inline constexpr size_t kScanSymbolsMax = 32;

namespace merge_internal {

template <typename Lookup>
void merge_by_scan(std::vector<Symbol>& symbols, uint32_t text_end, const Lookup& lookup) {
  size_t n = symbols.size();
  Symbol* s = symbols.data();
  uint64_t pairs[kScanSymbolsMax];  // [n - 1]: what lookup said of symbols i and i + 1
  const auto end_of = [&](size_t i) { return i + 1 < n ? s[i + 1].begin : text_end; };
  const auto look = [&](size_t i) {
    pairs[i] = lookup(s[i].id, s[i + 1].id, s[i].begin, end_of(i + 1));
  };
  for (size_t i = 0; i + 1 < n; ++i) look(i);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (pairs[i] >> 32 < pairs[best] >> 32) best = i;
    }
    if (pairs[best] == kNoMerge) break;
    s[best].id = static_cast<int32_t>(pairs[best] & 0xFFFFFFFFu);
    std::copy(s + best + 2, s + n, s + best + 1);
    if (best + 2 < n) std::copy(pairs + best + 2, pairs + n - 1, pairs + best + 1);
    --n;
    if (best > 0) look(best - 1);
    if (best + 1 < n) look(best);
  }
  symbols.resize(n);
}

template <typename Lookup>
void merge_by_heap(std::vector<Symbol>& symbols, uint32_t text_end, const Lookup& lookup) {
  // 16 bytes, because a long word's heap does not fit any cache.
  struct Candidate {
    uint64_t order;  // priority << 32 | index of the left symbol: the lowest merges first
    uint32_t id;     // of the merged symbol
    uint32_t end;    // where the right symbol ended when this was pushed
    uint32_t left() const { return static_cast<uint32_t>(order); }
    bool operator<(const Candidate& other) const { return order > other.order; }  // min-heap
  };
  constexpr uint32_t kNone = ~0u;
  const uint32_t n = static_cast<uint32_t>(symbols.size());
  // A symbol merged into its left neighbor has end 0.
  std::vector<uint32_t> previous(n), next(n), end(n);
  for (uint32_t i = 0; i < n; ++i) {
    previous[i] = i == 0 ? kNone : i - 1;
    next[i] = i + 1 == n ? kNone : i + 1;
    end[i] = i + 1 == n ? text_end : symbols[i + 1].begin;
  }
  std::vector<Candidate> heap;
  heap.reserve(n);
  const auto append = [&](uint32_t left) {
    if (left == kNone || next[left] == kNone) return false;
    const uint32_t right = next[left];
    const uint64_t pair =
        lookup(symbols[left].id, symbols[right].id, symbols[left].begin, end[right]);
    if (pair == kNoMerge) return false;
    heap.push_back({(pair >> 32 << 32) | left, static_cast<uint32_t>(pair), end[right]});
    return true;
  };
  const auto push = [&](uint32_t left) {
    if (append(left)) std::push_heap(heap.begin(), heap.end());
  };
  for (uint32_t i = 0; i < n; ++i) append(i);
  std::make_heap(heap.begin(), heap.end());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate top = heap.back();
    heap.pop_back();
    // Stale when the left symbol is gone, or either one has grown: a grown right symbol ends
    // elsewhere, and so does the next right neighbor of a grown left one.
    const uint32_t left = top.left();
    if (end[left] == 0 || next[left] == kNone || end[next[left]] != top.end) continue;
    const uint32_t right = next[left];
    symbols[left].id = static_cast<int32_t>(top.id);
    end[left] = top.end;
    end[right] = 0;
    next[left] = next[right];
    if (next[left] != kNone) previous[next[left]] = left;
    push(previous[left]);
    push(left);
  }
  size_t kept = 0;
  for (uint32_t i = 0; i < n; ++i) {
    if (end[i] != 0) symbols[kept++] = symbols[i];
  }
  symbols.resize(kept);
}

}  // namespace merge_internal

// `symbols` cover text bytes from symbols[0].begin to `text_end` (above 0) without gaps.
template <typename Lookup>
void merge_symbols(std::vector<Symbol>& symbols, uint32_t text_end, const Lookup& lookup) {
  if (symbols.size() < 2) return;
  if (symbols.size() <= kScanSymbolsMax) {
    merge_internal::merge_by_scan(symbols, text_end, lookup);
  } else {
    merge_internal::merge_by_heap(symbols, text_end, lookup);
  }
}

}  // namespace longhaul
