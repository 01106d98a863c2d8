// mbarrier objects (PTX ISA 9.7.13.15): arrivals and bytes that complete a phase. Their eight bytes
// of shared memory are opaque; the state is kept here, by address.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <vector>

#include "simt/async_copy.h"
#include "simt/clocks.h"

namespace longhaul::simt {

class Block;
struct Thread;

struct Mbarrier {
  std::byte* address = nullptr;
  uint32_t arrivals = 0;                   // that a phase expects
  uint32_t pending = 0;                    // still to come in this phase
  int64_t bytes = 0;                       // announced less landed
  uint32_t phase = 0;                      // phases completed
  uint32_t initializer = 0;                // thread id
  bool fenced = false;                     // fence_mbarrier_init since
  std::source_location site;               // of the initialization
  std::vector<uint32_t> waiting;           // thread ids
  ClockSet arriving;                       // published by this phase's arrivals
  ClockSet completed;                      // by those of completed phases
  std::vector<PendingBulkCopy> landed;     // in this phase
  std::vector<PendingBulkCopy> unawaited;  // in completed phases that no thread has waited for
};

class Mbarriers {
 public:
  void reset() { table_.clear(); }
  void init(Thread& self, std::byte* address, uint32_t arrivals, std::source_location site);
  void fence_init(Thread& self);
  // Index of the object at the address; a fault if there is none.
  uint32_t find(Thread& self, std::byte* address, std::source_location site);
  void arrive(Thread& self, uint32_t index, uint32_t expected_bytes, std::source_location site);
  void wait(Thread& self, uint32_t index, uint32_t parity, std::source_location site);
  // A bulk copy's bytes are in shared memory; nobody may look at them before a wait.
  void bytes_landed(Block& block, const PendingBulkCopy& copy);
  // Bulk copies see an mbarrier only after its initialization was fenced.
  void check_bulk_use(Thread& self, uint32_t index, std::source_location site);
  // A landed copy that no wait has made sure of; null if there is none.
  const PendingBulkCopy* unawaited() const;

 private:
  void complete_if_done(Block& block, Mbarrier& barrier);
  void acquire(Thread& self, Mbarrier& barrier);

  std::vector<Mbarrier> table_;  // grows at initializations only
};

}  // namespace longhaul::simt
