#include "simt/access_set.h"

#include <algorithm>
#include <cstddef>

namespace longhaul::simt {

void AccessSets::begin_block(uint32_t num_threads) {
  num_threads_ = num_threads;
  forget_all();
}

void AccessSets::forget_all() { num_lists_ = num_arrays_ = 0; }

AccessSet AccessSets::new_list() {
  if (num_lists_ == lists_.size()) lists_.resize(std::max<size_t>(64, 2 * lists_.size()));
  lists_[num_lists_].count = 0;
  return ++num_lists_;
}

AccessSet AccessSets::new_array() {
  const size_t end = (num_arrays_ + size_t{1}) * num_threads_;
  if (arrays_.size() < end) arrays_.resize(std::max(end, 2 * arrays_.size()));
  std::fill(arrays_.begin() + static_cast<ptrdiff_t>(end - num_threads_),
            arrays_.begin() + static_cast<ptrdiff_t>(end), Access());
  return kArrayBit | num_arrays_++;
}

AccessSet AccessSets::add(AccessSet set, const Access& access) {
  if (set & kArrayBit) {
    array(set)[access.thread] = access;
    return set;
  }
  if (set == 0) set = new_list();
  List& list = lists_[set - 1];
  for (uint32_t i = 0; i < list.count; ++i) {
    if (list.accesses[i].thread == access.thread) {
      list.accesses[i] = access;
      return set;
    }
  }
  if (list.count < kListMax) {
    list.accesses[list.count++] = access;
    return set;
  }
  const AccessSet larger = new_array();
  for (const Access& member : list.accesses) array(larger)[member.thread] = member;
  array(larger)[access.thread] = access;
  return larger;
}

AccessSet AccessSets::copy(AccessSet set) {
  if (set == 0) return 0;
  if (set & kArrayBit) {
    const AccessSet twin = new_array();
    std::copy_n(array(set), num_threads_, array(twin));
    return twin;
  }
  const AccessSet twin = new_list();
  lists_[twin - 1] = lists_[set - 1];
  return twin;
}

Access AccessSets::unordered(AccessSet set, uint32_t thread, const Clocks& clocks) const {
  if (set == 0) return {};
  const bool is_array = (set & kArrayBit) != 0;
  const Access* const accesses = is_array ? array(set) : lists_[set - 1].accesses;
  const uint32_t count = is_array ? num_threads_ : lists_[set - 1].count;
  for (uint32_t i = 0; i < count; ++i) {
    const Access& access = accesses[i];
    if (access.clock != 0 && !clocks.knows(thread, access.thread, access.clock)) return access;
  }
  return {};
}

}  // namespace longhaul::simt
