// Remembers for each token whether merging its own text gives back that one token. Where it does
// (nearly always), a word that is in the vocabulary needs no merging at all.
// Threads race benignly: all of them compute the same answer.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace longhaul {

class WordMemo {
 public:
  enum State : uint8_t { kUnknown = 0, kWhole = 1, kSplit = 2 };

  explicit WordMemo(size_t num_tokens)
      : states_(std::make_unique<std::atomic<uint8_t>[]>(num_tokens)) {}

  State get(int32_t id) const {
    return static_cast<State>(states_[static_cast<size_t>(id)].load(std::memory_order_relaxed));
  }
  void set(int32_t id, State state) const {
    states_[static_cast<size_t>(id)].store(state, std::memory_order_relaxed);
  }

 private:
  std::unique_ptr<std::atomic<uint8_t>[]> states_;
};

}  // namespace longhaul
