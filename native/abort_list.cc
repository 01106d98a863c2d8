#include "abort_list.h"

#include <algorithm>

namespace longhaul {

void AbortList::add(int32_t slot, int32_t sequence_id) {
  const std::lock_guard lock(mutex_);
  const Entry entry{slot, sequence_id};
  if (std::find(entries_.begin(), entries_.end(), entry) != entries_.end()) return;
  if (entries_.size() == kEntriesMax) entries_.erase(entries_.begin());
  entries_.push_back(entry);
  version_.fetch_add(1, std::memory_order_release);
}

bool AbortList::changed() {
  if (version_.load(std::memory_order_acquire) == seen_version_) return false;
  const std::lock_guard lock(mutex_);
  seen_ = entries_;
  seen_version_ = version_.load(std::memory_order_relaxed);
  return true;
}

bool AbortList::is_aborted(int32_t slot, int32_t sequence_id) const {
  return std::find(seen_.begin(), seen_.end(), Entry{slot, sequence_id}) != seen_.end();
}

void AbortList::remove(int32_t slot, int32_t sequence_id) {
  const Entry entry{slot, sequence_id};
  std::erase(seen_, entry);
  const std::lock_guard lock(mutex_);
  std::erase(entries_, entry);
}

}  // namespace longhaul
