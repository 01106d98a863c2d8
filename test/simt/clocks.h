// Who knows what of whom: vector clocks of one block's threads, the order that barriers make.
//
// A thread's clock ticks whenever it publishes (arrives somewhere). Thread t's access at clock c
// happened before what thread u does now if u has since learned of a clock of t later than c or,
// far more often, if a barrier of the whole block came between. Such barriers therefore only start
// a new interval, before which everything is known to everyone; clock sets are kept for the other
// ways to synchronize within an interval, and lanes that have learned nothing on their own share
// their warp's set.
#pragma once

#include <cstdint>
#include <vector>

namespace longhaul::simt {

// What its owner knows: per thread, the clock up to which that thread's accesses are in the past.
// Meaningful in its interval only; in a later one it adds nothing.
struct ClockSet {
  uint32_t interval = 0;
  std::vector<uint32_t> known;
};

class Clocks {
 public:
  // Threads are 0 .. num_threads - 1; the bulk copies count as one more (agent()).
  void begin_block(uint32_t num_threads);

  uint32_t interval() const { return interval_; }
  // Intervals below this one belong to earlier blocks.
  uint32_t first_interval() const { return first_interval_; }
  uint32_t agent() const { return num_threads_; }
  uint32_t now(uint32_t thread) const { return clock_[thread]; }

  // Whether `thread` may rely on what `other` did at `clock` in this interval.
  bool knows(uint32_t thread, uint32_t other, uint32_t clock) const;

  void block_barrier() { ++interval_; }
  void warp_barrier(uint32_t warp);
  // The thread publishes all it knows and did into the set.
  void release(uint32_t thread, ClockSet& into);
  void acquire(uint32_t thread, const ClockSet& from);
  // Adds what is known in `from` to `into`.
  void merge(const ClockSet& from, ClockSet& into);
  // The bulk copies publish what has landed: its clock, for the writes, known to the set's readers.
  uint32_t release_agent(ClockSet& into);

 private:
  void renew(ClockSet& set);
  bool is_current(const ClockSet& set) const { return set.interval == interval_; }

  uint32_t num_threads_ = 0;
  uint32_t width_ = 0;  // entries of a set
  uint32_t interval_ = 0;
  uint32_t first_interval_ = 0;
  std::vector<uint32_t> clock_;  // per thread and the agent; at least 1
  std::vector<ClockSet> lane_;   // current only if the lane knows more than its warp
  std::vector<ClockSet> warp_;
};

}  // namespace longhaul::simt
