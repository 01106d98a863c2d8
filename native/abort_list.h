// AbortList: sequences whose rows must leave running and queued steps. Written from any thread,
// read by the engine thread between ops.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "model/decoder.h"

namespace longhaul {

class AbortList final : public AbortWatch {
 public:
  // Any thread.
  void add(int32_t slot, int32_t sequence_id);

  // Engine thread. `changed` refreshes what is_aborted sees.
  bool changed() override;
  bool is_aborted(int32_t slot, int32_t sequence_id) const override;
  // The slot is closed: its mark has served.
  void remove(int32_t slot, int32_t sequence_id);

 private:
  using Entry = std::pair<int32_t, int32_t>;  // slot, sequence id
  // An abort that comes after its sequence was closed is never removed; the oldest make room. Far
  // more than sequences that can be open, queued or just closed.
  static constexpr size_t kEntriesMax = 4096;

  std::mutex mutex_;
  std::vector<Entry> entries_;         // under mutex_, oldest first
  std::atomic<uint64_t> version_{0};   // of entries_
  std::vector<Entry> seen_;            // engine thread: entries_ at seen_version_
  uint64_t seen_version_ = 0;
};

}  // namespace longhaul
