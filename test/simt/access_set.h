// Sets of accesses to one place in shared memory: threads that have read it, or changed it
// atomically, since its last write in this interval. Few members are kept in a list, many in an
// array by thread; all sets are forgotten together when an interval ends.
#pragma once

#include <cstdint>
#include <vector>

#include "simt/clocks.h"

namespace longhaul::simt {

struct Access {
  uint32_t thread = 0;
  uint32_t clock = 0;  // 0: none
  int32_t site = 0;    // shadow.h
};

// 0 is the empty set.
using AccessSet = uint32_t;

class AccessSets {
 public:
  void begin_block(uint32_t num_threads);
  void forget_all();
  // Adds or renews the thread's access. Returns the set's name, which may have changed.
  AccessSet add(AccessSet set, const Access& access);
  // add() where it takes no search: false, and nothing done, if the set is a list.
  bool renew_in_array(AccessSet set, const Access& access) {
    if (!(set & kArrayBit)) return false;
    array(set)[access.thread] = access;
    return true;
  }
  AccessSet copy(AccessSet set);
  // The first access that the thread may not rely on; a clock of 0 if there is none.
  Access unordered(AccessSet set, uint32_t thread, const Clocks& clocks) const;

 private:
  static constexpr uint32_t kListMax = 15;  // lanes of 15 warps that read one row by ldmatrix
  static constexpr uint32_t kArrayBit = 1u << 31;
  struct List {
    uint32_t count = 0;
    Access accesses[kListMax];
  };

  AccessSet new_list();
  AccessSet new_array();
  Access* array(AccessSet set) { return &arrays_[uint64_t{set & ~kArrayBit} * num_threads_]; }
  const Access* array(AccessSet set) const {
    return &arrays_[uint64_t{set & ~kArrayBit} * num_threads_];
  }

  uint32_t num_threads_ = 0;
  uint32_t num_lists_ = 0, num_arrays_ = 0;  // in use
  std::vector<List> lists_;                  // list i is set i + 1
  std::vector<Access> arrays_;               // [array][thread]
};

}  // namespace longhaul::simt
