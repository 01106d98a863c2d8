#include "simt/clocks.h"

#include <algorithm>

namespace longhaul::simt {
namespace {

constexpr uint32_t kLanes = 32;

void raise(std::vector<uint32_t>& known, const std::vector<uint32_t>& from, uint32_t width) {
  uint32_t* const to = known.data();
  const uint32_t* const other = from.data();
  for (uint32_t i = 0; i < width; ++i) to[i] = std::max(to[i], other[i]);
}

}  // namespace

void Clocks::begin_block(uint32_t num_threads) {
  num_threads_ = num_threads;
  width_ = (num_threads + 1 + 15) / 16 * 16;
  first_interval_ = ++interval_;
  clock_.assign(width_, 1);
  if (lane_.size() < num_threads) lane_.resize(num_threads);
  if (warp_.size() < num_threads / kLanes) warp_.resize(num_threads / kLanes);
}

void Clocks::renew(ClockSet& set) {
  set.interval = interval_;
  set.known.assign(width_, 0);
}

bool Clocks::knows(uint32_t thread, uint32_t other, uint32_t clock) const {
  if (thread == other) return true;
  if (is_current(lane_[thread])) return lane_[thread].known[other] >= clock;
  const ClockSet& warp = warp_[thread / kLanes];
  return is_current(warp) && warp.known[other] >= clock;
}

void Clocks::warp_barrier(uint32_t warp) {
  ClockSet& shared = warp_[warp];
  if (!is_current(shared)) renew(shared);
  const uint32_t first = warp * kLanes;
  for (uint32_t thread = first; thread < first + kLanes; ++thread) {
    if (is_current(lane_[thread])) {
      raise(shared.known, lane_[thread].known, width_);
      lane_[thread].interval = 0;
    }
    shared.known[thread] = clock_[thread]++;
  }
}

void Clocks::release(uint32_t thread, ClockSet& into) {
  if (!is_current(into)) renew(into);
  if (is_current(lane_[thread])) {
    raise(into.known, lane_[thread].known, width_);
  } else if (is_current(warp_[thread / kLanes])) {
    raise(into.known, warp_[thread / kLanes].known, width_);
  }
  into.known[thread] = clock_[thread]++;
}

void Clocks::acquire(uint32_t thread, const ClockSet& from) {
  if (!is_current(from)) return;
  ClockSet& own = lane_[thread];
  if (!is_current(own)) {
    const ClockSet& warp = warp_[thread / kLanes];
    if (is_current(warp)) {
      own = warp;
    } else {
      renew(own);
    }
  }
  raise(own.known, from.known, width_);
}

void Clocks::merge(const ClockSet& from, ClockSet& into) {
  if (!is_current(from)) return;
  if (!is_current(into)) renew(into);
  raise(into.known, from.known, width_);
}

uint32_t Clocks::release_agent(ClockSet& into) {
  if (!is_current(into)) renew(into);
  return into.known[num_threads_] = clock_[num_threads_]++;
}

}  // namespace longhaul::simt
