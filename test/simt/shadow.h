// Shadow of one block's shared memory: which bytes were ever written, by whom and when they were
// last touched, which are the target of a copy under way, which are mbarriers. Each access is
// compared with the past (clocks.h); one that nothing orders is a race.
//
// Granules of four bytes, what most accesses are made of. One that is accessed in part is split
// into its bytes until it is next written whole, so that neighboring 8- and 16-bit elements of
// different threads are told apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <vector>

#include "simt/access_set.h"
#include "simt/clocks.h"
#include "simt/shared.h"

namespace longhaul::simt {

class Block;
struct Thread;

class Shadow {
 public:
  void begin_block(Block& block);
  // After Clocks has begun a new interval.
  void interval_begun() { sets_.forget_all(); }

  // Faults the launch if the access is out of bounds, misaligned or wrong in any other way above.
  void access(Thread& self, const std::byte* address, uint32_t bytes, uint32_t alignment,
              AccessKind kind, std::source_location site);

  // A copy to here begins: counts as a write of the issuing thread, which must be ordered after
  // all earlier accesses; until landed(), any access is a fault.
  void copy_begins(Thread& self, const std::byte* address, uint32_t bytes, bool bulk,
                   std::source_location site);
  // The copy is done, as a write by `writer` (a thread or the agent) at its `clock`.
  void copy_landed(const std::byte* address, uint32_t bytes, uint32_t writer, uint32_t clock,
                   std::source_location site);

  // Eight bytes become an mbarrier (a write of the initializing thread).
  void mbarrier_begins(Thread& self, const std::byte* address, std::source_location site);
  // Use of the mbarrier must be ordered after its initialization.
  void mbarrier_used(Thread& self, const std::byte* address, std::source_location site);

  // fence_async_proxy by the thread.
  void proxy_fence(uint32_t thread) { last_fence_[thread] = ++num_fences_; }

 private:
  enum Flag : uint8_t { kInFlight = 1, kMbarrier = 2, kSplit = 4, kUnfenced = 8 };

  // History of a granule or, when split, of a byte. Clocks count in interval `tag`; in a later one
  // all that is known is in the past.
  struct Cell {
    uint32_t tag = 0;
    uint32_t write_clock = 0, read_clock = 0;  // 0: none in this interval
    int32_t write_site = 0, read_site = 0;
    AccessSet readers = 0;  // when more than one: all of them
    AccessSet atomics = 0;
    uint32_t write_fences = 0;  // num_fences_ at the last ordinary write
    uint16_t writer = 0, reader = 0;
    uint8_t written = 0;  // granules: bit a byte
    uint8_t flags = 0;    // granules
  };

  void check_range(Thread& self, const std::byte* address, uint32_t bytes, uint32_t alignment,
                   const char* verb, std::source_location site);
  // Notes the read of a whole granule in the common case, that nothing but reads has happened to
  // it in this interval. False if there is more to it.
  bool read_again(Cell& cell, const Access& read);
  void refresh(Cell& cell);
  void split(uint32_t granule);
  void access_granule(Thread& self, uint32_t granule, uint32_t mask, AccessKind kind, int32_t site);
  void access_cell(Thread& self, Cell& cell, uint32_t offset, AccessKind kind, int32_t site);
  void read_cell(Thread& self, Cell& cell, uint32_t offset, int32_t site);
  void check_write(Thread& self, Cell& cell, uint32_t offset, const char* verb, int32_t site);
  void set_write(Cell& cell, uint32_t writer, uint32_t clock, int32_t site);
  void not_ordinary(Thread& self, const Cell& cell, uint32_t offset, const char* verb,
                    int32_t site);
  [[noreturn]] void race(Thread& self, uint32_t offset, const char* verb, const char* earlier,
                         uint32_t other, int32_t other_site, int32_t site);

  Block* block_ = nullptr;
  Clocks* clocks_ = nullptr;
  std::vector<Cell> granules_;
  std::vector<Cell> bytes_;  // of split granules; allocated when the first is split
  AccessSets sets_;
  uint32_t num_fences_ = 0;
  std::vector<uint32_t> last_fence_;  // per thread
};

}  // namespace longhaul::simt
